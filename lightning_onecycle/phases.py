r"""Schedules as data: a tuple of phases over fractions of the run. Pure Python.

A `Schedule` says what the learning rate, the momentum and the weight decay are at each optimizer
step of a run of any length. The learning rate and the weight decay are *factors of the optimizer's
own values*: the peak of a cycle is 1.0, whatever the optimizer's ``lr``. Momentum is absolute.

How fractions become whole steps is written down in one place, `Schedule.segments`.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from lightning_onecycle._checks import choice, number, whole

Anneal = Literal["linear", "cos", "exp"]
Span = tuple[float, float]


class Point(NamedTuple):
    """What holds at one optimizer step: factors for ``lr`` and ``weight_decay``, momentum as is."""

    lr: float
    momentum: float | None
    weight_decay: float


def _linear(span: Span, progress: float) -> float:
    start, end = span
    # In this form, unlike start + (end - start) * progress, both ends are met exactly.
    return start if start == end else start * (1.0 - progress) + end * progress


def _geometric(span: Span, progress: float) -> float:
    start, end = span
    return start if start == end else float(start ** (1.0 - progress) * end**progress)


@dataclass(frozen=True)
class Phase:
    r"""One stretch of a schedule, from a start value to an end value.

    With progress :math:`p \in [0, 1]` through the phase, from :math:`a` to :math:`b`:

    - ``"linear"``: :math:`a (1 - p) + b p`
    - ``"cos"``: :math:`b + (a - b) (1 + \cos \pi p) / 2`
    - ``"exp"``: :math:`a^{1 - p} b^p`, a straight line on a logarithmic axis

    Args:
        fraction: Share of the run, in [0, 1]. A phase of fraction 0 is skipped.
        lr: Learning rate at its start and end, as factors of the optimizer's own.
        momentum: Momentum (or beta1) at its start and end, in [0, 1), or None to leave it alone.
        weight_decay: Weight decay at its start and end, as factors of the optimizer's own.
        anneal: How the values go from start to end. ``"exp"`` needs those that change above 0.

    Raises:
        ValueError: If a value is outside its range.

    Example:
        >>> Phase(1.0, lr=(0.1, 1.0), momentum=(0.95, 0.85)).at(0.5)
        Point(lr=0.55, momentum=0.8999999999999999, weight_decay=1.0)
    """

    fraction: float
    lr: Span
    momentum: Span | None = None
    weight_decay: Span = (1.0, 1.0)
    anneal: Anneal = "linear"

    def __post_init__(self) -> None:
        choice("anneal", self.anneal, ("linear", "cos", "exp"))
        fraction = number("fraction", self.fraction, "in [0, 1]", lambda v: 0 <= v <= 1)
        object.__setattr__(self, "fraction", fraction)
        positive = self.anneal == "exp"
        for name, limit in (("lr", math.inf), ("momentum", 1.0), ("weight_decay", math.inf)):
            span = getattr(self, name)
            if span is not None:
                object.__setattr__(self, name, _checked_span(name, span, limit, positive))

    def at(self, progress: float) -> Point:
        """Return the values at ``progress`` in [0, 1] through this phase."""
        if self.anneal == "cos":
            progress = 0.5 * (1.0 - math.cos(math.pi * progress))
        between = _geometric if self.anneal == "exp" else _linear
        momentum = None if self.momentum is None else between(self.momentum, progress)
        return Point(between(self.lr, progress), momentum, between(self.weight_decay, progress))


class Segment(NamedTuple):
    """A phase in whole steps: from step ``start`` to step ``end``, both included."""

    start: int
    end: int
    phase: Phase

    def at(self, step: int) -> Point:
        """Return the values at ``step``; before the start or past the end, those at the edge."""
        start, end, phase = self
        if step <= start or start == end:
            return phase.at(0.0)
        return phase.at(1.0 if step >= end else (step - start) / (end - start))


@dataclass(frozen=True)
class Schedule:
    """A tuple of phases whose fractions add up to 1.

    Raises:
        ValueError: If there is no phase, or the fractions do not add up to 1.

    Example:
        >>> from lightning_onecycle import Phase
        >>> warm_then_flat = Schedule((Phase(0.2, (0.5, 1.0)), Phase(0.8, (1.0, 1.0))))
        >>> [point.lr for point in warm_then_flat.trace(10)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """

    phases: tuple[Phase, ...]

    def __post_init__(self) -> None:
        phases = tuple(self.phases) if isinstance(self.phases, Sequence) else ()
        if not phases or not all(isinstance(phase, Phase) for phase in phases):
            raise ValueError(f"phases must be one Phase or more, got {self.phases!r}")
        total = math.fsum(phase.fraction for phase in phases)
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"the fractions of the phases must add up to 1, got {total:g}")
        object.__setattr__(self, "phases", phases)

    def segments(self, total_steps: int) -> tuple[Segment, ...]:
        """Lay the phases over the steps 0 ... ``total_steps - 1``.

        A phase takes its fraction of the points, rounded, and the last phase takes the rest. A
        phase that starts with the value the one before ended with shares that point with it, as
        torch's ``OneCycleLR`` does, so no value lasts two steps. If there are enough points, every
        phase keeps at least one: the peak is reached in the shortest run. A phase of a single point
        takes its start value.

        Rounding and shared points do not add up over many phases: a jump falls on its fraction of
        the run, rounded, and a joint at most two steps before it.

        Args:
            total_steps: Optimizer steps in the run, at least 1.

        Returns:
            One `Segment` for each phase that got a step, in order, without a gap.

        Example:
            >>> from lightning_onecycle import Phase
            >>> schedule = Schedule((Phase(0.3, (0.1, 1.0)), Phase(0.7, (1.0, 0.1))))
            >>> [(segment.start, segment.end) for segment in schedule.segments(100)]
            [(0, 29), (29, 99)]
        """
        return _segments(self.phases, whole("total_steps", total_steps, 1))

    def at(self, step: int, total_steps: int) -> Point:
        """Return the values at ``step`` of a run of ``total_steps``.

        Args:
            step: Optimizer steps taken, >= 0. Past the end the last value stays.
            total_steps: Optimizer steps in the run, > 0.

        Raises:
            ValueError: If an argument is out of range.

        Example:
            >>> from lightning_onecycle import Phase
            >>> schedule = Schedule((Phase(0.5, (0.1, 1.0)), Phase(0.5, (1.0, 0.01))))
            >>> [schedule.at(step, 100).lr for step in (0, 49, 99, 10**6)]
            [0.1, 1.0, 0.01, 0.01]
        """
        return value_at(self.segments(total_steps), whole("step", step, 0))

    def trace(self, total_steps: int) -> list[Point]:
        """Return the values at each step of a run of ``total_steps``."""
        segments = self.segments(total_steps)
        return [value_at(segments, step) for step in range(int(total_steps))]

    @property
    def peak_momentum(self) -> float | None:
        """The momentum where the learning rate is highest, or None where it is not scheduled."""
        ends = (phase.at(progress) for phase in self.phases for progress in (0.0, 1.0))
        return max(ends, key=lambda point: point.lr).momentum

    def to_list(self) -> list[dict[str, Any]]:
        """Return the phases as `json.dump` takes them."""
        return [asdict(phase) for phase in self.phases]

    @classmethod
    def from_list(cls, phases: Sequence[dict[str, Any]]) -> Schedule:
        """Make a schedule of what `to_list` returned."""
        return cls(tuple(Phase(**phase) for phase in phases))

    @property
    def momentum(self) -> Span | None:
        """The momentum at the start and at the peak, or None where it is not scheduled.

        Example:
            >>> from lightning_onecycle import one_cycle
            >>> one_cycle().momentum
            (0.95, 0.85)
        """
        first = next(phase for phase in self.phases if phase.fraction > 0).at(0.0).momentum
        peak = self.peak_momentum
        return None if first is None or peak is None else (first, peak)

    def with_momentum(self, ends: float, peak: float) -> Schedule:
        """Return the same schedule with a momentum that runs against the learning rate.

        It is ``ends`` where the learning rate is that of the start or lower, ``peak`` where the
        rate is highest, and in proportion between them. With equal values it is constant.

        Args:
            ends: Momentum at the start, in [0, 1).
            peak: Momentum at the peak, in [0, 1).

        Returns:
            The schedule.

        Raises:
            ValueError: If a value is outside its range.

        Example:
            >>> from lightning_onecycle import one_cycle
            >>> one_cycle().with_momentum(0.9, 0.8) == one_cycle(base_momentum=0.8,
            ...                                                  max_momentum=0.9)
            True
        """
        start = next(phase for phase in self.phases if phase.fraction > 0).lr[0]
        highest = max(lr for phase in self.phases for lr in phase.lr)

        def at(lr: float) -> float:
            """Return the momentum at a factor of the learning rate."""
            above = lr - start if highest > start else lr
            share = max(above, 0.0) / ((highest - start) or highest)
            return ends * (1.0 - share) + peak * share

        return Schedule(
            tuple(
                replace(phase, momentum=(at(phase.lr[0]), at(phase.lr[1]))) for phase in self.phases
            )
        )

    @property
    def schedules_weight_decay(self) -> bool:
        """Whether any phase moves the weight decay away from the optimizer's own."""
        return any(phase.weight_decay != (1.0, 1.0) for phase in self.phases)


def value_at(segments: Sequence[Segment], step: int) -> Point:
    """Return the values at ``step``; a point that two segments share belongs to the later one."""
    return segments[bisect(segments, (step + 1,)) - 1].at(step)


@lru_cache(maxsize=256)
def _segments(phases: tuple[Phase, ...], total_steps: int) -> tuple[Segment, ...]:
    phases = tuple(phase for phase in phases if phase.fraction > 0)
    segments: list[Segment] = []
    last = -1  # the last step that is taken
    elapsed = 0.0  # the fraction of the run up to the end of this phase
    for index, phase in enumerate(phases):
        following = len(phases) - index - 1
        start = last + 1
        if segments and segments[-1].at(last) == phase.at(0.0):
            start = last  # a continuous joint
        elapsed += phase.fraction
        if following:
            end = start + _round(phase.fraction * total_steps) - 1
            on_time = _round(elapsed * total_steps) - 1
            jumps = phase.at(1.0) != phases[index + 1].at(0.0)
            end = on_time if jumps else max(end, on_time - 2)
            end = min(max(end, start), max(total_steps - 1 - following, last + 1))
        else:
            end = total_steps - 1
        if end > last and start < total_steps:
            last = min(end, total_steps - 1)
            segments.append(Segment(start, last, phase))
    return tuple(segments)


def _round(points: float) -> int:
    """Round half up, with room for the rounding errors of a sum of fractions."""
    return math.floor(points + 0.5 + 1e-9)


def _checked_span(name: str, span: Any, limit: float, positive: bool) -> Span:
    if isinstance(span, str) or not isinstance(span, Sequence) or len(span) != 2:
        raise ValueError(f"{name} must be a pair (start, end), got {span!r}")
    positive = positive and span[0] != span[1]  # a level is not annealed
    rule = f"{'> 0' if positive else '>= 0'}{f' and < {limit:g}' if limit < math.inf else ''}"
    start, end = (
        number(f"{name}[{i}]", v, rule, lambda v: 0 <= v < limit and not (positive and v == 0))
        for i, v in enumerate(span)
    )
    return start, end
