"""What counts as reproduced, as pure functions. The criteria were written down before any run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean, linear_regression

import numpy as np


def gap(training: Sequence[float], validation: Sequence[float]) -> list[float]:
    """Return validation loss less training loss, epoch by epoch (arXiv:1803.09820, Fig. 1b).

    Example:
        >>> gap([0.5, 0.25], [0.75, 0.75])
        [0.25, 0.5]
    """
    return [v - t for t, v in zip(training, validation, strict=True)]


def roughness(values: Sequence[float]) -> float:
    """Return the mean absolute change from one epoch to the next.

    Example:
        >>> roughness([1.0, 3.0, 2.0])
        1.5
    """
    return fmean(abs(b - a) for a, b in pairwise(values))


def slope(values: Sequence[float]) -> float:
    """Return the least-squares slope, a change for each epoch.

    Example:
        >>> slope([1.0, 3.0, 5.0])
        2.0
    """
    return linear_regression(range(len(values)), values).slope


def steps_to_accuracy(
    steps: Sequence[int], accuracies: Sequence[float], target: float
) -> float | None:
    """Return the least number of steps that reaches ``target``, linear over log(steps) in between.

    Args:
        steps: Lengths of trainings, rising.
        accuracies: The final accuracy of each.
        target: The accuracy to reach.

    Returns:
        Steps; the shortest length where that has reached it already; None if no length has.

    Example:
        >>> steps_to_accuracy([100, 400], [0.8, 0.9], 0.85)
        200.0
    """
    if accuracies[0] >= target:
        return float(steps[0])
    for (s0, a0), (s1, a1) in pairwise(zip(steps, accuracies, strict=True)):
        if a1 >= target:
            part = (target - a0) / (a1 - a0)
            return round(math.exp(math.log(s0) + part * math.log(s1 / s0)), 6)
    return None


def accuracy_at(steps: Sequence[int], accuracies: Sequence[float], at: float) -> float:
    """Return the accuracy of a training of ``at`` steps, linear over log(steps) in between.

    Example:
        >>> round(accuracy_at([100, 400], [0.8, 0.9], 200), 6)
        0.85
    """
    return float(np.interp(math.log(at), np.log(steps), accuracies))


def climb(score: Callable[[int], float], start: int) -> int:
    """Return the rung whose score neither neighbour exceeds, climbing from ``start``.

    Example:
        >>> climb(lambda rung: -abs(rung - 3), start=0)
        3
    """
    rung = start
    while True:
        best = max((rung, rung - 1, rung + 1), key=score)
        if best == rung:
            return rung
        rung = best
