"""What the cases of other LR finders share: data, a loss, and our side where it is the same.

Their bugs that Lightning shares stand with the numbered traps. A letter says whose: F fastai, I
ignite, T torch-lr-finder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lightning.pytorch import seed_everything
from torch import Tensor, nn

import lightning_onecycle
from experiments.benchmarks.traps.finder_curve import ours
from experiments.benchmarks.traps.toys import (
    SEEN,
    Net,
    forget,
    loader,
    trainer,
    two_groups,
)
from experiments.benchmarks.traps.trap import Claim, Outcome, Section, outcome
from lightning_onecycle import LRCurve

SECTION = Section("LR finders of others")
SPAN = (1e-5, 1.0)
Script = Callable[[int], float]


class Pairs:
    """Batches of points and what a net is to make of them, in a random order."""

    batch_size = 4

    def __init__(self, batches: int = 12) -> None:
        self.loader = loader(batches, self.batch_size, shuffle=True)
        self.dataset = self.loader.dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Any:
        for (x,) in self.loader:
            yield x, 3 * x.sum(1, keepdim=True)


class Loss(nn.Module):
    """The squared error, or what is written in a script; it counts its calls."""

    def __init__(self, script: Script | None = None) -> None:
        super().__init__()
        self.script, self.calls, self.seen = script, 0, []

    def forward(self, out: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch."""
        loss = (out - y).square().mean()
        if self.script is not None:
            loss = 0 * loss + self.script(self.calls)
        self.calls += 1
        self.seen.append(float(loss))
        return loss


def nan_at_12(batch: int) -> float:
    """Return a falling loss, but for one."""
    return math.nan if batch == 12 else 2.0 - 0.01 * batch


def negative(batch: int) -> float:
    """Return a loss that falls from -1."""
    return -1.0 - 0.01 * batch


def with_and_without() -> list[list[float]]:
    """Return the losses of a training without our test and with it."""
    losses = []
    for test in (False, True):
        seed_everything(1, verbose=False)
        net, data, of = Net(), loader(shuffle=True), trainer(max_epochs=1)
        if test:
            lightning_onecycle.Tuner(of).lr_find(net, data)
        forget()
        of.fit(net, data)
        losses.append([*SEEN.losses])
    return losses


def same(without: list[float], after: list[float]) -> Outcome:
    """Return whether losses are number for number the same."""
    equal = sum(a == b for a, b in zip(without, after, strict=True))
    return outcome(
        (equal == len(without), f"{equal} of {len(without)} losses are those without it")
    )


def keeps_ratio() -> Outcome:
    """Return whether two groups keep their ratio in our test."""
    ours(Net(two_groups))
    ratios = [groups[0][0] / groups[1][0] for groups in SEEN.steps]
    same = all(math.isclose(ratio, 0.1) for ratio in ratios)
    return outcome((same, f"ratio 0.1 of two groups: {ratios[0]:.2g} ... {ratios[-1]:.2g}"))


STEEPEST = 1e-3


def sigmoid(batch: int) -> float:
    """Return a loss that falls fastest at a rate of 1e-3, over 100 rates from 1e-5 to 1."""
    decade = -5 + 5 * batch / 100
    return 0.5 + 2.0 / (1.0 + math.exp(5.0 * (decade - math.log10(STEEPEST))))


def lag(name: str, lr: float) -> Claim:
    """Return whether a suggestion is where the loss of `sigmoid` falls fastest."""
    decades = math.log10(lr / STEEPEST)
    return abs(decades) < 0.15, f"{name}: {decades:+.2f} decades from the steepest point"


def no_lag() -> Outcome:
    """Return what we suggest there."""
    curve: LRCurve = ours(Net(script=sigmoid), num_training=101, min_lr=SPAN[0], max_lr=SPAN[1])
    return outcome(lag("steepest", curve.suggestion("steepest") or 1.0))
