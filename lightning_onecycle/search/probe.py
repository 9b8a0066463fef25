"""`Probe`: a short training at one peak, and how two of them compare. Pure Python."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from lightning_onecycle._checks import number, whole
from lightning_onecycle.range_test.json_file import read_losses, written

COMPLETED = "completed"
_LOSSES = ("losses", "half", "scores")
_CLEAR, FEWEST_PAIRS = 3.0, 4
_SMALL, _LARGE = 0.02, 0.1
"""Differences in loss, as fractions of what the training has gained: one that does not matter where
the noise is not known, and one that matters however large the noise is."""


@dataclass(frozen=True)
class Probe:
    """A short training at one peak.

    Args:
        lr: The peak, of the largest group.
        loss: What it is judged by: the mean of ``scores``. Infinite where it diverged.
        steps: Optimizer steps that it took.
        stopped: ``"completed"``, or why it ended before.
        losses: The training loss of each step.
        half: Scores after half of the steps.
        scores: Scores at the end: the validation loss of each batch, or the training losses of the
            last tenth of the steps. Those of two probes are of the same batches, so they are
            compared in pairs.
        weight_decay: What it was trained with. None: the optimizer's own.
        momentum: At the ends and at the peak of its cycle. None: the schedule's own.
        length: Optimizer steps of its cycle. 0: those that it took.

    Example:
        >>> probe = Probe(lr=0.1, loss=0.5, steps=90, stopped="completed")
        >>> probe.is_complete
        True
    """

    lr: float
    loss: float
    steps: int
    stopped: str
    losses: tuple[float, ...] = ()
    half: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    weight_decay: float | None = None
    momentum: tuple[float, float] | None = None
    length: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", number("lr", self.lr, "> 0", lambda v: v > 0))
        object.__setattr__(self, "loss", float(self.loss))
        object.__setattr__(self, "steps", whole("steps", self.steps, 0))
        object.__setattr__(self, "length", whole("length", self.length, 0) or self.steps)
        for name in _LOSSES:
            object.__setattr__(self, name, tuple(float(loss) for loss in getattr(self, name)))
        if self.momentum is not None:
            object.__setattr__(self, "momentum", tuple(self.momentum))

    def to_dict(self) -> dict[str, Any]:
        """Return the probe as `json.dump` takes it."""
        lists = {name: written(getattr(self, name)) for name in _LOSSES}
        return {**asdict(self), "loss": written([self.loss])[0], **lists}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Probe:
        """Make a probe of what `to_dict` returned."""
        lists = {name: read_losses(values[name]) for name in _LOSSES}
        plain = {name: values[name] for name in ("lr", "loss", "steps", "stopped")}
        plain |= {name: values.get(name) for name in ("weight_decay", "momentum")}
        return cls(**plain, **lists, length=values.get("length", 0))

    @property
    def is_complete(self) -> bool:
        """Whether it came to its end, with a finite loss."""
        return self.stopped == COMPLETED and math.isfinite(self.loss)

    @property
    def outcome(self) -> str:
        """The loss, or why the probe ended before its end, and the peak."""
        what = f"{self.loss:.4g}" if self.is_complete else self.stopped.split(" at ")[0]
        return f"{what} at {self.lr:.3g}"

    @property
    def rank(self) -> float:
        """The loss, and infinity where the probe is not complete."""
        return self.loss if self.is_complete else math.inf

    @property
    def gain(self) -> float:
        """How far the loss lies below the mean of the first four training losses, at least 0."""
        return max(fmean(self.losses[:4]) - self.loss, 0.0) if self.losses else 0.0

    @property
    def over_fit(self) -> float:
        """How far the loss lies above the training loss, as a fraction of what that has fallen.

        The training loss is the mean of the last tenth of the steps. The fraction is 0 where the
        loss lies below, and where it lies above all of the fall: such a loss is not comparable.
        """
        if not (self.is_complete and self.losses):
            return 0.0
        last = fmean(last_tenth(self.losses))
        fallen, above = fmean(self.losses[:4]) - last, self.loss - last
        return above / fallen if 0.0 < above < fallen else 0.0

    def is_clearly_worse_than(self, other: Probe) -> bool:
        """Return whether the loss is larger by more than the noise, see `is_clearly_larger`.

        With fewer than four pairs of scores the noise is not known. Then 2 % of the other's gain
        decide.
        """
        if not (self.is_complete and other.is_complete):
            return self.rank > other.rank
        if min(len(self.scores), len(other.scores)) < FEWEST_PAIRS:
            return not self._is_near(other, _SMALL)
        return is_clearly_larger(self.scores, other.scores)

    def is_as_good_as(self, other: Probe) -> bool:
        """Return whether the loss is larger neither clearly nor by 10 % of the other's gain."""
        return not self.is_clearly_worse_than(other) and self._is_near(other, _LARGE)

    def _is_near(self, other: Probe, part: float) -> bool:
        return self.rank <= other.rank + part * other.gain


def of_length(probes: Iterable[Probe], length: int) -> tuple[Probe, ...]:
    """Return the probes whose cycles have so many steps: those that can be compared."""
    return tuple(probe for probe in probes if probe.length == length)


def best_of(probes: Iterable[Probe]) -> Probe | None:
    """Return the complete probe with the lowest loss, or None."""
    complete = (probe for probe in probes if probe.is_complete)
    return min(complete, key=lambda probe: probe.loss, default=None)


def lowest_as_good(probes: Iterable[Probe], best: Probe) -> Probe:
    """Return the probe with the lowest peak of those that are as good as the best one."""
    as_good = (probe for probe in probes if probe.is_as_good_as(best))
    return min(as_good, key=lambda probe: probe.lr)


def last_tenth(losses: Sequence[float], of: int | None = None) -> Sequence[float]:
    """Return the losses of the last tenth of the steps, at least four of them.

    Args:
        losses: That of each step.
        of: How many steps there are to be in all. None: those that there are.
    """
    return losses[-max((of or len(losses)) // 10, FEWEST_PAIRS) :]


def is_clearly_larger(
    scores: Sequence[float], others: Sequence[float], errors: float = _CLEAR
) -> bool:
    r"""Return whether the mean of ``scores`` is larger by three standard errors.

    The scores are paired: with the differences :math:`d_i` of :math:`n` batches, if
    :math:`\bar d > 3 s_d / \sqrt n`. Nothing is clear with fewer than four pairs.

    Args:
        scores: Of one training, a score for each batch.
        others: Of the other, for the same batches.
        errors: Standard errors that the difference must exceed.

    Example:
        >>> is_clearly_larger([1.1, 2.2, 3.1, 4.2], [1.0, 2.0, 3.0, 4.0])
        True
        >>> is_clearly_larger([1.9, 1.2, 3.9, 3.2], [1.0, 2.0, 3.0, 4.0])
        False
    """
    if len(scores) != len(others) or len(scores) < FEWEST_PAIRS:
        return False
    apart = [a - b for a, b in zip(scores, others, strict=True)]
    if not all(map(math.isfinite, apart)):
        return False
    return fmean(apart) > errors * stdev(apart) / math.sqrt(len(apart))
