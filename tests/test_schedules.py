"""Schedules against torch, against published logs, by hand, and by property."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import lightning_onecycle
from lightning_onecycle.schedules import (
    Phase,
    Point,
    Schedule,
    Segment,
    constant,
    lr_range,
    one_cycle,
    one_cycle_steady,
    step_decay,
    trapezoid,
    triangular,
    warmup_cosine,
)

properties = settings(deadline=None, max_examples=100)


def lrs(schedule: Schedule, total_steps: int) -> list[float]:
    return [point.lr for point in schedule.trace(total_steps)]


def momenta(schedule: Schedule, total_steps: int) -> list[float]:
    return [point.momentum for point in schedule.trace(total_steps) if point.momentum is not None]


# ---------------------------------------------------------------------------------------- torch


def torch_trace(total_steps: int, **arguments: Any) -> list[tuple[float, float]]:
    """Return the learning rate and momentum of torch's ``OneCycleLR`` at every step."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, total_steps=total_steps, base_momentum=0.85, max_momentum=0.95, **arguments
    )
    points = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimizer never steps
        for _ in range(total_steps):
            group = optimizer.param_groups[0]
            points.append((group["lr"], group["momentum"]))
            scheduler.step()
    return points


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize(
    ("total", "pct_start"),
    [(10, 0.3), (11, 3 / 11), (20, 0.45), (100, 0.25), (100, 0.45), (250, 0.3), (1000, 0.123)],
)
@pytest.mark.parametrize("three_phase", [False, True], ids=["two-phase", "three-phase"])
@pytest.mark.parametrize(("div", "final_div"), [(10.0, 100.0), (25.0, 1e4)])
def test_equals_torch_where_its_phases_end_on_whole_steps(
    total: int, pct_start: float, three_phase: bool, anneal: str, div: float, final_div: float
) -> None:
    peak = 0.7
    theirs = torch_trace(
        total,
        max_lr=peak,
        pct_start=pct_start,
        three_phase=three_phase,
        anneal_strategy=anneal,
        div_factor=div,
        final_div_factor=final_div,
    )
    ours = one_cycle(
        pct_start=pct_start,
        pct_final=1 - 2 * pct_start if three_phase else 0,
        div_factor=div,
        final_div_factor=final_div,
        anneal=anneal,  # type: ignore[arg-type]
    )
    # torch's start + (end - start) * progress rounds at the scale of the phase's larger end, so
    # where it has come down to a millionth of that, its own relative error is some 1e-16 * 1e6.
    tiny = 1e-16 * peak
    for step, ((lr, momentum), point) in enumerate(
        zip(theirs, ours.trace(total), strict=True), start=0
    ):
        assert peak * point.lr == pytest.approx(lr, rel=1e-12, abs=tiny), step
        assert point.momentum == pytest.approx(momentum, rel=1e-12), step


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True], ids=["two-phase", "three-phase"])
@pytest.mark.parametrize(
    ("total", "pct_start"), [(11, 0.3), (7, 0.4), (101, 0.45), (99, 0.25), (1003, 0.123)]
)
def test_meets_the_peak_where_torch_misses_it(
    total: int, pct_start: float, three_phase: bool, anneal: str
) -> None:
    theirs = torch_trace(
        total, max_lr=1.0, pct_start=pct_start, three_phase=three_phase, anneal_strategy=anneal
    )
    ours = one_cycle(
        pct_start,
        1 - 2 * pct_start if three_phase else 0,
        div_factor=25,
        final_div_factor=1e4,
        anneal=anneal,  # type: ignore[arg-type]
    )
    assert max(lr for lr, _ in theirs) < 1 - 1e-6
    assert lrs(ours, total).count(1.0) == 1
    assert momenta(ours, total).count(0.85) == 1


# ------------------------------------------------------------------------------ published numbers


def smith_caffe(ratio: float, stepsize: int, total: int, high: float, low: float) -> Schedule:
    """Build the policy as Smith's Caffe solver runs it, from the formulas of its logs.

    Up from base = ratio * max over ``stepsize`` iterations; down in as many, aimed at 0 but never
    below base / 1000; then level. Momentum mirrors it, and starts on a second dip of half the
    depth when the cycle is over: arXiv:1803.09820, appendix A.2.
    """
    tail = total - 2 * stepsize
    dip = (low - high) * (tail - 1) / (2 * stepsize)
    return Schedule(
        (
            Phase((stepsize + 1) / total, (ratio, 1.0), (high, low)),
            Phase(
                (stepsize - 1) / total,
                (1.0, 1.0 / stepsize),
                (low, high + (low - high) / stepsize),
            ),
            Phase(tail / total, (ratio / 1000, ratio / 1000), (high, high + dip)),
        )
    )


