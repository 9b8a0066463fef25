"""Smoothing of noisy losses, and how large their noise is. Pure Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median


def smooth(
    positions: Sequence[float], values: Sequence[float], sigma: float
) -> tuple[list[float], list[float]]:
    r"""Average with Gaussian weights of the distance, divided by their sum.

    .. math:: s_i = \frac{\sum_j w_{ij} v_j}{\sum_j w_{ij}}, \qquad
        w_{ij} = e^{-(x_i - x_j)^2 / 2 \sigma^2}

    Args:
        positions: Where the values lie, rising.
        values: What is averaged, finite.
        sigma: Width of the window, in the unit of ``positions``.

    Returns:
        The averages, and the standard error of each for values of unit noise.

    Example:
        >>> smooth([0.0, 1.0, 2.0], [1.0, 1.0, 1.0], 0.5)[0]
        [1.0, 1.0, 1.0]
    """
    averages, errors = [], []
    first, last = 0, 0
    for here in positions:
        while here - positions[first] > 5 * sigma:
            first += 1
        while last < len(positions) and positions[last] - here <= 5 * sigma:
            last += 1
        weights = [math.exp(-(((x - here) / sigma) ** 2) / 2) for x in positions[first:last]]
        total = math.fsum(weights)
        weighted = (w * v for w, v in zip(weights, values[first:last], strict=True))
        averages.append(math.fsum(weighted) / total)
        errors.append(math.sqrt(math.fsum(w * w for w in weights)) / total)
    return averages, errors


def ceiling(losses: Sequence[float]) -> float:
    """Return the level above which a loss only says that the training has diverged.

    It is as far above the start of the fall as the fall is deep, by running medians. Where a curve
    does not fall, it is half as high again as a straight line that starts at the lowest loss and
    goes through a quartile, so that nothing is cut off a steady rise or off noise. It moves with
    the scale of the losses.
    """
    medians = [median(losses[max(i - 2, 0) : i + 3]) for i in range(len(losses))]
    low = min(medians)
    fall = max(medians[: medians.index(low) + 1]) - low
    ranked = sorted(losses)
    rise = min((_quantile(ranked, q) - ranked[0]) / q for q in (0.25, 0.5, 0.75))
    return max(low + 2.0 * fall, ranked[0] + 1.5 * rise)


def _quantile(ranked: Sequence[float], fraction: float) -> float:
    place = fraction * (len(ranked) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (place - below) * (ranked[above] - ranked[below])


def noise_of(losses: Sequence[float], limit: float) -> float:
    r"""Return the noise of one point, from second differences, which no slope disturbs.

    :math:`1.4826 \operatorname{median} |l_{i-1} - 2 l_i + l_{i+1}| / \sqrt 6`, which is the
    standard deviation where the noise is Gaussian, over points up to ``limit``.
    """
    bends = [
        abs(a - 2.0 * b + c)
        for a, b, c in zip(losses, losses[1:], losses[2:], strict=False)
        if max(a, b, c) <= limit
    ]
    return 1.4826 * median(bends) / math.sqrt(6.0) if bends else math.inf
