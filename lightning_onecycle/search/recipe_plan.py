"""How the recipe divides its steps among its stages. Pure Python."""

from __future__ import annotations

import math
from typing import NamedTuple

from lightning_onecycle.search.plan import probe_steps

_LONGEST, _SHORTEST, _FEWEST_STEPS, _FEWEST_POINTS = 1 / 4, 1 / 8, 10, 50
PEAKS = 3
"""Probes of the search over peaks that are always paid for."""
FIRST_ROUND, LAST_ROUND = "longer trainings", "whole trainings"
ROUNDS = {FIRST_ROUND: (1 / 2, 3), LAST_ROUND: (1.0, 2)}
"""Of each round of longer probes: the length, as a part of the training, and how many at most."""


class Shares(NamedTuple):
    """The length of a probe, and the steps that the search over peaks may spend."""

    length: int
    peaks: int


class RangeTests(NamedTuple):
    """How many range tests there are, and the steps of each."""

    tests: int
    steps: int


def range_tests(
    total_steps: int, budget: int, weight_decays: int, num_training: int | None = None
) -> RangeTests:
    """Return a range test for each weight decay, or one in all, of 300 steps at most.

    Together they have a fifth of the budget, or a quarter where that is fewer than 100 steps, and
    all of it where no probes fit in beside them. Where each had fewer than 50 steps, they would not
    tell weight decays apart, and there is one alone.

    Args:
        total_steps: Optimizer steps of the training.
        budget: Steps that may be spent.
        weight_decays: How many are to be tried.
        num_training: Steps of each test, where they are given.

    Example:
        >>> range_tests(1000, 3000, 4), range_tests(20_000, 60_000, 4)
        (RangeTests(tests=4, steps=150), RangeTests(tests=4, steps=300))
        >>> range_tests(300, 900, 4), range_tests(100, 10, 4)
        (RangeTests(tests=1, steps=180), RangeTests(tests=1, steps=10))
    """
    if num_training is not None:
        return RangeTests(weight_decays, num_training)
    together = max(budget // 5, min(100, budget // 4))
    if not probe_steps(total_steps, budget - together)[0]:
        together = budget
    tests = weight_decays if together >= weight_decays * _FEWEST_POINTS else 1
    return RangeTests(tests, min(300, together // tests))


def shares(total_steps: int, left: int, others: int) -> Shares:
    """Divide what the range tests have left.

    Beside the probes, two longer ones of half of the training are to fit in. A probe has an eighth
    of the training at least, and a quarter at most.

    Args:
        total_steps: Optimizer steps of the training.
        left: Steps that may be spent.
        others: Probes of the weight decays and the momenta.

    Returns:
        The length, 0 where not even two probes fit in, and the steps for the peaks.

    Example:
        >>> shares(1000, 2400, others=5)
        Shares(length=175, peaks=525)
        >>> shares(1000, 800, others=5)
        Shares(length=125, peaks=375)
    """
    longer = 2 * int(total_steps * ROUNDS[FIRST_ROUND][0])
    wanted = (left - longer) // (PEAKS + others)
    shortest = max(math.ceil(total_steps * _SHORTEST), _FEWEST_STEPS)
    length = max(min(wanted, int(total_steps * _LONGEST)), shortest)
    if left < PEAKS * length:
        length = probe_steps(total_steps, left)[1]
        return Shares(length, left)
    return Shares(length, PEAKS * length)


def round_of(name: str, total_steps: int, left: int, length: int) -> tuple[int, int]:
    """Return the length of the probes of a round, and how many of them fit in.

    Where two of the first round do not fit in, they are shorter, down to twice those before. There
    are two and not three where that leaves enough for the last round.

    Args:
        name: One of ``ROUNDS``.
        total_steps: Optimizer steps of the training.
        left: Steps that may be spent.
        length: Steps of the probes before.

    Returns:
        The two, or zeros where not even two probes fit in.

    Example:
        >>> [round_of("longer trainings", 1000, left, 175) for left in (3000, 1600, 1000, 800, 600)]
        [(500, 2), (500, 3), (500, 2), (400, 2), (0, 0)]
    """
    part, most = ROUNDS[name]
    steps = int(total_steps * part)
    if name == FIRST_ROUND:
        steps = min(steps, left // 2)
        last_round = 2 * total_steps
        left -= last_round if left >= 2 * steps + last_round else 0
    count = min(most, left // max(steps, 1))
    return (steps, count) if count >= 2 and steps >= 2 * length else (0, 0)


def planned(total_steps: int, left: int, weight_decays: int, momenta: int) -> str:
    """Return in words which trainings follow the range tests.

    Args:
        total_steps: Optimizer steps of the training.
        left: Steps that may be spent on them.
        weight_decays: Other weight decays that are to be tried.
        momenta: Other momenta that are to be tried.

    Example:
        >>> planned(1000, 600, weight_decays=3, momenta=2)
        'then short trainings of 125: 3 for peaks, 1 for weight decays; no room for longer ones'
    """
    length, _ = shares(total_steps, left, weight_decays + momenta)
    if not length:
        return "and no short training, which does not fit in"
    fit_in = []
    for name, wanted in (("peaks", PEAKS), ("weight decays", weight_decays), ("momenta", momenta)):
        count = min(wanted, left // length)
        left -= count * length
        fit_in += [f"{count} for {name}"] if count else []
    _, longer = round_of(FIRST_ROUND, total_steps, left, length)
    then = "then longer ones of the best" if longer else "no room for longer ones"
    return f"then short trainings of {length:,}: {', '.join(fit_in)}; {then}"
