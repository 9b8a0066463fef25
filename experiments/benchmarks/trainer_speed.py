"""Steps per second with OneCycle in Lightning's trainer, with OneCycleLR in it, and without it.

    python -m experiments.benchmarks.trainer_speed

The same net on the same batches, with the same module and TensorBoard logger in each trainer: with
no schedule; with torch's OneCycleLR or with ours from ``configure_optimizers``, and the monitor
that logs every fiftieth step; and with the callback of this project, which logs about 100 steps of
a training, however long, and draws the schedule. Beside them stands a loop with OneCycleLR that
logs nothing. They take turns, after one round that is not counted, and the medians are printed.

The clock runs from the first batch's start to the end of the training; what a fit takes besides,
before and after, has a column of its own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from experiments.benchmarks import bare
from experiments.benchmarks.regret.tasks import TASKS, build
from experiments.benchmarks.results import keep
from experiments.benchmarks.trainers import quiet_trainer
from experiments.data.base import InMemoryDataModule
from experiments.rows import Row, markdown, quiet
from lightning_onecycle import OneCycle, one_cycle, scheduler_config

PEAK = 0.05
STEPS = {"digits-mlp_bn-sgd": 1000, "fashion-resnet-sgd": 200}
"""Optimizer steps of a training, for tasks of ``regret``: a tiny net, and a small convolutional."""
BARE, PLAIN = "bare loop, OneCycleLR", "Trainer, no schedule"
THEIRS, OURS = "Trainer, OneCycleLR and LearningRateMonitor", "Trainer, OneCycle"
SCHEDULER = "Trainer, ScheduleLR and LearningRateMonitor"
LOOPS = (BARE, PLAIN, THEIRS, SCHEDULER, OURS)


class Module(LightningModule):
    """Train ``net`` and log the loss.

    Args:
        net: From images to logits.
        configure: Returns what ``configure_optimizers`` is to return.
    """

    def __init__(self, net: nn.Module, configure: Callable[[], Any]) -> None:
        super().__init__()
        self.net, self.configure_optimizers = net, configure

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        images, labels = batch
        loss = cross_entropy(self.net(images), labels)
        self.log("train/loss", loss)
        return loss


class Took(NamedTuple):
    """Seconds of a training: of its steps, on the clock and of the processor, and of the rest."""

    clock: float
    processor: float
    rest: float = 0.0


class Clock(Callback):
    """Runs from the start of the first batch to the end of the training."""

    def __init__(self) -> None:
        self.began: tuple[float, float] | None = None

    def on_train_batch_start(self, *_: Any) -> None:
        """Start with the first batch."""
        if self.began is None:
            self.began = time.perf_counter(), time.process_time()

    def on_train_end(self, *_: Any) -> None:
        """Stop."""
        clock, processor = self.began or (0.0, 0.0)
        self.took = Took(time.perf_counter() - clock, time.process_time() - processor)


def one_cycle_lr(optimizer: Optimizer, steps: int) -> dict[str, Any]:
    """Return torch's schedule as Lightning takes it from ``configure_optimizers``."""
    scheduler = OneCycleLR(optimizer, max_lr=PEAK, total_steps=steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def loop(net: nn.Module, optimizer: Optimizer, data: InMemoryDataModule, steps: int) -> Took:
    """Take the steps in a loop that does nothing else."""
    scheduler = OneCycleLR(optimizer, max_lr=PEAK, total_steps=steps)
    clock = Clock()
    clock.on_train_batch_start()
    for _ in bare.train(net, optimizer, data, steps):
        scheduler.step()
    clock.on_train_end()
    return clock.took


def fit(module: Module, data: InMemoryDataModule, steps: int, *callbacks: Callback) -> Took:
    """Take the steps in a trainer that logs to TensorBoard."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = quiet_trainer(
            clock,
            *callbacks,
            max_epochs=-1,
            max_steps=steps,
            limit_val_batches=0,
            logger=TensorBoardLogger(folder),
        )
        began = time.perf_counter()
        trainer.fit(module, datamodule=data)
        whole = time.perf_counter() - began
    return clock.took._replace(rest=whole - clock.took.clock)


def train(name: str, task_name: str, steps: int, seed: int) -> Took:
    """Train once.

    Args:
        name: One of `LOOPS`.
        task_name: One of the tasks of ``regret``.
        steps: Optimizer steps.
        seed: Of the net and of the order of the images.
    """
    task = next(task for task in TASKS if task.name == task_name)
    classifier, data = build(task, seed, lr=PEAK)
    data.setup("fit")
    net, make = classifier.net, classifier.configure_optimizers
    monitor = LearningRateMonitor("step", log_momentum=True, log_weight_decay=True)
    if name == BARE:
        return loop(net, make(), data, steps)
    if name == PLAIN:
        return fit(Module(net, make), data, steps)
    if name == THEIRS:
        return fit(Module(net, lambda: one_cycle_lr(make(), steps)), data, steps, monitor)
    if name == SCHEDULER:
        configure = partial(scheduler_config, schedule=one_cycle(), total_steps=steps)
        return fit(Module(net, lambda: configure(make())), data, steps, monitor)
    return fit(Module(net, make), data, steps, OneCycle())


def measure(task_name: str, steps: int, rounds: int) -> dict[str, list[Took]]:
    """Return what each took in each round that counts.

    Args:
        task_name: One of the tasks of ``regret``.
        steps: Optimizer steps of a training.
        rounds: Rounds that are counted.
    """
    took: dict[str, list[Took]] = {name: [] for name in LOOPS}
    for turn in range(rounds + 1):
        for name, results in took.items():
            result = train(name, task_name, steps, seed=turn)
            if turn > 0:
                results.append(result)
    return took


def rows_of(took: dict[str, list[Took]], steps: int) -> list[Row]:
    """Return the rows of the table: medians, of what is held against the bare loop round by round.

    Args:
        took: As `measure` returns it.
        steps: Optimizer steps of a training.
    """
    rows = []
    for name, results in took.items():
        pairs = list(zip(results, took[BARE], strict=True))
        more = median(mine.processor - alone.processor for mine, alone in pairs)
        row: Row = {"loop": name, "steps/s": steps / median(mine.clock for mine in results)}
        row["/ bare"] = median(alone.clock / mine.clock for mine, alone in pairs)
        row["processor (ms a step)"] = 1000 * median(mine.processor for mine in results) / steps
        row["more than bare (ms)"] = 1000 * more / steps
        row["rest of the fit (s)"] = median(mine.rest for mine in results)
        rows.append(row)
    return rows


def main() -> None:
    """Measure, and print the tables; they are written to ``results/trainer_speed.md`` too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=[*STEPS], choices=[*STEPS])
    parser.add_argument("--steps", type=int, help="of every task, in place of its own number")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    quiet()
    rows, parts = [], []
    for name in arguments.tasks:
        steps = arguments.steps or STEPS[name]
        found = rows_of(measure(name, steps, arguments.rounds), steps)
        rows += [{"task": name, **row} for row in found]
        parts.append(f"{steps} steps of {name}, median of {arguments.rounds}:\n")
        parts.append(f"{markdown(found)}\n")
    keep("trainer_speed", rows, "\n".join(parts))


if __name__ == "__main__":
    main()
