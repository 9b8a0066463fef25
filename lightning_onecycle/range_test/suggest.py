r"""The suggestions of an LR range test, and whether its curve shows anything. Pure Python.

The whole curve is known when it is read, so it is smoothed afterwards and without lag: a running
average, as most finders keep one, shows everything about half a decade too far to the right. Before
a learning rate is read off, the fall of the curve is compared with the curve's own noise.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from lightning_onecycle.range_test.smoothing import ceiling, noise_of, smooth

SIGMA = 0.1  # decades: the window for levels
SLOPE = 2.5  # of it: a derivative is noisier than what it is taken of
MIN_POINTS = 5
WIDE = 1.0  # decades: a minimum that is wider has no position, but a beginning


class Suggestion(NamedTuple):
    """A learning rate and how it was found, or None and why there is none."""

    lr: float | None
    reason: str


@dataclass(frozen=True)
class Reading:
    """A curve as the methods see it: its finite points, smoothed, and what they amount to.

    ``low`` is the index of the minimum, ``bottom`` a decade above its beginning if it is wider
    than that and otherwise ``low``, ``edge`` the point from which on half of the fall is lost
    again, or the last, and ``start`` the last point that is as high as the highest before ``low``.
    ``significance`` is the fall over its standard error, and ``needed`` what it takes. ``rises``
    says whether the curve comes up again, ``problem`` why it shows nothing, ``sigma`` how it was
    smoothed.
    """

    lrs: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    low: int = 0
    bottom: int = 0
    edge: int = 0
    start: int = 0
    significance: float = 0.0
    needed: float = math.inf
    rises: bool = False
    sigma: float = SIGMA
    problem: str = ""


@lru_cache(maxsize=64)
def read(lrs: tuple[float, ...], losses: tuple[float, ...], sigma: float = SIGMA) -> Reading:
    """Smooth a curve, find its minimum and decide whether it shows anything.

    The range of pure noise is 3 of its standard errors in the median and rarely 6. Fewer points
    know their own noise less well, so more is asked of them.
    """
    finite = [(lr, loss) for lr, loss in zip(lrs, losses, strict=True) if math.isfinite(loss)]
    n = len(finite)
    broken = next((p for p in zip(losses, lrs, strict=True) if not math.isfinite(p[0])), None)
    not_finite = broken and (
        "the loss is {} at lr {:.3g}, before it clearly falls: the data or the loss are not finite,"
        " or the range starts too high".format(*broken)
    )
    if n < MIN_POINTS:
        few = f"{n} finite losses are too few, at least {MIN_POINTS} are needed"
        return Reading(problem=not_finite or few)
    rates, raw = (tuple(column) for column in zip(*finite, strict=True))
    limit = ceiling(raw)
    noise = noise_of(raw, limit)
    decades = [math.log10(lr) for lr in rates]
    levels, widths = smooth(decades, [min(loss, limit) for loss in raw], sigma)
    low = levels.index(min(levels))
    top = levels.index(max(levels[: low + 1]))
    end = levels.index(max(levels[low:]), low)
    needed = 6.0 * (1.0 + 5.0 / n)

    def significance(high: int) -> float:
        """Return how far the loss at an index lies above the minimum, in standard errors."""
        error = noise * math.hypot(widths[high], widths[low])
        change = levels[high] - levels[low]
        return change / error if error else math.inf if change else 0.0

    fall = levels[top] - levels[low]
    slack = [max(2.0 * noise * width, 1e-3 * fall) for width in widths]
    near = [i for i in range(n) if levels[i] - levels[low] <= slack[i]]
    within = [i for i in near if decades[i] - decades[near[0]] <= WIDE]
    bottom = low if within == near else within[-1]
    half = levels[low] + 0.5 * fall
    # A spike that the training recovers from is no edge.
    edge = min(max(i for i in range(low, n) if i == low or levels[i] < half) + 1, n - 1)
    start = max(i for i in range(low + 1) if levels[top] - levels[i] <= slack[i])
    beyond = losses[lrs.index(rates[low]) :]
    diverges = not all(math.isfinite(loss) and loss <= limit for loss in beyond)
    problem = ""
    if max(raw) - min(raw) <= 1e-9 * max(map(abs, raw)):
        problem = f"the loss is {raw[0]:.4g} throughout"
    elif significance(top) < needed:
        more = "take three times as many points (num_training)"
        if significance(end) < needed:
            noisy = f"which is not clear of its noise of {noise:.2g} a point"
            falls = f"the loss falls by {fall:.3g}, {noisy}: {more}, or another range"
            problem = not_finite or falls
        elif decades[low] - decades[0] < 1.0:
            problem = "the loss rises from the start: the range starts too high, lower min_lr"
        else:
            rises = f"the loss rises beyond {rates[low]:.3g} and does not clearly fall before"
            problem = f"{rises}: {more}"
    return Reading(
        lrs=rates,
        losses=tuple(levels),
        low=low,
        bottom=bottom,
        edge=edge,
        start=start,
        significance=significance(top),
        needed=needed,
        rises=diverges or significance(end) >= needed,
        problem=problem,
        sigma=sigma,
    )


def one_cycle_peak(lr_at_minimum: float, lr_at_edge: float) -> float:
    r"""Return the peak for a 1cycle training: a quarter of the edge, at most the minimum.

    The edge is where half of the fall is lost for good. The flat bottom of a curve moves
    with its noise, and the steep rise behind it does not. On a quadratic with curvature :math:`h`,
    a step along a gradient :math:`g` gains :math:`\eta g^2 - \eta^2 g^2 h / 2`: most at half of the
    largest rate that converges. The other half is a margin that was measured: the loss rises late,
    because at a momentum of 0.85 a step acts for seven more, in which the rate rises further. If
    nothing drives the loss up, as with batch norm, the minimum is the limit.

    What it loses on 35 tasks: ``experiments/benchmarks/regret``.

    Args:
        lr_at_minimum: The rate at which the smoothed loss is lowest.
        lr_at_edge: The rate beyond which the loss has lost half of its fall.

    Returns:
        The peak.

    Example:
        >>> one_cycle_peak(lr_at_minimum=0.5, lr_at_edge=1.2)
        0.3
    """
    return min(lr_at_edge / 4.0, lr_at_minimum)


def max_lr(reading: Reading) -> Suggestion:
    """Suggest the peak of a 1cycle training, by `one_cycle_peak`."""
    bottom, edge = reading.lrs[reading.bottom], reading.lrs[reading.edge]
    peak = one_cycle_peak(bottom, edge)
    if peak == bottom and reading.bottom == reading.low:
        reason = "where the smoothed loss is lowest"
    elif peak == bottom:
        reason = "a decade above the beginning of a minimum that is wider"
    else:
        top = max(reading.losses[: reading.low + 1])
        lost = 2.0 * reading.losses[reading.edge] >= top + reading.losses[reading.low]
        what = "half of the fall is lost again" if lost else "the range ends"
        reason = f"a quarter of {edge:.3g}, where {what}"
    if not reading.rises:
        reason += "; the loss has not risen again, so a longer range may show a higher peak"
    return _within(reading, peak, reason)


def steepest(reading: Reading) -> Suggestion:
    """Suggest where the smoothed loss falls fastest over log10 of the learning rate."""
    x = [math.log10(lr) for lr in reading.lrs]
    # Smoothed once more: the squares of the two windows add up to that of the wide one.
    y, _ = smooth(x, reading.losses, reading.sigma * math.sqrt(SLOPE**2 - 1.0))
    inner = range(max(reading.start, 1), min(reading.low, len(x) - 2) + 1)
    if not inner:
        return Suggestion(None, "the fall is over before a slope can be taken")
    best = min(inner, key=lambda i: (y[i + 1] - y[i - 1]) / (x[i + 1] - x[i - 1]))
    return Suggestion(reading.lrs[best], "where the smoothed loss falls fastest over log10(lr)")


def valley(reading: Reading) -> Suggestion:
    """Suggest the middle third of the longest decreasing chain of losses, as fastai's ``valley``.

    Take the length of the longest chain that ends at each point. The chain is laid, as many points
    long as it has members, before the first point where it is longest, and the middle of its
    middle third is returned.
    """
    ends: list[float] = []  # of the chains of each length so far, the one that is easiest to extend
    length = []
    for loss in reading.losses:
        place = bisect_left(ends, -loss)
        ends[place : place + 1] = [-loss]
        length.append(place + 1)
    end = length.index(max(length))
    third = length[end] / 3
    index = end - length[end] + int(third) + int(third / 2)
    reason = "the middle of the longest decreasing chain (fastai's valley)"
    return Suggestion(reading.lrs[max(index, 0)], reason)


def slide(reading: Reading, width: int = 15, threshold: float = 0.005) -> Suggestion:
    """Suggest by the interval slide rule, as fastai's ``slide``.

    An interval of ``width`` points slides from the right end to the left for as long as the
    gradients of the loss by index at its two ends differ by more than ``threshold``. That is
    absolute, so the answer depends on the scale of the loss and on its noise. One that lies before
    the fall, or where half of it is lost again, is not given.
    """
    lrs, losses = reading.lrs, reading.losses
    n = len(losses)
    if n <= width:
        return Suggestion(None, f"{n} points are too few for an interval of {width}")
    inner = [(losses[i + 1] - losses[i - 1]) / 2.0 for i in range(1, n - 1)]
    slopes = [losses[1] - losses[0], *inner, losses[-1] - losses[-2]]
    right, left = n - 1, n - 1 - width
    found = left
    while left >= 0 and abs(slopes[right] - slopes[left]) > threshold:
        found = left
        right, left = right - 1, left - 1
    half = (losses[reading.start] + losses[reading.low]) / 2.0
    if found < reading.start or (found > reading.low and losses[found] > half):
        return Suggestion(None, "the interval does not stop at the fall of the loss")
    return Suggestion(lrs[found], "where the slopes at an interval's ends agree (fastai's slide)")


def minimum(reading: Reading) -> Suggestion:
    """Suggest a tenth of the learning rate at the minimum, as fastai's ``minimum``."""
    lr = reading.lrs[reading.low]
    return _within(reading, lr / 10.0, f"a tenth of {lr:.3g}, where the smoothed loss is lowest")


def _within(reading: Reading, lr: float, reason: str) -> Suggestion:
    if lr < reading.lrs[0]:
        return Suggestion(None, f"{lr:.3g} ({reason}) lies below the range: lower min_lr")
    return Suggestion(lr, reason)


METHODS: dict[str, Callable[[Reading], Suggestion]] = {
    method.__name__: method for method in (max_lr, steepest, valley, slide, minimum)
}