SMITH_LOGS: list[tuple[float, float, int, int, Sequence[float], dict[int, Sequence[float]]]] = [
    (
        *(0.08, 0.8, 4003, 9277, (0.95, 0.85)),
        {
            0: (0.08,),
            1200: (0.295838,),
            3600: (0.727514,),
            4000: (0.79946,),
            4400: (0.72066,),
            6000: (0.400899,),
            7200: (0.161079,),
            8000: (0.00119905,),
            8200: (8e-05,),
            9276: (8e-05,),
        },
    ),
    (
        *(0.1, 1.2, 3417, 7594, (0.95, 0.85)),
        {
            600: (0.293152, 0.932441),
            2700: (0.969184, 0.870983),
            3400: (1.19453, 0.850498),
            4100: (0.96014, 0.869988),
            6200: (0.222651, 0.931446),
            7000: (0.0001, 0.947571),
        },
    ),
    (
        *(0.1, 4.0, 2148, 4774, (0.9, 0.8)),
        {
            800: (1.55251, 0.862756),
            2200: (3.90317, 0.802421),
            4200: (0.178771, 0.895531),
        },
    ),
]


@pytest.mark.parametrize(("base", "peak", "stepsize", "total", "momentum", "log"), SMITH_LOGS)
def test_phases_express_what_smith_logged(
    base: float,
    peak: float,
    stepsize: int,
    total: int,
    momentum: tuple[float, float],
    log: dict[int, tuple[float, ...]],
) -> None:
    schedule = smith_caffe(base / peak, stepsize, total, *momentum)
    # Caffe computes in single precision and prints six digits. Near the cycle's end the rate is
    # the small difference of numbers of the peak's size: hence an absolute term, 2^-23 of it.
    single = peak * 2**-23
    for step, logged in log.items():
        point = schedule.at(step, total)
        assert peak * point.lr == pytest.approx(logged[0], rel=4e-5, abs=single), step
        if logged[1:]:
            assert point.momentum == pytest.approx(logged[1], abs=5e-7), step


def gugger(
    step: int, total: int, peak: float, div: float, pct: float, high: float, low: float
) -> tuple[float, float]:
    """Evaluate the policy of Gugger's experiments, as defined: (learning rate, momentum)."""
    half = int(total * (1 - pct / 100) / 2)
    if step > 2 * half:
        progress = (step - 2 * half) / (total - 2 * half)
        return peak / div * (1 - 0.99 * progress), high
    progress = 1 - abs(step - half) / half
    return peak / div * (1 + progress * (div - 1)), high + progress * (low - high)


GUGGER: dict[str, tuple[int, float, float, float, dict[int, tuple[float, float]]]] = {
    "exp1": (
        *(9310, 0.8, 10, 13.68),
        {
            0: (0.08, 0.95),
            2009: (0.44, 0.90),
            4018: (0.8, 0.85),
            6027: (0.44, 0.90),
            8036: (0.08, 0.95),
            8673: (0.0404, 0.95),
            9309: (0.000862166, 0.95),
        },
    ),
    "exp2": (*(9310, 0.8, 10, 50), {0: (0.08, 0.95), 2327: (0.8, 0.85), 4654: (0.08, 0.95)}),
    "exp3": (
        *(4900, 3.0, 20, 10),
        {
            0: (0.15, 0.95),
            2205: (3.0, 0.85),
            4410: (0.15, 0.95),
            4655: (0.07575, 0.95),
            4899: (0.00180306, 0.95),
        },
    ),
}


