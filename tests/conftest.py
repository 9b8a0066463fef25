"""What the tests share: a tiny module, a trainer without frills, and a record of what was used."""

import gc
import json
import logging
import os
import textwrap
from functools import partial
from unittest import mock

import lightning_utilities.core.rank_zero as rank_zero
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from forks import ROOT, run

# Two processes of tests must not wait for each other's threads.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# What the tests start finds `saboteurs`, `experiments` and, at its start, `sitecustomize`.
paths = [str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

sgd = partial(torch.optim.SGD, lr=0.4, momentum=0.9)


def snapshot(optimizer):
    """Return (lr, momentum, weight decay) of each group, as plain numbers or None."""
    rows = []
    for group in optimizer.param_groups:
        momentum = group["betas"][0] if "betas" in group else group.get("momentum")
        rows.append(
            (
                float(group["lr"]),
                None if momentum is None else float(momentum),
                group.get("weight_decay"),
            )
        )
    return rows


def expected(schedule, total, peak=0.4):
    """Return (lr, momentum) at each step, worked out from the schedule alone."""
    return [(peak * point.lr, point.momentum) for point in schedule.trace(total)]


class Used(Callback):
    """Records what each optimizer step used; ``fit`` returns one."""

    def __init__(self):
        self.trainer = None
        self.steps = []  # snapshots, all optimizers in one list
        self.optimizers = []  # whose step it was

    def on_fit_start(self, trainer, pl_module):
        self.trainer = trainer

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.steps.append(snapshot(optimizer))
        self.optimizers.append(optimizer)

    @property
    def values(self):
        """(lr, momentum) of the first group at each step."""
        return [groups[0][:2] for groups in self.steps]

    @property
    def lrs(self):
        return [groups[0][0] for groups in self.steps]

    def of(self, index):
        """(lr, momentum) at each step of one of several optimizers."""
        owner = self.trainer.optimizers[index]
        pairs = zip(self.steps, self.optimizers, strict=True)
        return [groups[0][:2] for groups, optimizer in pairs if optimizer is owner]


class Tiny(LightningModule):
    """Two weights; the data of a step depend on the step alone, whatever the loader does."""

    def __init__(self, optimizer=sgd):
        super().__init__()
        self.make_optimizer = optimizer
        self.net = torch.nn.Linear(2, 1)
        torch.nn.init.constant_(self.net.weight, 0.5)
        torch.nn.init.zeros_(self.net.bias)

    def loss(self):
        angle = torch.tensor(float(self.trainer.global_step))
        return self.net(torch.stack([angle.sin(), angle.cos()])).square().mean()

    def training_step(self, batch, batch_idx):
        return self.loss()

    def configure_optimizers(self):
        return self.make_optimizer(self.parameters())


def quiet_trainer(*callbacks, **arguments):
    checkpoints = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": checkpoints,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(callbacks=list(callbacks), **{**defaults, **arguments})


def loader(batches):
    return DataLoader(torch.arange(batches).float())


def fit(module, *callbacks, data=12, ckpt_path=None, **arguments):
    """Train, and return the `Used`; ``data`` is a number of batches, or what ``fit`` takes."""
    used = Used()
    trainer = quiet_trainer(*callbacks, used, **arguments)
    trainer.fit(module, loader(data) if isinstance(data, int) else data, ckpt_path=ckpt_path)
    return used


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # what is there now stays; no later search for garbage goes through it


@pytest.fixture(autouse=True)
def _environment():
    """Take back what Lightning writes to it, such as a port that two later runs would share."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture
def said(caplog, monkeypatch):
    """Return a function that lists what Lightning and the package have said so far."""
    # Whose logger this is depends on Lightning's release.
    log = rank_zero.log
    monkeypatch.setattr(log, "propagate", False)
    log.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger=log.name):
        yield lambda: list(caplog.messages)
    log.removeHandler(caplog.handler)


@pytest.fixture
def told(said):
    """Return a function that lists what the user has been told of schedules so far."""
    return lambda: [message for message in said() if "chedule" in message]


def python(folder, code, *arguments, anew=False):
    """Run a script in a process of its own, and return the lines of it that begin with SAYS.

    Args:
        folder: Where it is written, and run.
        code: The script.
        arguments: Of its command line.
        anew: Whether it has an interpreter of its own; it is a fork otherwise.
    """
    script = folder / "main.py"
    script.write_text(textwrap.dedent(code))
    code, output = run(*arguments, program=script, cwd=folder, anew=anew)
    assert code == 0, output
    return [line for line in output.splitlines() if line.startswith("SAYS")]


def two_processes(folder, code):
    """Run a script that Lightning starts again for rank 1; return the result.RANK of each."""
    python(folder, code)
    return [json.loads((folder / f"result.{rank}").read_text()) for rank in (0, 1)]
