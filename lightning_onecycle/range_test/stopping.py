"""When a range test has seen enough: the loss diverges, and noise does not. Pure Python."""

from __future__ import annotations

from bisect import insort
from statistics import median


class Divergence:
    r"""Tell, loss by loss, whether a run has diverged.

    With the smoothed loss :math:`s`, its best value :math:`b` so far, its level :math:`f` at the
    start and the noise :math:`n` of a single loss, that is where

    .. math:: s > b + \text{threshold} \cdot \max(f - b, n)

    The rule is additive: losses may be negative or tiny, and are the same in any unit. Only the
    past is used. A loss that stands alone, good or bad, is passed over; then an exponential average
    is taken over about a twentieth of the test, divided by the sum of its weights. The noise is the
    median distance of a loss from the average before it.

    Args:
        threshold: How many times what the loss has fallen it may rise. None: never diverged.
        num_training: Losses in the whole test.

    Example:
        >>> diverged = Divergence(threshold=4.0, num_training=100)
        >>> any(diverged(loss) for loss in [2.0, 1.9, 2.1, 2.0, 1.9, 1.6, 1.4, 1.2])
        False
        >>> [diverged(loss) for loss in [2.0, 9.0, 90.0]]
        [False, False, True]
    """

    def __init__(self, threshold: float | None, num_training: int) -> None:
        self.threshold = threshold
        self._decay = 1.0 - 1.0 / max(num_training / 20, 2.0)
        self._early = max(num_training // 20, 3)
        self._last_three: list[float] = []
        self._losses = 0
        self._sum = self._weight = 0.0
        self._distances: list[float] = []
        self._first: list[float] = []
        self._best = float("inf")

    def __call__(self, loss: float) -> bool:
        """Take the next loss, which must be finite, and return whether the run has diverged."""
        if self._weight:
            insort(self._distances, abs(loss - self._sum / self._weight))
        self._last_three = [*self._last_three[-2:], loss]
        self._sum = self._decay * self._sum + (1.0 - self._decay) * median(self._last_three)
        self._weight = self._decay * self._weight + 1.0 - self._decay
        smoothed = self._sum / self._weight
        self._losses += 1
        if self._losses <= self._early:
            self._first.append(loss)
            return False
        self._best = min(self._best, smoothed)
        if self.threshold is None:
            return False
        noise = self._distances[len(self._distances) // 2]
        # What rounding does to a constant loss is no divergence.
        scale = max(median(self._first) - self._best, noise, 1e-4 * abs(self._best))
        return smoothed > self._best + self.threshold * scale
