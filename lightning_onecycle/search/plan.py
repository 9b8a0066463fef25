"""The plan of a search: how long its parts are, which peak comes next, and the peak at the end.

Pure Python. The numbers are measured: ``experiments/benchmarks/kinds``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lightning_onecycle.range_test.conditions import Conditions
from lightning_onecycle.search.probe import Probe

STEP = math.sqrt(10.0)
"""The factor between one peak and the next."""
_FINEST = 10.0**0.2
"""Peaks that are closer together than this are not told apart."""
_LONGEST, _SHORTEST, _SHORTEST_OF_THREE = 0.22, 1 / 8, 1 / 6
"""Lengths of a probe of the first round, as fractions of the training."""
_FIRST, _LONGER = 3, (1 / 2, 1.0)
"""How many probes the first round has, and how long those of the next rounds are."""
_BELOW_DIVERGENCE = 100.0
"""How far below the rate that diverges the search may begin."""
FEWEST_STEPS = 10
"""Of a probe. In a training of less than 40 steps that is more than its fraction."""
_FALL_WITH_BETAS, _FALL_BY_OVER_FITTING = 0.25, 5.0
"""Powers of the length with which the best peak falls: of optimizers with betas (Adam's family),
and of any for over-fitting."""


class Round(NamedTuple):
    """How many probes there are of one length."""

    length: int
    probes: int


class Plan(NamedTuple):
    """How many steps the range test has, and the rounds of probes after it."""

    range_test: int
    rounds: tuple[Round, ...]


def plan(total_steps: int, budget: int, num_training: int | None = None) -> Plan:
    """Plan a search.

    The range test takes a quarter of the budget, or of the training if that is shorter, and at most
    300 steps. If no probes fit beside it, it takes the whole budget.

    Args:
        total_steps: Optimizer steps of the training.
        budget: Steps that may be spent.
        num_training: Steps of the range test. None: planned.

    Returns:
        The plan.

    Example:
        >>> plan(1000, 1000)
        Plan(range_test=250, rounds=(Round(length=220, probes=3),))
        >>> plan(1000, 2000)
        Plan(range_test=250, rounds=(Round(length=220, probes=3), Round(length=500, probes=2)))
        >>> plan(1000, 200)
        Plan(range_test=200, rounds=())
    """
    steps = num_training or min(300, min(total_steps, budget) // 4)
    planned = rounds(total_steps, budget - steps)
    if num_training is None and not planned:
        steps = min(300, budget)
    return Plan(steps, planned)


def rounds(total_steps: int, left: int, length: int = 0) -> tuple[Round, ...]:
    """Return the rounds of probes, each longer than the one before.

    More probes of about a fifth of the training hardly make the answer better: a longer training
    has another best peak. So three of them are followed by two of a half, and these by two whole
    trainings, as far as the budget goes. The last round has the rest of it.

    Args:
        total_steps: Optimizer steps of the training.
        left: Steps that may be spent on them.
        length: Steps of the probes of the first round. 0: see `probe_steps`.

    Example:
        >>> rounds(1000, 4800)
        (Round(length=220, probes=3), Round(length=500, probes=2), Round(length=1000, probes=3))
        >>> rounds(1000, 1300), rounds(1000, 200)
        ((Round(length=220, probes=5),), ())
    """
    found: list[Round] = []
    first = (length, _FIRST) if length else _first_round(total_steps, left)
    longer = [(int(total_steps * part), 2) for part in _LONGER]
    for steps, count in (first, *(of for of in longer if of[0] > first[0])):
        if not steps or left < steps * count:
            break
        found.append(Round(steps, count))
        left -= steps * count
    if found:
        found[-1] = Round(found[-1].length, found[-1].probes + left // found[-1].length)
    return tuple(found)


def _first_round(total_steps: int, left: int) -> tuple[int, int]:
    count, length = probe_steps(total_steps, left)
    return length, min(count, _FIRST)


def probe_steps(total_steps: int, left: int) -> tuple[int, int]:
    """Return how many probes fit into what is left of the budget, and the length of each.

    A probe has 0.22 of the training: if one of four is abandoned, they fit beside the range test.
    Three may have a sixth each, and two an eighth. There is never one alone, because it could not
    be compared.

    Args:
        total_steps: Optimizer steps of the training.
        left: Steps that may be spent.

    Returns:
        The number and the length, or zeros where they are too few or would be too short.

    Example:
        >>> [probe_steps(1000, left) for left in (1800, 800, 600, 480, 200)]
        [(8, 220), (3, 220), (3, 200), (2, 220), (0, 0)]
    """
    longest = max(int(total_steps * _LONGEST), min(FEWEST_STEPS, total_steps // 2))
    for count, fraction in ((3, _SHORTEST_OF_THREE), (2, _SHORTEST)):
        length = min(left // count, longest)
        if length >= max(total_steps * fraction, FEWEST_STEPS):
            return left // length, length
    return 0, 0


def next_peak(probes: Sequence[Probe], first: float, *, upwards: bool = False) -> float | None:
    """Return the peak that the next probe is to be trained at, or None if no more are worth it.

    The first one comes first. As long as the lowest peak is the best, half a decade below it comes
    next. One above the highest is tried only if the highest is clearly better than the one below
    it: the suggestion of a range test is rather too high. Then the gap between the best
    and the better one of its neighbours is halved.

    Args:
        probes: Those that have been run.
        first: The peak to begin with.
        upwards: Whether the second one lies above the first. A later round begins below what was
            best in the round before.

    Returns:
        The peak or None.

    Example:
        >>> from lightning_onecycle.search import Probe
        >>> high = Probe(1.0, 0.5, 90, "completed", scores=(0.4, 0.5, 0.5, 0.6))
        >>> low = Probe(0.3, 0.9, 90, "completed", scores=(0.8, 0.9, 0.9, 1.0))
        >>> next_peak([], 1.0), next_peak([high], 1.0), next_peak([high, low], 1.0)
        (1.0, 0.31622776601683794, 3.1622776601683795)
    """
    if not probes:
        return first
    ranked = sorted(probes, key=lambda probe: probe.lr)
    best = min(ranked, key=lambda probe: probe.rank)
    place = ranked.index(best)
    if upwards and len(probes) == 1 and best.is_complete:
        return best.lr * STEP
    if place == 0 or not best.is_complete:
        return ranked[0].lr / STEP
    if best is ranked[-1] and ranked[place - 1].is_clearly_worse_than(best):
        return best.lr * STEP
    neighbours = ranked[place - 1 : place] + ranked[place + 1 : place + 2]
    apart = [p for p in neighbours if max(p.lr, best.lr) / min(p.lr, best.lr) > _FINEST]
    if not apart:
        return None
    return math.sqrt(best.lr * min(apart, key=lambda probe: probe.rank).lr)


def anchor(lrs: Sequence[float], losses: Sequence[float], diverges: bool = False) -> float | None:
    """Return the rate of the lowest loss: the first peak, if a curve suggests none.

    In a curve that is all noise, that may be a rate at which nothing is learned yet. So if the
    curve ends because the loss diverges, only the last two decades are searched.

    Args:
        lrs: The rates of the curve.
        losses: Its smoothed losses.
        diverges: Whether the loss diverges at the last rate.

    Returns:
        The rate, or None where no loss is finite, or all are the same.

    Example:
        >>> anchor((0.1, 1.0, 10.0), (0.9, 0.7, 0.8)), anchor((0.1, 1.0), (0.5, 0.5))
        (1.0, None)
    """
    least = lrs[-1] / _BELOW_DIVERGENCE if diverges else 0.0
    points = zip(lrs, losses, strict=True)
    finite = [(loss, lr) for lr, loss in points if math.isfinite(loss) and lr >= least]
    lowest, highest = min(finite, default=(0.0, 0.0)), max(finite, default=(0.0, 0.0))
    return None if math.isclose(lowest[0], highest[0], rel_tol=1e-9) else lowest[1]


def part_of_peak(
    steps: int, total_steps: int, over_fit: float, conditions: Conditions | None
) -> float:
    """Return what the best peak of ``total_steps`` is, as a part of that of fewer steps.

    Args:
        steps: The fewer steps.
        total_steps: Those of the training.
        over_fit: `Probe.over_fit` after the fewer steps.
        conditions: Of the training.
    """
    fall = _FALL_WITH_BETAS if conditions is not None and conditions.has_betas else 0.0
    power = min(fall + _FALL_BY_OVER_FITTING * over_fit, 1.0)
    return (steps / total_steps) ** power if 0 < steps < total_steps else 1.0