@pytest.mark.parametrize(("total", "peak", "div", "pct", "golden"), GUGGER.values(), ids=GUGGER)
def test_gugger_experiments(
    total: int, peak: float, div: float, pct: float, golden: dict[int, tuple[float, float]]
) -> None:
    for step, values in golden.items():
        assert gugger(step, total, peak, div, pct, 0.95, 0.85) == pytest.approx(values, rel=2e-6)

    # With his phase ends, in whole points, the cycle is the same to rounding. His tail meets
    # base / 100 at step `total`, one step after the last; ours at the last, so within the tail
    # they part by at most one step of its slope.
    half = int(total * (1 - pct / 100) / 2)
    points = (half + 1) / total
    exact = one_cycle(points, 1 - 2 * points, div_factor=div)
    tail_slope = 0.99 * peak / div / (total - 1 - 2 * half)
    for step in range(total):
        lr, momentum = gugger(step, total, peak, div, pct, 0.95, 0.85)
        slack = tail_slope if step > 2 * half else 0.0
        assert peak * exact.at(step, total).lr == pytest.approx(lr, rel=1e-12, abs=slack)
        assert exact.at(step, total).momentum == pytest.approx(momentum, rel=1e-12)

    # With his percentages as they are: a shared point and rounding move a phase's end by at most
    # three steps, so the values part by at most three steps of the cycle's slope.
    plain = one_cycle((1 - pct / 100) / 2, pct / 100, div_factor=div)
    for step in range(total):
        lr, momentum = gugger(step, total, peak, div, pct, 0.95, 0.85)
        slack = 3 * (peak - peak / div) / half
        assert peak * plain.at(step, total).lr == pytest.approx(lr, abs=slack)
        assert plain.at(step, total).momentum == pytest.approx(momentum, abs=3 * 0.1 / half)


def combined_cos(position: float, pct: float, start: float, middle: float, end: float) -> float:
    """Evaluate fastai's ``combined_cos``, from its definition, at ``position`` in [0, 1]."""
    if position < pct:
        a, b, progress = start, middle, position / pct
    else:
        a, b, progress = middle, end, (position - pct) / (1 - pct)
    return a + (1 + math.cos(math.pi * (1 - progress))) * (b - a) / 2


def test_has_the_shape_of_fastai() -> None:
    pct, div, div_final = 0.25, 25, 1e5
    total = 2000
    schedule = one_cycle(
        pct_start=pct, pct_final=0, div_factor=div, final_div_factor=div_final / div, anneal="cos"
    )
    up, down = schedule.segments(total)
    for step in range(total):
        # fastai counts in fractions; ours puts the joint and the end on whole steps.
        position = (
            pct * step / up.end
            if step <= up.end
            else pct + (1 - pct) * (step - up.end) / (down.end - down.start)
        )
        point = schedule.at(step, total)
        lr = combined_cos(position, pct, 1 / div, 1.0, 1 / div_final)
        assert point.lr == pytest.approx(lr, rel=1e-9, abs=1e-15), step
        momentum = combined_cos(position, pct, 0.95, 0.85, 0.95)
        assert point.momentum == pytest.approx(momentum, rel=1e-12), step


# ---------------------------------------------------------------------------------------- by hand


def of(schedule: Schedule, *expected: float) -> Any:
    return schedule, expected


# One point for each step; how many are listed is the length of the run.
GOLDEN_LRS = {
    "one_cycle-1": of(one_cycle(), 0.1),
    "one_cycle-2": of(one_cycle(), 0.1, 1),
    "one_cycle-3": of(one_cycle(), 0.1, 1, 0.1),
    "one_cycle-4": of(one_cycle(), 0.1, 1, 0.1, 0.001),
    # 0.45 of 11 are 5 points; so are the next, the first of them shared; and the rest are 3.
    "one_cycle-11": of(
        one_cycle(), 0.1, 0.325, 0.55, 0.775, 1, 0.775, 0.55, 0.325, 0.1, 0.0505, 0.001
    ),
    "one_cycle-two-phase": of(
        one_cycle(0.4, 0, div_factor=4, final_div_factor=10), 0.25, 1, 0.675, 0.35, 0.025
    ),
    "one_cycle-exp": of(
        one_cycle(3 / 7, 1 / 7, div_factor=100, final_div_factor=10, anneal="exp"),
        *(0.01, 0.1, 1, 0.1, 0.01, 10**-2.5, 0.001),
    ),
    "triangular-1": of(triangular(div_factor=5), 0.2),
    "triangular-9": of(triangular(div_factor=5), 0.2, 0.4, 0.6, 0.8, 1, 0.8, 0.6, 0.4, 0.2),
    # Quarters of 12 are 3 points each; three shared points are left to the last one.
    "triangular-two": of(
        triangular(2, div_factor=5), 0.2, 0.6, 1, 0.6, 0.2, 0.6, 1, 0.84, 0.68, 0.52, 0.36, 0.2
    ),
    "triangular2": of(
        triangular(2, div_factor=5, mode="triangular2"),
        *(0.2, 0.6, 1, 0.6, 0.2, 0.4, 0.6, 0.52, 0.44, 0.36, 0.28, 0.2),
    ),
    "one_cycle_steady": of(
        one_cycle_steady(pct_start=0.4, pct_final=0.2),
        *(0.1, 0.4, 0.7, 1.0, 0.7, 0.4, 0.1, 0.067, 0.034, 0.001),
    ),
    # Bottoms 1/4, 1/16, 1/64 and, half a cycle later, tops 1/2, 1/8.
    "exp_range": of(
        triangular(2, div_factor=4, mode="exp_range", gamma=0.25),
        *(0.25, 0.375, 0.5, 0.28125, 0.0625, 0.09375, 0.125),
        *(0.103125, 0.08125, 0.059375, 0.0375, 0.015625),
    ),
    # 0.75 of 10 is 7.5, rounded to 8.
    "step_decay": of(step_decay(), 1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01),
    "step_decay-quarters": of(step_decay((0.25, 0.5), 0.5), 1, 1, 1, 0.5, 0.5, *[0.25] * 5),
    "step_decay-none": of(step_decay(()), 1, 1, 1),
    # The warm-up does not move the milestones.
    "step_decay-warmup": of(
        step_decay(warmup=0.3, warmup_div_factor=4),
        *(0.25, 0.625, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01),
    ),
    "warmup_cosine": of(
        warmup_cosine(0.4, div_factor=10, final_factor=0.2),
        *(0.1, 0.4, 0.7, 1, 0.6 + 0.2 * 3**0.5, 0.8, 0.6, 0.4, 0.6 - 0.2 * 3**0.5, 0.2),
    ),
    "warmup_cosine-cold": of(warmup_cosine(0), 1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0),
    "trapezoid": of(
        trapezoid(0.2, 0.4, div_factor=4, final_factor=0.2),
        *(0.25, 1, 1, 1, 1, 0.84, 0.68, 0.52, 0.36, 0.2),
    ),
    "trapezoid-4": of(trapezoid(), 0.01, 1, 1, 0),
    "trapezoid-level": of(trapezoid(0, 0), 1, 1, 1),
    "constant": of(constant(), 1, 1, 1, 1),
    "lr_range-exp": of(lr_range(0.01, 1), 0.01, 0.1**1.5, 0.1, 0.1**0.5, 1),
    "lr_range-linear": of(lr_range(1, 5, anneal="linear"), 1, 2, 3, 4, 5),
}


