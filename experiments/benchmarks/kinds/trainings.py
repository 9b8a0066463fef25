"""One training of a task of `tasks`: module, loaders, trainer, and the loss at its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from experiments.benchmarks.kinds.problems import Problem
from experiments.benchmarks.kinds.tasks import OPTIMIZERS, Task
from experiments.benchmarks.trainers import EndAtNaN, quiet_trainer
from lightning_onecycle import OneCycle


class Regime(LightningModule):
    """A problem of `tasks` and its optimizer."""

    def __init__(self, task: Task, problem: Problem, lr: float, make: Any = None) -> None:
        super().__init__()
        self.task, self.net, self.lr, self.make = task, problem.net, lr, make
        self.slow = problem.slow
        self.loss, self.accuracy = problem.loss, problem.accuracy

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        return self.loss(self.net, batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the loss, and the accuracy where there is one."""
        # What is random in a loss is the same each time.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(batch_idx)
            self.log("val_loss", self.loss(self.net, batch), batch_size=len(batch[0]))
            if self.accuracy is not None:
                self.log("val_acc", self.accuracy(self.net, batch), batch_size=len(batch[0]))

    def configure_optimizers(self) -> Any:
        """Make the optimizer of the task, or another one."""
        if self.make is not None:
            return self.make(self)
        groups = param_groups(self.net, self.slow, self.lr)
        make = OPTIMIZERS[self.task.optimizer]
        return make(groups, lr=self.lr, weight_decay=self.task.weight_decay)


def param_groups(net: nn.Module, slow: Sequence[str], lr: float) -> list[dict[str, Any]]:
    """Return the parameters at a rate, and those of pretrained modules at a tenth of it."""
    pretrained = [p for name in slow for p in net.get_submodule(name).parameters()]
    others = [p for p in net.parameters() if all(p is not s for s in pretrained)]
    groups: list[dict[str, Any]] = [{"params": others, "lr": lr}]
    if pretrained:
        groups.append({"params": pretrained, "lr": lr / 10})
    return groups


def loaders(problem: Problem, task: Task, seed: int) -> tuple[Any, Any]:
    """Return batches to train on, in an order that the seed decides, and to validate on."""
    train, val = TensorDataset(*problem.train), TensorDataset(*problem.val)
    order = RandomSampler(train, generator=torch.Generator().manual_seed(seed))
    batches = BatchSampler(order, task.batch_size, drop_last=True)
    val_batches = BatchSampler(SequentialSampler(val), task.batch_size, drop_last=False)
    return (
        DataLoader(train, sampler=batches, batch_size=None),
        DataLoader(val, sampler=val_batches, batch_size=None),
    )


def trainer_for(steps: int, *callbacks: Callback) -> Trainer:
    """Return a trainer that takes so many steps, and validates once at their end."""
    return quiet_trainer(*callbacks, max_steps=steps, max_epochs=-1, limit_val_batches=0)


def build(task: Task, seed: int, lr: float, make: Any = None) -> tuple[Regime, Any, Any, float]:
    """Return the module, its two loaders and the loss of a trivial predictor."""
    task.make()  # so that what is kept of it draws no numbers the second time
    torch.manual_seed(seed)
    problem = task.make()
    return Regime(task, problem, lr, make), *loaders(problem, task, seed), problem.trivial


def train(
    task: Task, seed: int, steps: int, lr: float, make: Any = None, callback: Any = None
) -> dict[str, Any]:
    """Train; return the validation loss, None if it diverges, and a trivial predictor's."""
    module, train_loader, val_loader, trivial = build(task, seed, lr, make)
    end = EndAtNaN()
    trainer = trainer_for(steps, callback or OneCycle(), end)
    trainer.fit(module, train_loader)
    row: dict[str, Any] = {"diverged": end.diverged, "trivial": round(trivial, 6)}
    if end.diverged:
        return {**row, "loss": None}
    module.eval()
    with torch.no_grad():
        losses, accuracies, sizes = [], [], []
        for i, batch in enumerate(val_loader):
            torch.manual_seed(i)
            sizes.append(len(batch[0]))
            losses.append(float(module.loss(module.net, batch)))
            if module.accuracy is not None:
                accuracies.append(float(module.accuracy(module.net, batch)))
    loss = fmean(losses, sizes)
    row["loss"] = round(loss, 6) if math.isfinite(loss) else None
    if accuracies:
        row["accuracy"] = round(fmean(accuracies, sizes), 5)
    row["losses"] = [float(f"{x:.5g}") for x in losses]
    return row
