"""Schedules, each a tuple of phases. Pure Python.

Fractions are of the run, in [0, 1]; learning rates are factors of the optimizer's own ``lr``,
which is the peak. `Schedule.trace` lists one, `lightning_onecycle.plots.plot_schedule` draws one.
"""

# Longer than other modules: nearly half of it is docstrings with formulas.

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from lightning_onecycle._checks import choice, number, whole
from lightning_onecycle.phases import Anneal, Phase, Point, Schedule, Segment

__all__ = [
    "Anneal",
    "Phase",
    "Point",
    "Schedule",
    "Segment",
    "constant",
    "lr_range",
    "one_cycle",
    "one_cycle_steady",
    "step_decay",
    "trapezoid",
    "triangular",
    "warmup_cosine",
]


def one_cycle(
    pct_start: float = 0.45,
    pct_final: float = 0.10,
    div_factor: float = 10.0,
    final_div_factor: float = 100.0,
    anneal: Anneal = "linear",
    cycle_momentum: bool = True,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
) -> Schedule:
    r"""Smith's 1cycle policy: up, down, and then far below the start.

    With peak :math:`M`, start :math:`b = M / \text{div\_factor}` and final value
    :math:`b / \text{final\_div\_factor}`, the learning rate goes

    .. math:: b \to M \to b \to b / \text{final\_div\_factor}

    over ``pct_start``, the middle, and ``pct_final`` of the run. Momentum goes from
    ``max_momentum`` to ``base_momentum`` and back, and stays there. The policy is that of Smith,
    "A disciplined approach to neural network hyper-parameters", arXiv:1803.09820, sections 4.1
    (learning rate), 4.3 (momentum) and 5 (the numbers); the annihilation to a hundredth of the
    start is that of Gugger's reproduction. With the same numbers it is torch's ``OneCycleLR``.

    Args:
        pct_start: Fraction of the run that climbs to the peak, in (0, 1).
        pct_final: Fraction of the run that annihilates, in [0, 1 - ``pct_start``). 0 is the form of
            two phases: from the peak straight to the final value.
        div_factor: The peak over the first learning rate, >= 1.
        final_div_factor: The first learning rate over the last, >= 1.
        anneal: ``"linear"`` (Smith), ``"cos"`` or ``"exp"``.
        cycle_momentum: Whether momentum runs the other way. If not, it is left alone.
        base_momentum: Momentum at the peak, in [0, 1).
        max_momentum: Momentum at the start and the end, in [``base_momentum``, 1).

    Returns:
        The schedule.

    Raises:
        ValueError: If a value is outside its range.

    Example:
        >>> [round(point.lr, 4) for point in one_cycle().trace(11)]
        [0.1, 0.325, 0.55, 0.775, 1.0, 0.775, 0.55, 0.325, 0.1, 0.0505, 0.001]
        >>> one_cycle(pct_start=1.5)
        Traceback (most recent call last):
        ValueError: pct_start must be in (0, 1), got 1.5
    """
    pct_start = number("pct_start", pct_start, "in (0, 1)", lambda v: 0 < v < 1)
    pct_final = number(
        "pct_final",
        pct_final,
        f"in [0, 1 - pct_start) = [0, {1 - pct_start:g})",
        lambda v: 0 <= v < 1 - pct_start,
    )
    div_factor = number("div_factor", div_factor, ">= 1", lambda v: v >= 1)
    final_div_factor = number("final_div_factor", final_div_factor, ">= 1", lambda v: v >= 1)
    choice("anneal", anneal, ("linear", "cos", "exp"))
    if cycle_momentum and anneal == "exp":
        number("base_momentum", base_momentum, "in (0, 1) with anneal='exp'", lambda v: 0 < v < 1)
    momentum = _momentum_range(cycle_momentum, base_momentum, max_momentum)
    start, final = 1.0 / div_factor, 1.0 / (div_factor * final_div_factor)
    up, down, high = (None, None, None) if momentum is None else momentum
    down_to = start if pct_final else final
    return Schedule(
        (
            Phase(pct_start, (start, 1.0), up, anneal=anneal),
            Phase(1.0 - pct_start - pct_final, (1.0, down_to), down, anneal=anneal),
            Phase(pct_final, (start, final), high, anneal=anneal),
        )
    )


