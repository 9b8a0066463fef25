"""Claims that are held against paired seeds: what was measured, and what is to be said of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from experiments.rows import Row


class Claim(NamedTuple):
    """What was said, and a number for each seed that decides it.

    Attributes:
        setting: Where it was measured.
        text: What was said, with the rule.
        values: One number for each seed.
        holds: The rule, of a number.
        decimals: To print them with.
    """

    setting: str
    text: str
    values: Sequence[float]
    holds: Callable[[float], bool]
    decimals: int = 2

    @property
    def verdict(self) -> str:
        """Whether it holds of each seed, of the mean alone, or not.

        Example:
            >>> [Claim("", "", seeds, lambda v: v > 0).verdict for seeds in ([1, 2], [3, -1], [-1])]
            ['reproduced', 'in the mean alone', 'not reproduced']
        """
        if not self.holds(fmean(self.values)):
            return "not reproduced"
        return "reproduced" if all(map(self.holds, self.values)) else "in the mean alone"

    def row(self) -> dict[str, Any]:
        """Return a line of the table."""
        return {
            "setting": self.setting,
            "claim": self.text,
            "n": len(self.values),
            "mean ± std": spread(self.values, self.decimals),
            "seeds of which it holds": sum(map(self.holds, self.values)),
            "verdict": self.verdict,
        }


def spread(values: Sequence[float], decimals: int = 2) -> str:
    """Return mean and standard deviation.

    Example:
        >>> spread([1.0, 3.0])
        '2.00 ± 1.41'
    """
    deviation = stdev(values) if len(values) > 1 else math.nan
    return f"{fmean(values):.{decimals}f} ± {deviation:.{decimals}f}"


def where(rows: Sequence[Row], **key: Any) -> list[Row]:
    """Return the rows that have these values.

    Example:
        >>> where([{"seed": 0, "lr": 1.0}, {"seed": 1, "lr": 2.0}], seed=1)
        [{'seed': 1, 'lr': 2.0}]
    """
    return [row for row in rows if all(row[name] == value for name, value in key.items())]
