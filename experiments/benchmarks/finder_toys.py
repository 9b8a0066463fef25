"""The nets, data and callbacks of `finder_traces`, and what they write down."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lightning.pytorch import (
    Callback,
    LightningDataModule,
    LightningModule,
)
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Sampler, TensorDataset
from torchmetrics import MeanMetric

STEPS, LOWEST, HIGHEST = 12, 1e-3, 1.0
SEEN = SimpleNamespace()  # what happened, where a module that is copied writes it down, too


def forget() -> None:
    """Start to write down afresh."""
    vars(SEEN).update(error=None, batches=[], losses=[], steps=[], norms=[], dtypes=set())
    vars(SEEN).update(validated=0, saved=0, callback=0)


class Net(LightningModule):
    """Dropout, and noise from every global generator; ``script(k)`` is the loss at batch k."""

    def __init__(self, configure: Any = None, script: Any = None, **hparams: Any) -> None:
        super().__init__()
        self.save_hyperparameters(hparams)
        self.configure, self.script = configure or sgd, script
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))
        self.register_buffer("counted", torch.zeros(()), persistent=False)
        self.calls, self.mean = 0, MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Return the loss of the points or of the script, or raise the error that is planned."""
        (x,) = batch
        SEEN.batches.append(len(x))
        if SEEN.error is not None and len(SEEN.batches) == STEPS // 2:
            raise SEEN.error
        out = self.net(x + 0.1 * random.random() + 0.1 * np.random.random())  # noqa: NPY002
        loss = (out.squeeze(1) - x.sum(1)).square().mean()
        if self.script is not None:
            loss = 0 * loss + self.script(len(SEEN.batches) - 1)
        SEEN.dtypes.add(out.dtype)
        SEEN.losses.append(loss.item())
        self.calls += 1
        self.counted += 1
        self.mean.update(loss.detach())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Count it."""
        SEEN.validated += 1

    def configure_optimizers(self) -> Any:
        """Return what the function that was given makes."""
        return self.configure(self)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Write down the values of each group."""
        keys = ("lr", "momentum", "weight_decay")
        SEEN.steps.append([[group[key] for key in keys] for group in optimizer.param_groups])

    def on_before_zero_grad(self, optimizer: Any) -> None:
        """Write down the norm of the gradient."""
        grads = [p.grad.norm() for p in self.parameters() if p.grad is not None]
        SEEN.norms.append(torch.stack(grads).norm().item() if grads else 0.0)

    def on_save_checkpoint(self, checkpoint: Any) -> None:
        """Count it."""
        SEEN.saved += 1


def sgd(net: Net) -> SGD:
    """Return the optimizer of most items."""
    return SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)


def two_groups(net: Net) -> SGD:
    """Return an optimizer whose groups have rates of their own."""
    first, *rest = net.parameters()
    return SGD([{"params": [first], "lr": 0.3}, {"params": rest, "lr": 0.03}], momentum=0.9)


def one_cycle(net: Net, total: int = 99) -> Any:
    """Return an optimizer with torch's schedule."""
    schedule = OneCycleLR(optimizer := sgd(net), 0.1, total_steps=total, base_momentum=0.85)
    return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def reads_steps(net: Net) -> Any:
    """Return the same, as long as the trainer says that the fit is."""
    return one_cycle(net, net.trainer.estimated_stepping_batches)


class Held(Net):
    """Holds its optimizer, which has a state from an earlier step."""

    def __init__(self) -> None:
        super().__init__(lambda net: net.own)
        self.own = sgd(self)
        self.net(torch.ones(1, 4)).sum().backward()
        self.own.step()
        self.own.zero_grad()


class Line(LightningModule):
    """A line through points that are not quite on one, by plain SGD."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.lr, self.net = lr, nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Return the squared error."""
        (x,) = batch
        return (self.net(x).squeeze(1) - 3 * x.sum(1) + x.prod(1)).square().mean()

    def configure_optimizers(self) -> SGD:
        """Return SGD at the rate of the module."""
        return SGD(self.parameters(), lr=self.lr)


class Steps(Callback):
    """Counts batches."""

    calls = 0

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Count it."""
        self.calls += 1
        SEEN.callback += 1


class Order(Sampler):
    """Another order at each epoch, which it counts itself."""

    epoch = 0

    def __iter__(self) -> Any:
        self.epoch += 1
        generator = torch.Generator().manual_seed(self.epoch)
        return iter(torch.randperm(24, generator=generator).tolist())

    def __len__(self) -> int:
        return 24


class Data(LightningDataModule):
    """The same points, six at a time."""

    def train_dataloader(self) -> DataLoader:
        """Return the loader."""
        return loader(6)


def loader(batch_size: int = 4, points: int = 24, **arguments: Any) -> DataLoader:
    """Return a loader of the same random points each time, shuffled unless told otherwise."""
    x = torch.randn(points, 4, generator=torch.Generator().manual_seed(7))
    arguments = arguments or {"shuffle": True}
    return DataLoader(TensorDataset(x), batch_size, **arguments)


def with_generator() -> DataLoader:
    """Return one that shuffles with a generator of its own."""
    return loader(shuffle=True, generator=torch.Generator().manual_seed(1))