def one_cycle_steady(
    momentum: float = 0.85,
    pct_start: float = 0.45,
    pct_final: float = 0.10,
    div_factor: float = 10.0,
    final_div_factor: float = 100.0,
    anneal: Anneal = "linear",
) -> Schedule:
    """The learning rate of `one_cycle` with a constant momentum.

    Momentum is .85 from the first step to the last, Smith's value at the peak. :doc:`Which schedule
    </which-schedule>` has what that gains on eight tasks.

    Args:
        momentum: In [0, 1).
        pct_start: As for `one_cycle`.
        pct_final: As for `one_cycle`.
        div_factor: As for `one_cycle`.
        final_div_factor: As for `one_cycle`.
        anneal: As for `one_cycle`.

    Returns:
        The schedule.

    Raises:
        ValueError: If a value is outside its range.

    Example:
        >>> trace = one_cycle_steady().trace(11)
        >>> [round(point.lr, 4) for point in trace]
        [0.1, 0.325, 0.55, 0.775, 1.0, 0.775, 0.55, 0.325, 0.1, 0.0505, 0.001]
        >>> {point.momentum for point in trace}
        {0.85}
    """
    momentum = number("momentum", momentum, "in [0, 1)", lambda v: 0 <= v < 1)
    cycle = one_cycle(
        pct_start, pct_final, div_factor, final_div_factor, anneal, cycle_momentum=False
    )
    return cycle.with_momentum(momentum, momentum)


def triangular(
    cycles: int = 1,
    div_factor: float = 10.0,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: float = 0.79,
    cycle_momentum: bool = False,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
) -> Schedule:
    r"""Cyclical learning rates: Smith, arXiv:1506.01186, section 3.

    Each cycle climbs linearly from :math:`b = 1 / \text{div\_factor}` to the peak and comes back in
    as many steps. The modes differ in the bounds:

    - ``"triangular"``: every cycle is the same.
    - ``"triangular2"``: the amplitude, peak less :math:`b`, is halved after each cycle.
    - ``"exp_range"``: both bounds fall by the factor ``gamma`` a cycle, continuously.

    Args:
        cycles: Number of cycles in the run, at least 1. The paper's rule is a cycle of 4 to 20
            epochs, and to stop at the end of one.
        div_factor: The upper bound over the lower, >= 1.
        mode: One of the three above.
        gamma: For ``"exp_range"``, in (0, 1]. The default is the paper's 0.99994 an iteration over
            its cycle of 4000 iterations.
        cycle_momentum: Whether momentum runs the other way, in every cycle over its whole range.
        base_momentum: Momentum at each top, in [0, 1).
        max_momentum: Momentum at each bottom, in [``base_momentum``, 1).

    Returns:
        The schedule.

    Raises:
        ValueError: If a value is outside its range.

    Example:
        >>> [round(point.lr, 2) for point in triangular(div_factor=5).trace(10)]
        [0.2, 0.4, 0.6, 0.8, 1.0, 0.84, 0.68, 0.52, 0.36, 0.2]
        >>> peaks = [phase.lr[1] for phase in triangular(3, mode="triangular2").phases[::2]]
        >>> [round(peak, 3) for peak in peaks]
        [1.0, 0.55, 0.325]
    """
    cycles = whole("cycles", cycles, 1)
    div_factor = number("div_factor", div_factor, ">= 1", lambda v: v >= 1)
    choice("mode", mode, ("triangular", "triangular2", "exp_range"))
    gamma = number("gamma", gamma, "in (0, 1]", lambda v: 0 < v <= 1)
    momentum = _momentum_range(cycle_momentum, base_momentum, max_momentum)
    up, down, _ = (None, None, None) if momentum is None else momentum
    low = 1.0 / div_factor
    phases = []
    for cycle in range(cycles):
        bottom, top, next_bottom = low, 1.0, low
        if mode == "triangular2":
            top = low + (1.0 - low) * 0.5**cycle
        elif mode == "exp_range":
            bottom, top, next_bottom = (
                low * gamma**cycle,
                gamma ** (cycle + 0.5),
                low * gamma ** (cycle + 1),
            )
        phases += [
            Phase(0.5 / cycles, (bottom, top), up),
            Phase(0.5 / cycles, (top, next_bottom), down),
        ]
    return Schedule(tuple(phases))


