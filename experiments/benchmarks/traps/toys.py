"""What the cases share: an optimizer, a small net, a quiet trainer, a record of steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from lightning_onecycle import ScheduleLR, one_cycle

SEEN = SimpleNamespace(steps=[], losses=[], batches=0, validated=0, testing=False)
"""What happened, where a module that is copied writes it down, too."""


def forget() -> None:
    """Start to write down afresh."""
    vars(SEEN).update(steps=[], losses=[], batches=0, validated=0)


# ---- without a trainer --------------------------------------------------------------------------


def weight() -> nn.Parameter:
    """Return a parameter that has a gradient of zero."""
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.zeros(2)
    return parameter


def optimizer(kind: Any = SGD, groups: int = 1, **arguments: Any) -> Any:
    """Return an optimizer over that many groups, by default SGD at a rate of 1."""
    if kind is SGD:
        arguments = {"lr": 1.0, "momentum": 0.9, **arguments}
    return kind([{"params": [weight()]} for _ in range(groups)], **arguments)


def drive(of: Optimizer, steps: int, scheduler: Any = None) -> list[float]:
    """Take steps as a training loop does; return the rate of each, and of the one to come."""
    rates = [float(of.param_groups[0]["lr"])]
    for _ in range(steps):
        of.step()
        if scheduler is not None:
            scheduler.step()
        rates.append(float(of.param_groups[0]["lr"]))
    return rates


def ours(of: Optimizer, steps: int, schedule: Any = None, **arguments: Any) -> ScheduleLR:
    """Return our scheduler on an optimizer, by default with 1cycle."""
    return ScheduleLR(of, schedule or one_cycle(), steps, **arguments)


# ---- with one -----------------------------------------------------------------------------------


class Net(LightningModule):
    """Fits a line; ``script(k)`` is the loss at batch k, whatever it learns."""

    def __init__(
        self,
        configure: Callable[[Net], Any] | None = None,
        script: Callable[[int], float | None] | None = None,
        lr: float = 0.1,
    ) -> None:
        super().__init__()
        self.configure, self.script, self.lr = configure or sgd, script, lr
        self.net = nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the loss of a batch, or None."""
        (x,) = batch
        loss = (self.net(x).squeeze(1) - 3 * x.sum(1)).square().mean()
        if self.script is not None:
            value = self.script(SEEN.batches)
            loss = None if value is None else 0 * loss + value
        SEEN.batches += 1
        if loss is not None:
            SEEN.losses.append(float(loss))
            self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Count."""
        SEEN.validated += 1

    def configure_optimizers(self) -> Any:
        """Do as was asked."""
        return self.configure(self)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Write down the rate and the momentum of each group."""
        SEEN.steps.append(
            [
                (float(g["lr"]), float(g["betas"][0] if "betas" in g else g.get("momentum", 0)))
                for g in optimizer.param_groups
            ]
        )


def sgd(net: Net) -> SGD:
    """Return SGD at the net's own rate."""
    return SGD(net.parameters(), lr=net.lr, momentum=0.9)


def two_groups(net: Net, low: float = 0.01, high: float = 0.1) -> SGD:
    """Return SGD at two rates."""
    first, second = net.parameters()
    return SGD([{"params": [first], "lr": low}, {"params": [second], "lr": high}], momentum=0.9)


def torch_one_cycle(
    net: Net,
    total: int | None = None,
    max_lr: float | None = None,
    of: Optimizer | None = None,
    **arguments: Any,
) -> Any:
    """Return SGD with torch's OneCycleLR, set up as Lightning's documentation has it."""
    total = net.trainer.estimated_stepping_batches if total is None else total  # type: ignore
    of = of or sgd(net)
    schedule = torch.optim.lr_scheduler.OneCycleLR(of, max_lr or net.lr, total, **arguments)
    return {"optimizer": of, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


TheirNet = partial(Net, torch_one_cycle)


def loader(batches: int = 12, size: int = 4, **arguments: Any) -> DataLoader:
    """Return so many batches of points."""
    x = torch.randn(batches * size, 4, generator=torch.Generator().manual_seed(7))
    return DataLoader(TensorDataset(x), size, **arguments)


def trainer(*callbacks: Callback, **arguments: Any) -> Trainer:
    """Return a trainer without frills."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "max_epochs": 2,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(callbacks=list(callbacks), **{**defaults, **arguments})


def fit(
    net: LightningModule,
    *callbacks: Callback,
    data: Any = 12,
    ckpt_path: Any = None,
    **arguments: Any,
) -> Trainer:
    """Train, and return the trainer; what was used is in ``SEEN``."""
    forget()
    of = trainer(*callbacks, **arguments)
    of.fit(net, loader(data) if isinstance(data, int) else data, ckpt_path=ckpt_path)
    return of


def used() -> list[float]:
    """Return the first group's rate at each step."""
    return [groups[0][0] for groups in SEEN.steps]
