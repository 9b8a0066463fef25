"""What an LR range test leaves behind, and what it runs under: ours and Lightning's, item by item.

    python -m experiments.benchmarks.finder_traces

Each item is a small experiment on a net of some 50 weights, made for either tuner in the same way.
``update_attr`` is off, so that neither is to change anything, except where the defaults are asked
about. The table is printed, and written to ``results/finder_traces.md``.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import math
import random
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import lightning.pytorch.tuner
import numpy as np
import torch
from lightning.pytorch import (
    LightningDataModule,
    Trainer,
    seed_everything,
)
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from omegaconf import OmegaConf
from torch.optim import SGD

import lightning_onecycle
from experiments.benchmarks.finder_toys import (
    HIGHEST,
    LOWEST,
    SEEN,
    STEPS,
    Data,
    Held,
    Line,
    Net,
    Order,
    Steps,
    forget,
    loader,
    one_cycle,
    reads_steps,
    two_groups,
    with_generator,
)
from experiments.benchmarks.results import keep
from experiments.rows import markdown, quiet

TUNERS: dict[str, Any] = {
    "lightning_onecycle": lightning_onecycle.Tuner,
    "Lightning's Tuner": lightning.pytorch.tuner.Tuner,
}
# ---- running it ---------------------------------------------------------------------------------


def build(
    net: Any = Net,
    data: Any = loader,
    callbacks: Any = list,
    logger: Any = bool,
    seed: int = 1,
    **arguments: Any,
) -> SimpleNamespace:
    """Return a module, its data and its trainer, new ones that are the same each time."""
    seed_everything(seed, verbose=False)
    trainer = Trainer(
        **{"accelerator": "cpu", "max_epochs": 2, "default_root_dir": SEEN.folder, **arguments},
        **{"callbacks": callbacks(), "logger": logger(), "enable_model_summary": False},
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks()),
        enable_progress_bar=False,
    )
    return SimpleNamespace(module=net(), data=data(), trainer=trainer)


def find(kind: str, run: SimpleNamespace, error: Any = None, **options: Any) -> Any:
    """Run the range test, which fails in the middle if an error is given."""
    forget()
    SEEN.error = error
    where = "datamodule" if isinstance(run.data, LightningDataModule) else "train_dataloaders"
    defaults = {"min_lr": LOWEST, "max_lr": HIGHEST, "num_training": STEPS, where: run.data}
    defaults |= {"early_stop_threshold": None, "update_attr": False}
    curve = None
    try:
        curve = TUNERS[kind](run.trainer).lr_find(run.module, **{**defaults, **options})
    except (ArithmeticError, KeyboardInterrupt, SystemExit):
        if error is None:
            raise
    SEEN.error = None
    assert (curve is None) == (error is not None)
    return curve


def train(run: SimpleNamespace, **arguments: Any) -> list[float]:
    """Train, and return the losses."""
    forget()
    run.trainer.fit(run.module, run.data, **arguments)
    return SEEN.losses


# ---- nothing is left behind ---------------------------------------------------------------------


def same(kind: str, error: Any = None, **setup: Any) -> bool:
    """Whether a training has, number for number, the losses that it has without the test."""
    without = train(build(**setup))
    run = build(**setup)
    find(kind, run, error)
    return train(run) == without


def resumed(kind: str) -> bool:
    """The same where a checkpoint is resumed from."""
    first, path = build(max_epochs=1), Path(SEEN.folder) / "first.ckpt"
    train(first)
    first.trainer.save_checkpoint(path)
    without = train(build(), ckpt_path=path)
    run = build()
    find(kind, run)
    return train(run, ckpt_path=path) == without and run.trainer.global_step == 12


def kept(look: Any, kind: str, error: Any = None, **setup: Any) -> bool:
    """Whether what is looked at is the same before and after the test."""
    run = build(**setup)
    before = look(run)
    find(kind, run, error)
    return look(run) == before


def _weights(run: Any) -> Any:
    return {name: value.tolist() for name, value in run.module.state_dict().items()}


def _optimizer(run: Any) -> Any:
    state = run.module.own.state_dict()
    return state["param_groups"], [s["momentum_buffer"].tolist() for s in state["state"].values()]


def _limits(run: Any) -> Any:
    return run.trainer.limit_val_batches, run.trainer.max_steps, run.trainer.max_epochs


def _around(run: Any) -> Any:
    return list(run.trainer.callbacks), list(run.trainer.loggers), _limits(run)


def _random_numbers(run: Any) -> Any:
    numpy: Any = np.random.get_state()  # noqa: NPY002
    return random.getstate(), numpy[1].tolist(), numpy[2:], torch.get_rng_state().tolist()


# ---- the conditions are those of the training ---------------------------------------------------


def under(holds: Any, kind: str, options: Any = None, **setup: Any) -> bool:
    """Whether something holds of what is seen in a test, or of its results."""
    results = find(kind, build(**{"max_epochs": 20, **setup}), **(options or {})).results
    rates = [groups[0][0] for groups in SEEN.steps]
    vars(SEEN).update(rates=rates, told=list(results["lr"]), curve=results["loss"])
    return len(rates) > 2 and holds(SEEN)


def _evenly(seen: Any) -> bool:
    step = (HIGHEST / LOWEST) ** (1 / (STEPS - 1))
    return all(_close(b / a, step) for a, b in itertools.pairwise(seen.rates))


def _close(value: float, wanted: float, tolerance: float = 1e-6) -> bool:
    return math.isclose(value, wanted, rel_tol=tolerance)


def _column(seen: Any, index: int) -> set[float]:
    return {groups[0][index] for groups in seen.steps}


def true_reason(kind: str) -> bool:
    """Whether a test says that the loss diverged where it did, and not where data were few."""
    log, said = logging.getLogger("lightning.pytorch.tuner.lr_finder"), []
    rising = {"net": partial(Net, None, lambda k: 2 - 0.1 * k if k < 10 else 2.0 * 3 ** (k - 10))}
    for setup in (rising | {"max_epochs": 20}, {"net": _CONSTANT, "max_epochs": 1}):
        told: list[str] = []  # Lightning says it in its log alone
        with mock.patch.object(log, "info", told.append):
            curve = find(kind, build(**setup), num_training=30, early_stop_threshold=4.0)
        said.append("diverg" in getattr(curve, "stopped", "".join(told)))
    return said == [True, False]


def no_attribute(kind: str) -> bool:
    """Whether a test runs, all by default, on a module without ``lr``."""
    return bool(TUNERS[kind]((run := build()).trainer).lr_find(run.module, run.data).results)


def near_the_best(batch_size: int, kind: str) -> bool:
    """Whether the suggestion, all by default, is near what is best for 16 steps, for 3 seeds."""
    data, batch = partial(loader, batch_size, 64), next(iter(loader(64, 64)))
    for seed in range(3):
        losses = {}
        for lr in [10 ** (k / 4) for k in range(-16, 3)]:
            run = build(partial(Line, lr), data, seed=seed, max_epochs=batch_size // 4)
            run.trainer.fit(run.module, run.data)
            losses[lr] = run.module.training_step(batch, 0).nan_to_num(math.inf).item()
        best = min(losses, key=lambda lr: losses[lr])
        run = build(Line, data, max_epochs=60, seed=seed)
        suggested = TUNERS[kind](run.trainer).lr_find(run.module, run.data).suggestion()
        if not best / 10 <= (suggested or 0.0) <= best * 10:
            return False
    return True


# ---- the items ----------------------------------------------------------------------------------

_FAILS, _CTRL_C = ArithmeticError(), KeyboardInterrupt()
_LITTER = {"callbacks": lambda: [ModelCheckpoint()], "logger": lambda: CSVLogger(SEEN.folder)}
_COUNTED = {"callbacks": lambda: [Steps()]}
_BY_CALLBACK = {"callbacks": lambda: [GradientAccumulationScheduler({0: 3})]}
_OMEGACONF = {"net": lambda: Net(cfg=OmegaConf.create({"lr": 0.05}))}
_PARTIAL = {"net": lambda: Net(make=partial(SGD, lr=0.05))}
_CONSTANT = partial(Net, None, lambda k: 1.0)
_WINDOWS = {"net": partial(Net, None, lambda k: 1.0 + k % 3), "accumulate_grad_batches": 3}
_NAN = {"net": partial(Net, None, lambda k: math.nan if k == 5 else 1.0)}
_VALIDATION = {"options": {"val_dataloaders": loader()}, "limit_val_batches": 0}


def _of_three(seen: Any) -> bool:
    return len(seen.batches) == 3 * len(seen.steps)


TRACES: dict[str, Callable[..., bool]] = {
    "losses of the training": same,
    "losses, `estimated_stepping_batches` is read": partial(same, net=partial(Net, reads_steps)),
    "losses, the loader has its own generator": partial(same, data=with_generator),
    "losses, after an exception in mid-test": partial(same, error=_FAILS),
    "losses, after Ctrl-C in mid-test": partial(same, error=_CTRL_C),
    "losses, resumed from a checkpoint": resumed,
    "losses, OmegaConf in the hyperparameters": partial(same, **_OMEGACONF),
    "losses, a partial in the hyperparameters": partial(same, **_PARTIAL),
    "weights": partial(kept, _weights),
    "no gradients": partial(kept, lambda r: [p.grad is None for p in r.module.parameters()]),
    "buffers that are not saved": partial(kept, lambda r: r.module.counted.item()),
    "plain attributes of the module": partial(kept, lambda r: r.module.calls),
    "state of a metric (torchmetrics)": partial(kept, lambda r: r.module.mean.weight.item()),
    "state of an optimizer that the module holds": partial(kept, _optimizer, net=Held),
    "random numbers of Python, NumPy, torch": partial(kept, _random_numbers),
    "random numbers, after an exception": partial(kept, _random_numbers, error=_FAILS),
    "generators of loaders": partial(
        kept, lambda r: r.data.generator.get_state().tolist(), data=with_generator
    ),
    "epoch that a sampler counts": partial(
        kept, lambda r: r.data.sampler.epoch, data=lambda: loader(sampler=Order())
    ),
    "`global_step`, `current_epoch`": partial(
        kept, lambda r: (r.trainer.global_step, r.trainer.current_epoch)
    ),
    "state of callbacks": partial(kept, lambda r: r.trainer.callbacks[0].calls, **_COUNTED),
    "list of callbacks": partial(kept, lambda r: list(r.trainer.callbacks), **_COUNTED),
    "loggers": partial(kept, lambda r: list(r.trainer.loggers), **_LITTER),
    "`limit_val_batches`, `max_steps`, `max_epochs`": partial(kept, _limits, max_steps=50),
    "callbacks, loggers, limits, after an exception": partial(
        kept, _around, error=_FAILS, **_LITTER
    ),
    "files and folders": partial(kept, lambda r: [*Path(SEEN.folder).rglob("*")], **_LITTER),
    "`on_save_checkpoint` is not called": partial(kept, lambda r: vars(SEEN).get("saved")),
}
CONDITIONS: dict[str, Callable[..., bool]] = {
    "batch size of a data module": partial(under, lambda s: set(s.batches) == {6}, data=Data),
    "accumulation": partial(under, _of_three, accumulate_grad_batches=3),
    "accumulation by `GradientAccumulationScheduler`": partial(under, _of_three, **_BY_CALLBACK),
    "gradient clipping": partial(
        under, lambda s: 0 < max(s.norms) < 0.00101, gradient_clip_val=0.001
    ),
    "weight decay": partial(under, lambda s: _column(s, 2) == {0.01}),
    "ratio of parameter groups": partial(
        under,
        lambda s: all(_close(b[0] / a[0], 0.1) for a, b in s.steps),
        net=partial(Net, two_groups),
    ),
    "callbacks take part": partial(under, lambda s: s.callback == len(s.batches), **_COUNTED),
    "precision": partial(under, lambda s: s.dtypes == {torch.bfloat16}, precision="bf16-mixed"),
    "momentum is that at the schedule's peak": partial(
        under, lambda s: _column(s, 1) == {0.85}, net=partial(Net, one_cycle)
    ),
    "no validation, with `limit_val_batches=0`": partial(
        under, lambda s: s.validated == 0, **_VALIDATION
    ),
    "loss is the mean of the accumulated batches, to 10 %": partial(
        under, lambda s: _close(s.curve[-1], 2.0, 0.1), **_WINDOWS
    ),
    "a constant loss is a flat curve": partial(
        under, lambda s: all(_close(loss, 1.0) for loss in s.curve), net=_CONSTANT
    ),
    "first rate is `min_lr`": partial(under, lambda s: s.rates[0] == LOWEST),
    "last rate is `max_lr`": partial(under, lambda s: _close(s.rates[-1], HIGHEST)),
    "rates are evenly spaced": partial(under, _evenly),
    "rates reported are those used": partial(under, lambda s: s.rates == s.told),
    "a short loader is gone over again": partial(
        under, lambda s: len(s.rates) == STEPS, max_epochs=1
    ),
    "stops at the first NaN": partial(under, lambda s: len(s.batches) == 6, **_NAN),
    "says that it diverged where it did, and only there": true_reason,
    "needs no attribute `lr`": no_attribute,
    "suggestion within a factor 10 of the best, line, batches of 32": partial(near_the_best, 32),
    "suggestion within a factor 10 of the best, line, batches of 8": partial(near_the_best, 8),
}


def outcome(check: Callable[..., bool], kind: str) -> str:
    """Return "yes", "no" or what the experiment raises."""
    handler = signal.getsignal(signal.SIGINT)
    forget()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        SEEN.folder = folder
        try:
            return "yes" if check(kind=kind) else "no"
        except Exception as error:
            return f"raises {type(error).__name__}"
        finally:
            signal.signal(signal.SIGINT, handler)


def main() -> None:
    """Run all experiments, and print and write the table."""
    quiet()
    items = {**TRACES, **CONDITIONS}.items()
    rows = [{"item": name} | {k: outcome(check, k) for k in TUNERS} for name, check in items]
    keep("finder_traces", rows, markdown(rows))


if __name__ == "__main__":
    main()