@pytest.mark.parametrize(("schedule", "expected"), GOLDEN_LRS.values(), ids=GOLDEN_LRS)
def test_learning_rates_by_hand(schedule: Schedule, expected: Sequence[float]) -> None:
    assert lrs(schedule, len(expected)) == pytest.approx(expected, rel=1e-12, abs=1e-15)


GOLDEN_MOMENTA = {
    "one_cycle-1": of(one_cycle(), 0.95),
    "one_cycle-2": of(one_cycle(), 0.95, 0.85),
    "one_cycle-3": of(one_cycle(), 0.95, 0.85, 0.95),
    "one_cycle-4": of(one_cycle(), 0.95, 0.85, 0.95, 0.95),
    "one_cycle-11": of(
        one_cycle(), 0.95, 0.925, 0.9, 0.875, 0.85, 0.875, 0.9, 0.925, 0.95, 0.95, 0.95
    ),
    "one_cycle_steady": of(one_cycle_steady(), 0.85, 0.85, 0.85, 0.85),
    "triangular": of(
        triangular(mode="triangular2", cycle_momentum=True, base_momentum=0.8, max_momentum=0.9),
        *(0.9, 0.85, 0.8, 0.85, 0.9),
    ),
    "lr_range": of(lr_range(1e-3, 1, momentum=0.85), 0.85, 0.85, 0.85),
}


@pytest.mark.parametrize(("schedule", "expected"), GOLDEN_MOMENTA.values(), ids=GOLDEN_MOMENTA)
def test_momenta_by_hand(schedule: Schedule, expected: Sequence[float]) -> None:
    assert momenta(schedule, len(expected)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "schedule",
    [
        one_cycle(cycle_momentum=False),
        triangular(),
        step_decay(),
        warmup_cosine(),
        trapezoid(),
        constant(),
        lr_range(0.1, 1),
    ],
)
def test_leaves_alone_what_it_does_not_schedule(schedule: Schedule) -> None:
    assert {(p.momentum, p.weight_decay) for p in schedule.trace(50)} == {(None, 1.0)}
    assert schedule.peak_momentum is None
    assert not schedule.schedules_weight_decay


def test_exp_takes_a_level_of_zero() -> None:
    """Plain SGD has no momentum, and a range test must be able to say so."""
    assert momenta(lr_range(0.1, 1, momentum=0), 3) == [0, 0, 0]
    assert Phase(1, (0.1, 1), weight_decay=(0, 0), anneal="exp").at(0.5).weight_decay == 0


