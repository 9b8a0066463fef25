"""Values of parameter groups that keep their ratios. Pure Python."""

from __future__ import annotations

from collections.abc import Sequence


def in_proportion(values: Sequence[float], largest: float) -> list[float]:
    """Scale values so that their largest one is ``largest``. Where all are 0, each becomes it.

    Example:
        >>> in_proportion([0.1, 0.01], 1.0), in_proportion([0.0, 0.0], 1e-4)
        ([1.0, 0.1], [0.0001, 0.0001])
    """
    top = max(values, default=0.0)
    return [largest * (value / top) if top > 0 else largest for value in values]