def step_decay(
    milestones: Sequence[float] = (0.5, 0.75),
    gamma: float = 0.1,
    warmup: float = 0.0,
    warmup_div_factor: float = 10.0,
) -> Schedule:
    r"""The standard regime: constant pieces, each ``gamma`` times the one before.

    The baseline that 1cycle is compared with (Smith and Topin, arXiv:1708.07120, section 2), with
    the gradual warm-up of Goyal et al., arXiv:1706.02677, section 2.2, as an option: a straight
    line from :math:`1 / \text{warmup\_div\_factor}` to 1. There the factor is the number of times
    that the batch has grown.

    Args:
        milestones: Fractions of the run at which the learning rate falls, rising, in (0, 1).
        gamma: Factor at each milestone, > 0.
        warmup: Fraction of the run that warms up, in [0, first milestone). 0 is none.
        warmup_div_factor: The full learning rate over the first of the warm-up, >= 1.

    Returns:
        The schedule.

    Raises:
        ValueError: If a value is outside its range, or the milestones do not rise.

    Example:
        >>> [point.lr for point in step_decay().trace(8)]
        [1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.010000000000000002, 0.010000000000000002]
    """
    if isinstance(milestones, str) or not isinstance(milestones, Sequence):
        raise ValueError(f"milestones must be a list of fractions, got {milestones!r}")
    marks = [number("milestones", m, "in (0, 1), each", lambda v: 0 < v < 1) for m in milestones]
    if sorted(set(marks)) != marks:
        raise ValueError(f"milestones must rise, got {milestones!r}")
    gamma = number("gamma", gamma, "> 0", lambda v: v > 0)
    first = marks[0] if marks else 1.0
    rule = f"in [0, first milestone) = [0, {first:g})"
    warmup = number("warmup", warmup, rule, lambda v: 0 <= v < first)
    divide = number("warmup_div_factor", warmup_div_factor, ">= 1", lambda v: v >= 1)
    edges = [warmup, *marks, 1.0]
    return Schedule(
        (
            Phase(warmup, (1.0 / divide, 1.0)),
            *(
                Phase(end - start, (gamma**piece, gamma**piece))
                for piece, (start, end) in enumerate(pairwise(edges))
            ),
        )
    )


def warmup_cosine(
    warmup: float = 0.05, div_factor: float = 100.0, final_factor: float = 0.0
) -> Schedule:
    r"""A linear warm-up, then half a cosine down: Loshchilov and Hutter, arXiv:1608.03983, eq. 5.

    Args:
        warmup: Fraction of the run that climbs, in [0, 1). 0 is none.
        div_factor: The peak over the first learning rate of the warm-up, >= 1.
        final_factor: The last learning rate over the peak, in [0, 1].

    Returns:
        The schedule.

    Raises:
        ValueError: If a value is outside its range.

    Example:
        >>> [round(point.lr, 3) for point in warmup_cosine(warmup=0.25, div_factor=10).trace(8)]
        [0.1, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067, 0.0]
    """
    warmup = number("warmup", warmup, "in [0, 1)", lambda v: 0 <= v < 1)
    div_factor = number("div_factor", div_factor, ">= 1", lambda v: v >= 1)
    final = number("final_factor", final_factor, "in [0, 1]", lambda v: 0 <= v <= 1)
    return Schedule(
        (
            Phase(warmup, (1.0 / div_factor, 1.0)),
            Phase(1.0 - warmup, (1.0, final), anneal="cos"),
        )
    )