def test_weight_decay_is_annealed_like_the_rest() -> None:
    schedule = Schedule((Phase(1.0, (1.0, 0.5), weight_decay=(1.0, 3.0)),))
    assert [p.weight_decay for p in schedule.trace(3)] == [1.0, 2.0, 3.0]
    assert schedule.schedules_weight_decay


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (one_cycle(), 0.85),
        (one_cycle(base_momentum=0.8, pct_final=0), 0.8),
        (triangular(3, mode="triangular2", cycle_momentum=True), 0.85),
        (lr_range(0.1, 1, momentum=0.7), 0.7),
        (constant(), None),
    ],
)
def test_peak_momentum(schedule: Schedule, expected: float | None) -> None:
    assert schedule.peak_momentum == expected


def test_a_schedule_is_data() -> None:
    assert one_cycle() == one_cycle()
    assert len({one_cycle(), one_cycle(), triangular()}) == 2
    assert Schedule([Phase(1, [0, 1])]) == Schedule((Phase(1.0, (0.0, 1.0)),))  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        one_cycle().phases = ()  # type: ignore[misc]


def test_takes_numbers_of_other_kinds() -> None:
    assert one_cycle(pct_start=torch.tensor(0.5), div_factor=10) == one_cycle(pct_start=0.5)  # type: ignore[arg-type]
    assert constant().trace(torch.tensor(3)) == constant().trace(3)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------- properties


@st.composite
def one_cycles(draw: st.DrawFn) -> Schedule:
    pct_start = draw(st.floats(0, 1, exclude_min=True, exclude_max=True))
    pct_final = draw(st.just(0.0) | st.floats(0, 1 - pct_start, exclude_max=True))
    base, high = sorted(draw(st.tuples(*[st.floats(0, 0.999)] * 2)))
    return one_cycle(
        pct_start,
        pct_final,
        # From 1.001: closer to 1, the steps about the peak are not apart in floating point.
        div_factor=draw(st.floats(1.001, 1e4)),
        final_div_factor=draw(st.floats(1, 1e6)),
        anneal=draw(st.sampled_from(["linear", "cos"] + ["exp"] * (base > 0))),
        base_momentum=base,
        max_momentum=high,
    )


@st.composite
def any_schedules(draw: st.DrawFn) -> Schedule:
    weights = draw(
        st.lists(st.just(0.0) | st.floats(1e-4, 1), min_size=1, max_size=8).filter(any),
    )
    positive = st.floats(1e-6, 1e3)
    joins = draw(st.lists(st.booleans(), min_size=len(weights), max_size=len(weights)))
    phases: list[Phase] = []
    for weight, joins_on in zip(weights, joins, strict=True):
        ends = [draw(positive), draw(positive)]
        momentum = [draw(st.floats(0.01, 0.99)), draw(st.floats(0.01, 0.99))]
        if phases and joins_on:
            ends[0] = phases[-1].lr[1]
            momentum[0] = (phases[-1].momentum or (0.0, 0.0))[1]
        phases.append(
            Phase(
                weight / math.fsum(weights),
                (ends[0], ends[1]),
                (momentum[0], momentum[1]),
                anneal=draw(st.sampled_from(["linear", "cos", "exp"])),
            )
        )
    return Schedule(tuple(phases))


lengths = st.integers(1, 5) | st.integers(1, 5000)


def check_cover(schedule: Schedule, segments: Sequence[Segment], total_steps: int) -> None:
    """Check that segments lie over the steps 0 ... total_steps - 1 without a gap."""
    assert segments[0].start == 0
    assert segments[-1].end == total_steps - 1
    assert all(isinstance(edge, int) for s in segments for edge in (s.start, s.end))
    assert all(segment.start <= segment.end for segment in segments)
    assert all(segment.phase.fraction > 0 for segment in segments)
    for before, after in pairwise(segments):
        shared = before.at(before.end) == after.phase.at(0.0)
        assert after.start == before.end + (not shared)
    remaining = iter(schedule.phases)  # in order, each at most once
    assert all(any(segment.phase == phase for phase in remaining) for segment in segments)


@properties
@given(one_cycles() | any_schedules(), lengths)
def test_segments_cover_the_run(schedule: Schedule, total_steps: int) -> None:
    check_cover(schedule, schedule.segments(total_steps), total_steps)


@properties
@given(one_cycles(), lengths)
def test_one_cycle_stays_within_its_bounds(schedule: Schedule, total_steps: int) -> None:
    final = schedule.phases[-1].lr[1]
    for lr in lrs(schedule, total_steps):
        assert math.isfinite(lr)
        assert 0 < final * (1 - 1e-12) <= lr <= 1


