"""The settings that a recipe tries: how they are given, checked and shown. Pure Python."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from lightning_onecycle._checks import number
from lightning_onecycle.search.probe import Probe

Momentum = tuple[float, float]


class Setting(NamedTuple):
    """What a probe is trained with. None: the optimizer's own, the schedule's own."""

    lr: float
    weight_decay: float | None = None
    momentum: Momentum | None = None

    @classmethod
    def of(cls, probe: Probe) -> Setting:
        """Return that of a probe."""
        return cls(probe.lr, probe.weight_decay, probe.momentum)


def describe(lr: float | None, weight_decay: float | None, momentum: Momentum | None) -> str:
    """Return settings as people read them; those that are None are the own ones, left out.

    Example:
        >>> describe(0.1, 1e-4, (0.95, 0.85)), describe(None, None, (0.9, 0.9))
        ('peak 0.1, weight decay 0.0001, momentum 0.95 to 0.85', 'no peak, momentum 0.9')
    """
    parts = ["no peak" if lr is None else f"peak {lr:.3g}"]
    if weight_decay is not None:
        parts.append(f"weight decay {weight_decay:g}")
    if momentum is not None:
        parts.append("momentum " + " to ".join(f"{m:g}" for m in dict.fromkeys(momentum)))
    return ", ".join(parts)


def checked_grid(weight_decays: Any) -> tuple[float, ...]:
    """Return the weight decays, each once and rising, or refuse them. None is an empty grid.

    Example:
        >>> checked_grid([1e-3, 0, 1e-3])
        (0.0, 0.001)
    """
    if weight_decays is None:
        return ()
    values = _listed("weight_decays", weight_decays, "a list of one number >= 0 or more")
    grid = [number("weight_decays", value, ">= 0, each", lambda v: v >= 0) for value in values]
    return tuple(sorted(set(grid)))


def checked_momenta(momenta: Any) -> tuple[Momentum, ...]:
    """Return momenta as pairs (ends, peak), or refuse them. A number is constant momentum.

    Example:
        >>> checked_momenta([(0.95, 0.85), 0.9])
        ((0.95, 0.85), (0.9, 0.9))
    """
    if momenta is None:
        return ()
    pairs: list[Momentum] = []
    for value in _listed("momenta", momenta, "a list of numbers and pairs (ends, peak)"):
        is_pair = isinstance(value, Sequence) and not isinstance(value, str)
        pair = tuple(value) if is_pair else (value, value)
        if len(pair) != 2:
            raise ValueError(f"momenta must be numbers or pairs (ends, peak), got {value!r}")
        ends = number("momenta", pair[0], "in (0, 1), each", lambda v: 0 < v < 1)
        rule = f"> 0 at the peak, and at most {ends:g} as at the ends"
        pairs.append((ends, number("momenta", pair[1], rule, partial(_is_within, ends))))
    if len(set(pairs)) < len(pairs):
        raise ValueError(f"momenta must differ from each other, got {momenta!r}")
    return tuple(pairs)


def _is_within(ends: float, peak: float) -> bool:
    return 0 < peak <= ends


def _listed(name: str, given: Any, rule: str) -> list[Any]:
    given = getattr(given, "tolist", lambda: given)()
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise ValueError(f"{name} must be {rule}, got {given!r}")
    return list(given)