def trapezoid(
    warmup: float = 0.1,
    cooldown: float = 0.2,
    div_factor: float = 100.0,
    final_factor: float = 0.0,
) -> Schedule:
    """Up, level, down, in straight lines: warm-up, stable, decay.

    The form of Xing et al., "A walk with SGD", arXiv:1802.08770, section 5, and of the schedules
    for budgets that are not known beforehand (Hägele et al., arXiv:2405.18392).

    Args:
        warmup: Fraction of the run that climbs, in [0, 1). 0 is none.
        cooldown: Fraction of the run that comes down, in [0, 1 - ``warmup``].
        div_factor: The level over the first learning rate of the warm-up, >= 1.
        final_factor: The last learning rate over the level, in [0, 1].

    Returns:
        The schedule.

    Raises:
        ValueError: If a value is outside its range.

    Example:
        >>> [round(p.lr, 2) for p in trapezoid(warmup=0.3, cooldown=0.3, div_factor=10).trace(10)]
        [0.1, 0.55, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    warmup = number("warmup", warmup, "in [0, 1)", lambda v: 0 <= v < 1)
    rest = 1.0 - warmup
    rule = f"in [0, 1 - warmup] = [0, {rest:g}]"
    # 1 - 0.9 is a little less than 0.1.
    cooldown = min(number("cooldown", cooldown, rule, lambda v: 0 <= v <= rest + 1e-9), rest)
    div_factor = number("div_factor", div_factor, ">= 1", lambda v: v >= 1)
    final = number("final_factor", final_factor, "in [0, 1]", lambda v: 0 <= v <= 1)
    return Schedule(
        (
            Phase(warmup, (1.0 / div_factor, 1.0)),
            Phase(rest - cooldown, (1.0, 1.0)),
            Phase(cooldown, (1.0, final)),
        )
    )


def constant() -> Schedule:
    """The optimizer's own learning rate, throughout.

    Example:
        >>> constant().at(7, 10)
        Point(lr=1.0, momentum=None, weight_decay=1.0)
    """
    return Schedule((Phase(1.0, (1.0, 1.0)),))


def lr_range(
    min_factor: float,
    max_factor: float,
    anneal: Literal["linear", "exp"] = "exp",
    momentum: float | None = None,
) -> Schedule:
    r"""The LR range test: one sweep from low to high.

    :math:`\eta_k = \eta_0 (\eta_{N-1} / \eta_0)^{k / (N - 1)}`, evenly spaced on a logarithmic
    axis, or on a linear one as in Smith, arXiv:1506.01186, section 3.3.

    Args:
        min_factor: The first learning rate, as a factor of the optimizer's, > 0.
        max_factor: The last, > ``min_factor``.
        anneal: ``"exp"`` or ``"linear"``.
        momentum: Momentum throughout, in [0, 1), or None to leave it alone.

    Returns:
        The schedule.

    Raises:
        ValueError: If a value is outside its range.

    Example:
        >>> [round(point.lr, 6) for point in lr_range(1e-3, 10.0).trace(5)]
        [0.001, 0.01, 0.1, 1.0, 10.0]
    """
    low = number("min_factor", min_factor, "> 0", lambda v: v > 0)
    high = number("max_factor", max_factor, f"> min_factor = {low:g}", lambda v: v > low)
    choice("anneal", anneal, ("linear", "exp"))
    level = None
    if momentum is not None:
        momentum = number("momentum", momentum, "in [0, 1)", lambda v: 0 <= v < 1)
        level = (momentum, momentum)
    return Schedule((Phase(1.0, (low, high), level, anneal=anneal),))


def _momentum_range(
    cycle: bool, base: float, high: float
) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]] | None:
    """Return momentum's way down, up, and level at its maximum; None where it is not cycled."""
    if not cycle:
        return None
    base = number("base_momentum", base, "in [0, 1)", lambda v: 0 <= v < 1)
    rule = f"in [base_momentum, 1) = [{base:g}, 1)"
    high = number("max_momentum", high, rule, lambda v: base <= v < 1)
    return (high, base), (base, high), (high, high)