@properties
@given(one_cycles(), st.integers(3, 5) | st.integers(3, 5000))
def test_one_cycle_meets_its_peak_at_one_step(schedule: Schedule, total_steps: int) -> None:
    assert lrs(schedule, total_steps).count(1.0) == 1


@properties
@given(one_cycles(), lengths)
def test_momentum_mirrors_the_learning_rate(schedule: Schedule, total_steps: int) -> None:
    up, down, annihilation = schedule.phases
    assume(up.anneal != "exp")
    assert up.momentum is not None
    high, base = up.momentum
    for segment in schedule.segments(total_steps):
        for step in range(segment.start, segment.end + 1):
            lr, momentum, _ = segment.at(step)
            assert momentum is not None
            if segment.phase == annihilation:
                assert momentum == high
            else:
                # (high - momentum) / (high - base) == (lr - low) / (1 - low)
                low = min(segment.phase.lr)
                assert (high - momentum) * (1 - low) == pytest.approx(
                    (lr - low) * (high - base), abs=1e-12
                )
    assert down.lr[1] == (annihilation.lr[0] if annihilation.fraction else annihilation.lr[1])


@properties
@given(any_schedules() | one_cycles(), lengths)
def test_every_step_lies_within_its_phase(schedule: Schedule, total_steps: int) -> None:
    for segment in schedule.segments(total_steps):
        for step in {segment.start, (segment.start + segment.end) // 2, segment.end}:
            point = segment.at(step)
            assert segment.phase.momentum is not None
            assert point.momentum is not None
            for value, span in (
                (point.lr, segment.phase.lr),
                (point.momentum, segment.phase.momentum),
            ):
                assert min(span) * (1 - 1e-12) <= value <= max(span) * (1 + 1e-12)
        assert segment.at(segment.start) == segment.phase.at(0.0)
        if segment.end > segment.start:
            assert segment.at(segment.end) == segment.phase.at(1.0)


@properties
@given(any_schedules() | one_cycles(), st.integers(1, 300))
def test_trace_lists_what_at_returns(schedule: Schedule, total_steps: int) -> None:
    trace = schedule.trace(total_steps)
    assert trace == [schedule.at(step, total_steps) for step in range(total_steps)]
    assert all(isinstance(point, Point) for point in trace)
    assert schedule.trace(total_steps) == trace


@properties
@given(any_schedules() | one_cycles(), lengths, st.integers(0, 10**12))
def test_the_last_value_holds_for_ever(schedule: Schedule, total_steps: int, more: int) -> None:
    last = schedule.at(total_steps - 1, total_steps)
    assert schedule.at(total_steps + more, total_steps) == last


@properties
@given(any_schedules(), lengths)
def test_a_phase_of_fraction_zero_changes_nothing(schedule: Schedule, total_steps: int) -> None:
    kept = Schedule(tuple(phase for phase in schedule.phases if phase.fraction > 0))
    assert kept.trace(total_steps) == schedule.trace(total_steps)


@properties
@given(any_schedules(), st.integers(2000, 5000))
def test_phases_keep_to_their_fractions(schedule: Schedule, total_steps: int) -> None:
    assume(all(p.fraction == 0 or p.fraction * total_steps > 10 for p in schedule.phases))
    elapsed = 0.0
    phases = [phase for phase in schedule.phases if phase.fraction]
    segments = schedule.segments(total_steps)
    assert [segment.phase for segment in segments] == phases
    for segment, after in pairwise(segments):
        elapsed += segment.phase.fraction * total_steps
        early = elapsed - (segment.end + 1)
        if after.start == segment.end:
            assert -1 <= early <= 3  # a joint: two shared points and rounding
        else:
            assert abs(early) <= 0.5 + 1e-6  # a jump


@properties
@given(
    st.integers(1, 40),
    st.sampled_from(["triangular", "triangular2", "exp_range"]),
    st.integers(1, 5000),
)
def test_cycles_are_of_one_length(cycles: int, mode: Any, total_steps: int) -> None:
    half = total_steps / (2 * cycles)
    assume(half >= 4)
    segments = triangular(cycles, mode=mode).segments(total_steps)
    assert len(segments) == 2 * cycles
    for segment in segments:
        assert abs(segment.end - segment.start - half) <= 3


@properties
@given(
    st.lists(st.floats(0.05, 0.95), max_size=4, unique=True).map(sorted),
    st.floats(0, 0.04),
    st.integers(500, 5000),
)
def test_milestones_fall_where_they_are_set(
    milestones: list[float], warmup: float, total_steps: int
) -> None:
    assume(all(b - a > 0.01 for a, b in pairwise(milestones)))
    trace = lrs(step_decay(milestones, gamma=0.5, warmup=warmup), total_steps)
    drops = [step for step in range(1, total_steps) if trace[step] < trace[step - 1]]
    assert len(drops) == len(milestones)
    for step, milestone in zip(drops, milestones, strict=True):
        assert abs(step - milestone * total_steps) <= 0.5 + 1e-6


# --------------------------------------------------------------------------------------- bad input

NAN = float("nan")
BAD: list[tuple[Callable[[], Any], str]] = [
    # one_cycle
    (lambda: one_cycle(pct_start=1.5), "pct_start must be in (0, 1), got 1.5"),
    (lambda: one_cycle(pct_start=0), "pct_start must be in (0, 1), got 0"),
    (lambda: one_cycle(pct_start=NAN), "pct_start must be in (0, 1), got nan"),
    (lambda: one_cycle(pct_start="0.3"), "pct_start must be in (0, 1), got '0.3'"),  # type: ignore[arg-type]
    (lambda: one_cycle(pct_start=True), "pct_start must be in (0, 1), got True"),
    (
        lambda: one_cycle(0.25, pct_final=0.75),
        "pct_final must be in [0, 1 - pct_start) = [0, 0.75), got 0.75",
    ),
    (
        lambda: one_cycle(0.25, pct_final=-0.1),
        "pct_final must be in [0, 1 - pct_start) = [0, 0.75), got -0.1",
    ),
    (lambda: one_cycle(div_factor=0.5), "div_factor must be >= 1, got 0.5"),
    (lambda: one_cycle(div_factor=math.inf), "div_factor must be >= 1, got inf"),
    (lambda: one_cycle(final_div_factor=0), "final_div_factor must be >= 1, got 0"),
    (
        lambda: one_cycle(anneal="sin"),  # type: ignore[arg-type]
        "anneal must be one of 'linear', 'cos', 'exp', got 'sin'",
    ),
    (lambda: one_cycle(base_momentum=1.0), "base_momentum must be in [0, 1), got 1.0"),
    (
        lambda: one_cycle(base_momentum=0.9, max_momentum=0.8),
        "max_momentum must be in [base_momentum, 1) = [0.9, 1), got 0.8",
    ),
    # triangular
    (lambda: triangular(0), "cycles must be a whole number >= 1, got 0"),
    (lambda: triangular(1.5), "cycles must be a whole number >= 1, got 1.5"),  # type: ignore[arg-type]
    (lambda: triangular(div_factor=0.9), "div_factor must be >= 1, got 0.9"),
    (
        lambda: triangular(mode="square"),  # type: ignore[arg-type]
        "mode must be one of 'triangular', 'triangular2', 'exp_range', got 'square'",
    ),
    (lambda: triangular(gamma=0), "gamma must be in (0, 1], got 0"),
    (lambda: triangular(gamma=1.1), "gamma must be in (0, 1], got 1.1"),
    (
        lambda: triangular(cycle_momentum=True, max_momentum=1),
        "max_momentum must be in [base_momentum, 1) = [0.85, 1), got 1",
    ),
    # step_decay
    (lambda: step_decay((0.5, 1.0)), "milestones must be in (0, 1), each, got 1.0"),
    (lambda: step_decay((0.7, 0.5)), "milestones must rise, got (0.7, 0.5)"),
    (lambda: step_decay((0.5, 0.5)), "milestones must rise, got (0.5, 0.5)"),
    (lambda: step_decay(0.5), "milestones must be a list of fractions, got 0.5"),  # type: ignore[arg-type]
    (lambda: step_decay("0.5"), "milestones must be a list of fractions, got '0.5'"),  # type: ignore[arg-type]
    (lambda: step_decay(gamma=0), "gamma must be > 0, got 0"),
    (
        lambda: step_decay(warmup=0.5),
        "warmup must be in [0, first milestone) = [0, 0.5), got 0.5",
    ),
    (lambda: step_decay(warmup_div_factor=0.1), "warmup_div_factor must be >= 1, got 0.1"),
    # one_cycle_steady
    (lambda: one_cycle_steady(1.0), "momentum must be in [0, 1), got 1.0"),
    (lambda: one_cycle_steady(pct_start=0), "pct_start must be in (0, 1), got 0"),
    # warmup_cosine, trapezoid
    (lambda: warmup_cosine(warmup=1), "warmup must be in [0, 1), got 1"),
    (lambda: warmup_cosine(div_factor=0), "div_factor must be >= 1, got 0"),
    (lambda: warmup_cosine(final_factor=2), "final_factor must be in [0, 1], got 2"),
    (lambda: trapezoid(warmup=-1), "warmup must be in [0, 1), got -1"),
    (
        lambda: trapezoid(warmup=0.5, cooldown=0.6),
        "cooldown must be in [0, 1 - warmup] = [0, 0.5], got 0.6",
    ),
    (lambda: trapezoid(div_factor=None), "div_factor must be >= 1, got None"),  # type: ignore[arg-type]
    (lambda: trapezoid(final_factor=-0.1), "final_factor must be in [0, 1], got -0.1"),
    # lr_range
    (lambda: lr_range(0, 1), "min_factor must be > 0, got 0"),
    (lambda: lr_range(0.1, 0.1), "max_factor must be > min_factor = 0.1, got 0.1"),
    (
        lambda: lr_range(0.1, 1, anneal="cos"),  # type: ignore[arg-type]
        "anneal must be one of 'linear', 'exp', got 'cos'",
    ),
    (lambda: lr_range(0.1, 1, momentum=1), "momentum must be in [0, 1), got 1"),
    # Phase, Schedule
    (lambda: Phase(1.1, (0, 1)), "fraction must be in [0, 1], got 1.1"),
    (lambda: Phase(1, 0.5), "lr must be a pair (start, end), got 0.5"),  # type: ignore[arg-type]
    (lambda: Phase(1, (0, 1, 2)), "lr must be a pair (start, end), got (0, 1, 2)"),  # type: ignore[arg-type]
    (lambda: Phase(1, (0, -1)), "lr[1] must be >= 0, got -1"),
    (lambda: Phase(1, (0, 1), anneal="exp"), "lr[0] must be > 0, got 0"),
    (lambda: Phase(1, (0, 1), (0.9, 1.0)), "momentum[1] must be >= 0 and < 1, got 1.0"),
    (
        lambda: Phase(1, (0, 1), weight_decay=(math.inf, 1)),
        "weight_decay[0] must be >= 0, got inf",
    ),
    (
        lambda: Phase(1, (0, 1), anneal="step"),  # type: ignore[arg-type]
        "anneal must be one of 'linear', 'cos', 'exp', got 'step'",
    ),
    (lambda: Schedule(()), "phases must be one Phase or more, got ()"),
    (lambda: Schedule((1,)), "phases must be one Phase or more, got (1,)"),  # type: ignore[arg-type]
    (
        lambda: Schedule((Phase(0.5, (0, 1)),)),
        "the fractions of the phases must add up to 1, got 0.5",
    ),
    # at, trace
    (lambda: constant().at(-1, 10), "step must be a whole number >= 0, got -1"),
    (lambda: constant().at(0.5, 10), "step must be a whole number >= 0, got 0.5"),  # type: ignore[arg-type]
    (lambda: constant().at(0, 0), "total_steps must be a whole number >= 1, got 0"),
    (lambda: constant().trace(None), "total_steps must be a whole number >= 1, got None"),  # type: ignore[arg-type]
    (lambda: constant().segments(2.5), "total_steps must be a whole number >= 1, got 2.5"),  # type: ignore[arg-type]
]


def bad_ids() -> Iterator[str]:
    return (message for _, message in BAD)


@pytest.mark.parametrize(("call", "message"), BAD, ids=bad_ids())
def test_refuses_a_bad_value(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011  (the whole message is compared)
        call()
    assert str(refusal.value) == message


def test_momentum_is_not_checked_where_it_is_not_cycled() -> None:
    one_cycle(cycle_momentum=False, base_momentum=5)


# ----------------------------------------------------------------------------------------- purity


def test_schedules_import_neither_torch_nor_lightning() -> None:
    """The modules themselves: the package around them is stood in for by an empty one."""
    package = Path(lightning_onecycle.__file__).parent
    code = f"""
        import sys, types
        stub = types.ModuleType("lightning_onecycle")
        stub.__path__ = [{str(package)!r}]
        sys.modules["lightning_onecycle"] = stub
        import lightning_onecycle.phases
        import lightning_onecycle.schedules as schedules
        assert schedules.one_cycle().at(0, 10).lr == 0.1
        tops = {{name.partition(".")[0] for name in sys.modules}}
        print(sorted(tops & {{"torch", "lightning", "pytorch_lightning", "numpy", "matplotlib"}}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
