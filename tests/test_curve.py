"""The curve of an LR range test: by hand, on curves whose answer is known, and by property."""

from __future__ import annotations

import io
import json
import math
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import lightning_onecycle
from lightning_onecycle.range_test import Conditions, LRCurve, Suggestion
from lightning_onecycle.range_test.plot import plot_lr_curve, plot_lr_curves
from lightning_onecycle.range_test.smoothing import ceiling, noise_of, smooth
from lightning_onecycle.range_test.suggest import (
    METHODS,
    Reading,
    one_cycle_peak,
    slide,
    valley,
)

properties = settings(deadline=None, max_examples=60)
NAMES = ["max_lr", "steepest", "valley", "slide", "minimum"]


def ladder(n: int, low: float = -7.0, high: float = 1.0) -> list[float]:
    return [low + (high - low) * i / (n - 1) for i in range(n)]


def curve_of(
    loss: Callable[[float], float],
    noise: float = 0.0,
    n: int = 100,
    low: float = -7.0,
    high: float = 1.0,
    seed: int = 0,
    **arguments: Any,
) -> LRCurve:
    """Return the curve of a loss given over log10 of the rate, with independent noise."""
    rng = random.Random(seed)
    xs = ladder(n, low, high)
    return LRCurve([10**x for x in xs], [loss(x) + rng.gauss(0, noise) for x in xs], **arguments)


def typical(x: float) -> float:
    """Steepest at -3, lowest at -0.5, and a blow-up beyond."""
    sigmoid = 1.5 / (1.0 + math.exp(-(x + 3.0) / 0.3))
    return 2.3 - sigmoid - 0.14 * max(x + 3.0, 0.0) + 0.014 * math.exp(min((x + 0.5) / 0.1, 30.0))


def log10_of(suggestion: float | None) -> float:
    assert suggestion is not None
    return math.log10(suggestion)


def spread(values: list[float]) -> tuple[float, float, float]:
    """Return the 5th, 50th and 95th percentile."""
    ranked = sorted(values)
    last = len(ranked) - 1
    return ranked[round(0.05 * last)], median(ranked), ranked[round(0.95 * last)]


# -------------------------------------------------------------------------------------- smoothing


def test_smooths_as_worked_out_by_hand() -> None:
    # Weights 1 and exp(-1/2) = 0.60653 one window away, exp(-2) = 0.13534 two windows away.
    levels, errors = smooth([0.0, 1.0, 2.0], [1.0, 2.0, 3.0], 1.0)
    assert levels == pytest.approx(
        [
            (1 + 2 * 0.60653 + 3 * 0.13534) / 1.74187,
            (0.60653 + 2 + 3 * 0.60653) / 2.21306,
            (0.13534 + 2 * 0.60653 + 3) / 1.74187,
        ],
        rel=1e-4,
    )
    assert errors[1] == pytest.approx(math.sqrt(1 + 2 * 0.36788) / 2.21306, rel=1e-4)
    assert LRCurve((1.0, 10.0, 100.0), (1.0, 2.0, 3.0)).smoothed(1.0) == pytest.approx(levels)


def test_a_narrow_window_smooths_nothing() -> None:
    losses = [2.0, 3.0, 1.0, 4.0, 2.5]
    assert LRCurve([10.0**k for k in range(5)], losses).smoothed(0.01) == pytest.approx(losses)


@given(
    value=st.floats(-1e3, 1e3),
    n=st.integers(1, 60),
    sigma=st.floats(0.01, 3.0),
    mode=st.sampled_from(["exponential", "linear"]),
)
@properties
def test_a_constant_stays_constant(value: float, n: int, sigma: float, mode: str) -> None:
    lrs = [10 ** (-5 + i / 10) if mode == "exponential" else 0.01 * (i + 1) for i in range(n)]
    assert LRCurve(lrs, [value] * n, mode=mode).smoothed(sigma) == pytest.approx([value] * n)  # type: ignore[arg-type]


@given(slope=st.floats(-5, 5), start=st.floats(-5, 5), sigma=st.floats(0.02, 0.2))
@properties
def test_a_line_stays_a_line_away_from_the_ends(slope: float, start: float, sigma: float) -> None:
    xs = ladder(81)
    line = [start + slope * x for x in xs]
    smoothed = LRCurve([10**x for x in xs], line).smoothed(sigma)
    assert smoothed[12:-12] == pytest.approx(line[12:-12], abs=1e-4)


def test_smoothing_has_no_lag() -> None:
    smoothed = curve_of(lambda x: 1.0 / (1.0 + math.exp((x + 3.0) / 0.3)), n=161).smoothed()
    (middle,) = (i for i, x in enumerate(ladder(161)) if x == pytest.approx(-3.0))
    assert smoothed[middle] == pytest.approx(0.5, abs=1e-3)
    assert smoothed[:middle] == pytest.approx([1 - v for v in smoothed[:middle:-1]][-middle:])


def test_what_is_not_finite_takes_no_part() -> None:
    losses = [2.0, math.nan, 2.0, math.inf, 2.0, -math.inf]
    smoothed = LRCurve([10 ** (k / 10) for k in range(6)], losses).smoothed()
    assert [value == value for value in smoothed] == [True, False, True, False, True, False]
    assert [value for value in smoothed if value == value] == pytest.approx([2.0] * 3)
    assert all(math.isnan(v) for v in LRCurve((0.1, 1.0), (math.nan, math.inf)).smoothed())
    assert LRCurve((), ()).smoothed() == []


@pytest.mark.parametrize("blow_up", [10.0, 1e4, 1e30])
def test_a_blow_up_does_not_drag_its_neighbours(blow_up: float) -> None:
    calm = curve_of(lambda x: 2.0 - 0.3 * (x + 7.0), n=81)
    blown = LRCurve(calm.lrs, (*calm.losses[:-3], blow_up, blow_up**1.2, blow_up**1.4))
    assert blown.smoothed()[:-10] == pytest.approx(calm.smoothed()[:-10], abs=0.01)
    assert max(blown.smoothed()) < 8.0
    assert log10_of(blown.suggestion()) > 0.0  # a quarter of the last calm point, at 0.7
    assert blown.suggestion() == LRCurve(blown.lrs, (*blown.losses[:-1], 1e300)).suggestion()


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([3.0] * 10, 3.0),
        ([float(k) for k in range(9)], 12.0),  # a steady rise to 8, and half of it
        ([2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 50.0, 1e9], 3.0),  # falls by 1 from 2
        ([-8.0, -8.0, -8.0, -9.0, -9.0, -9.0, -9.0, 40.0, 1e9], -7.0),
    ],
)
def test_ceiling(losses: list[float], expected: float) -> None:
    assert ceiling(losses) == pytest.approx(expected, abs=0.5)
    scaled = ceiling([3.0 * loss - 7.0 for loss in losses])
    assert scaled == pytest.approx(3.0 * ceiling(losses) - 7.0)


def test_noise_is_the_standard_deviation_whatever_the_slope() -> None:
    rng = random.Random(0)
    losses = [5.0 - 0.1 * i + rng.gauss(0, 0.2) for i in range(2000)]
    losses[100::200] = [1e6] * 10
    assert noise_of(losses, 10.0) == pytest.approx(0.2, rel=0.1)
    assert noise_of([1.0, 2.0], 10.0) == math.inf


# ------------------------------------------------------------------------ where answers are known


@pytest.mark.parametrize(
    ("noise", "steepest_within", "max_lr_within"),
    [(0.02, 0.15, 0.25), (0.1, 0.3, 0.6), (0.3, 0.7, 1.2)],
)
def test_answers_on_a_curve_whose_answers_are_known(
    noise: float, steepest_within: float, max_lr_within: float
) -> None:
    lowest = min(ladder(8001), key=typical)
    assert lowest == pytest.approx(-0.5, abs=0.02)
    steepest, peak = [], []
    for seed in range(200):
        suggestions = curve_of(typical, noise, seed=seed).suggestions()
        steepest.append(log10_of(suggestions["steepest"].lr))
        peak.append(log10_of(suggestions["max_lr"].lr))
    low, middle, high = spread(steepest)
    assert middle == pytest.approx(-3.0, abs=0.08)  # one point: no lag
    assert -3.0 - steepest_within <= low <= high <= -3.0 + steepest_within
    low, middle, high = spread(peak)
    fall = typical(-7.0) - typical(lowest)
    edge = next(x for x in ladder(8001) if x > lowest and typical(x) - typical(lowest) > fall / 2)
    expected = math.log10(one_cycle_peak(10**lowest, 10**edge))
    assert middle == pytest.approx(expected, abs=0.3)
    assert expected - max_lr_within <= low <= high <= expected + max_lr_within


@pytest.mark.parametrize("n", [30, 100, 1000])
def test_without_noise(n: int) -> None:
    suggestions = curve_of(typical, n=n).suggestions()
    step = 8.0 / (n - 1)
    assert log10_of(suggestions["steepest"].lr) == pytest.approx(-3.0, abs=max(step, 0.06))
    assert log10_of(suggestions["max_lr"].lr) == pytest.approx(-0.8, abs=max(step, 0.15))
    assert log10_of(suggestions["minimum"].lr) == pytest.approx(-1.5, abs=max(step, 0.15))


def test_a_linear_range_test() -> None:
    rng = random.Random(3)
    lrs = [0.001 + 3.0 * i / 199 for i in range(200)]
    losses = [
        0.3 + 2.0 * math.exp(-lr / 0.3) + 0.002 * math.exp(3.0 * lr) + rng.gauss(0, 0.05)
        for lr in lrs
    ]  # lowest at 1.1
    curve = LRCurve(lrs, losses, mode="linear")
    assert curve.suggestion() == pytest.approx(0.55, rel=0.15)


def test_a_wide_flat_minimum_has_a_beginning_and_no_middle() -> None:
    def wide(x: float) -> float:
        return 2.3 - 1.8 / (1.0 + math.exp(-(x + 4.0) / 0.15)) + math.exp(min((x + 0.5) / 0.1, 9))

    suggestions = [curve_of(wide, 0.05, seed=seed).suggest() for seed in range(50)]
    low, _, high = spread([log10_of(suggestion.lr) for suggestion in suggestions])
    # The minimum begins at -3.3, where it is clear of the noise: a decade behind that, not its end.
    assert -3.0 < low <= high < -1.5


def test_a_spike_that_is_recovered_from_is_no_edge() -> None:
    def loss(x: float) -> float:
        fall = 2.0 - min(max(x + 4.0, 0.0) / 3.0, 1.0)  # from 2 at 1e-4 to 1 at 1e-1
        spike = 1.2 * math.exp(-(((x + 0.6) / 0.15) ** 2))  # to 2.2 at 1e-0.6
        return fall + spike + 0.2 * (x > -0.6) + 8.0 * max(x - 0.2, 0.0)  # away from 1e0.2 on

    suggestion = curve_of(loss, n=281).suggest()
    # Half of the fall is first lost at 1e-0.75; a quarter of that would be 1e-1.35.
    assert log10_of(suggestion.lr) == pytest.approx(-1.05, abs=0.1)
    assert suggestion.reason == "where the smoothed loss is lowest"


def test_a_range_that_ends_too_early_still_suggests_and_says_so() -> None:
    suggestion = curve_of(typical, 0.03, low=-6.0, high=-1.5).suggest()
    assert suggestion.lr == pytest.approx(10**-1.5 / 4.0)
    assert suggestion.reason.startswith("a quarter of 0.0316, where the range ends")
    assert suggestion.reason.endswith(
        "; the loss has not risen again, so a longer range may show a higher peak"
    )


@pytest.mark.parametrize("end", [math.nan, math.inf, 1e12])
def test_a_cliff_at_the_right_end_is_no_range_that_ends_too_early(end: float) -> None:
    curve = curve_of(typical, 0.03, low=-6.0, high=-1.5)
    suggestion = LRCurve((*curve.lrs, 0.04), (*curve.losses, end)).suggest()
    assert suggestion.lr is not None
    assert "longer range" not in suggestion.reason


def test_bounds_are_a_quarter_and_the_peak() -> None:
    curve = curve_of(typical, 0.02)
    peak = curve.suggestion()
    assert peak is not None
    assert curve.bounds() == (peak / 4.0, peak)
    assert LRCurve((0.1, 1.0), (1.0, 1.0)).bounds() is None


# --------------------------------------------------------------------------- no answer is an answer


@pytest.mark.parametrize(
    ("curve", "reason"),
    [
        (LRCurve((), ()), "0 finite losses are too few, at least 5 are needed"),
        (LRCurve((0.1, 0.2, 0.3, 0.4, 0.5), [math.nan] * 4 + [1.0]), "the loss is nan at lr 0.1"),
        (LRCurve([0.1 * k for k in range(1, 9)], [2.5] * 8), "the loss is 2.5 throughout"),
        (LRCurve([0.1 * k for k in range(1, 9)], [0.0] * 8), "the loss is 0 throughout"),
        (curve_of(lambda x: 2.3, 0.05), "which is not clear of its noise of 0.0"),
        (curve_of(lambda x: 2.3 - 0.005 * x, 0.05), "which is not clear of its noise of 0.0"),
        (
            curve_of(lambda x: 0.5 + 0.3 * (x + 7.0), 0.02),
            "the range starts too high, lower min_lr",
        ),
        (
            curve_of(lambda x: 2.3 + math.exp(min((x + 1.0) / 0.2, 9)), 0.02),
            "and does not clearly fall before",
        ),
    ],
    ids=["empty", "nan", "constant", "zero", "flat", "faint", "rising", "only-diverges"],
)
def test_none_comes_with_a_reason(curve: LRCurve, reason: str) -> None:
    for name in NAMES:
        suggestion = curve.suggest(name)  # type: ignore[arg-type]
        assert suggestion.lr is None
        assert reason in suggestion.reason
        assert curve.suggestion(name) is None  # type: ignore[arg-type]
    assert curve.suggestions() == {name: curve.suggest(name) for name in NAMES}  # type: ignore[arg-type]
    assert curve.bounds() is None


@pytest.mark.parametrize("rises", [False, True])
def test_where_more_points_show_a_peak_the_reason_says_so(rises: bool) -> None:
    def loss(x: float) -> float:
        return 2.0 - 0.1 / (1.0 + math.exp(-(x + 4.0) / 0.3)) + rises * math.exp(min(20 * x, 9.0))

    few, many = (curve_of(loss, 0.04, n) for n in (100, 300))
    assert "take three times as many points (num_training)" in few.suggest().reason
    assert many.suggestion() is not None


def test_an_answer_below_the_range_is_not_given() -> None:
    curve = curve_of(lambda x: (x + 2.8) ** 2, n=100, low=-3.0, high=0.0)
    suggestion = curve.suggest()
    assert suggestion.lr is None
    assert suggestion.reason.endswith("lies below the range: lower min_lr")


@pytest.mark.parametrize("n", [12, 20, 50, 100, 300])
@pytest.mark.parametrize("kind", ["gauss", "laplace", "skewed"])
def test_noise_is_hardly_ever_taken_for_a_curve(n: int, kind: str) -> None:
    taken = 0
    for seed in range(200):
        rng = random.Random(seed)
        draw = {
            "gauss": lambda rng=rng: rng.gauss(0, 1),
            "laplace": lambda rng=rng: rng.choice((-1, 1)) * rng.expovariate(1),
            "skewed": lambda rng=rng: rng.expovariate(1),
        }[kind]
        curve = LRCurve([10**x for x in ladder(n)], [draw() for _ in range(n)])
        taken += curve.suggestion() is not None
    assert taken <= 200 * 0.05


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_no_method_answers_from_the_plateau(noise: float) -> None:
    for seed in range(100):
        for name, suggestion in curve_of(typical, noise, seed=seed).suggestions().items():
            assert suggestion.lr is None or suggestion.lr > 1e-5, name


def test_significance_tells_curves_from_noise() -> None:
    assert curve_of(typical, 0.1).significance > 15.0
    assert curve_of(lambda x: 2.3, 0.1).significance < 6.0
    assert curve_of(typical).significance > 1000.0
    assert LRCurve((), ()).significance == 0.0


# --------------------------------------------------------------------------------------- invariance


@given(
    seed=st.integers(0, 10_000),
    scale=st.floats(0.01, 100.0),
    shift=st.floats(-100.0, 100.0),
    noise=st.sampled_from([0.0, 0.02, 0.1]),
)
@properties
def test_scale_and_shift_of_the_loss_move_nothing(
    seed: int, scale: float, shift: float, noise: float
) -> None:
    curve = curve_of(typical, noise, seed=seed)
    moved = replace(curve, losses=tuple(scale * loss + shift for loss in curve.losses))
    for method in ("max_lr", "steepest", "minimum"):
        assert moved.suggestion(method) == curve.suggestion(method)  # type: ignore[arg-type]


@given(seed=st.integers(0, 10_000), factor=st.floats(1e-3, 1e3))
@properties
def test_a_factor_on_the_rates_is_one_on_the_answers(seed: int, factor: float) -> None:
    curve = curve_of(typical, 0.05, seed=seed)
    moved = replace(curve, lrs=tuple(factor * lr for lr in curve.lrs))
    for method, suggestion in curve.suggestions().items():
        assert (moved.suggestion(method) is None) == (suggestion.lr is None)  # type: ignore[arg-type]
        if suggestion.lr is not None:
            assert moved.suggestion(method) == pytest.approx(factor * suggestion.lr)  # type: ignore[arg-type]


@given(
    losses=st.lists(
        st.floats(allow_nan=True, allow_infinity=True) | st.floats(-10, 10), max_size=40
    )
)
@properties
def test_any_losses_give_an_answer_within_the_range_or_a_reason(losses: list[float]) -> None:
    assume(all(not math.isfinite(loss) or abs(loss) < 1e300 for loss in losses))
    curve = LRCurve([10 ** (-4 + k / 8) for k in range(len(losses))], losses)
    assert len(curve.smoothed()) == len(losses)
    for suggestion in curve.suggestions().values():
        assert suggestion.reason
        assert suggestion.lr is None or curve.lrs[0] <= suggestion.lr <= curve.lrs[-1]


# ------------------------------------------------------------------------------- fastai's, by hand


def reading_of(losses: list[float]) -> Reading:
    lrs = tuple(float(i) for i in range(1, len(losses) + 1))
    return Reading(lrs=lrs, losses=tuple(losses), low=losses.index(min(losses)))


@pytest.mark.parametrize(
    ("losses", "index"),
    [
        # The chain is the whole list: it ends at 5 with 6 members, so it is laid from -1.
        ([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], -1 + 2 + 1),
        # 9, 8, 7, 6, 5, 4, 3, 2, 1 ends at 10 and is laid from 1: 1 + 3 + 1.
        ([9.0, 9.5, 8.0, 7.0, 6.0, 5.0, 4.0, 4.5, 3.0, 2.0, 1.0, 8.0, 9.0], 5),
        # The first of the equally long ones counts.
        ([3.0, 2.0, 1.0, 3.0, 2.0, 1.0], -1 + 1 + 0),
        ([1.0, 2.0, 3.0], 0),
        ([1.0, 1.0, 1.0], 0),
    ],
)
def test_valley(losses: list[float], index: int) -> None:
    assert valley(reading_of(losses)).lr == index + 1


def test_slide() -> None:
    # Slopes by index: 0, 0, -1, -2, -1, 0, 1, 2. With 3 points between its ends the interval begins
    # at (7, 4), where they differ by 3, and goes on to (6, 3), (5, 2), (4, 1) and (3, 0).
    losses = [5.0, 5.0, 5.0, 3.0, 1.0, 1.0, 1.0, 3.0]
    slopes = [0.0, 0.0, -1.0, -2.0, -1.0, 0.0, 1.0, 2.0]
    gradient = [losses[1] - losses[0]] + [(b - a) / 2 for a, b in zip(losses, losses[2:])]  # noqa: B905
    assert [*gradient, losses[-1] - losses[-2]] == slopes
    reading = reading_of(losses)
    assert slide(reading, width=3).lr == 1.0  # it slides to the left end
    assert slide(reading, width=3, threshold=2.5).lr == 4.0  # 3, 3, then 1 at (5, 2)
    assert slide(reading, width=3, threshold=9.0).lr == 5.0  # where it begins
    assert slide(reading, width=8) == Suggestion(None, "8 points are too few for an interval of 8")


def test_slide_outside_the_fall_is_not_given() -> None:
    reading = replace(reading_of([5.0, 5.0, 5.0, 3.0, 1.0, 1.0, 1.0, 3.0]), start=2)
    assert slide(reading, width=3).lr is None
    beyond = replace(reading_of([5.0, 3.0, 1.0, 2.0, 4.0, 9.0]), start=0)
    assert slide(beyond, width=1, threshold=9.0).lr is None


def test_minimum_is_a_tenth_of_the_rate_there() -> None:
    curve = curve_of(lambda x: (x + 1.0) ** 2, low=-5.0, n=121, high=1.0)
    assert curve.suggestion("minimum") == pytest.approx(0.01, rel=0.02)


def test_the_peak_is_a_quarter_of_the_edge_and_at_most_the_minimum() -> None:
    assert one_cycle_peak(lr_at_minimum=0.5, lr_at_edge=1.0) == 0.25
    assert one_cycle_peak(lr_at_minimum=0.1, lr_at_edge=1.0) == 0.1


# ------------------------------------------------------------------------------------------ methods


def test_all_methods_have_a_name() -> None:
    curve = curve_of(typical, 0.02)
    assert list(METHODS) == NAMES == list(curve.suggestions())
    assert curve.suggestion() == curve.suggestion("max_lr")


def test_a_function_of_the_rates_and_the_smoothed_losses() -> None:
    curve = LRCurve([0.1 * k for k in range(1, 8)], [3.0, math.nan, 3.0, 3.0, 3.0, 3.0, 3.0])
    seen: list[list[float]] = []

    def mine(lrs: list[float], losses: list[float]) -> float:
        seen.extend((lrs, losses))
        return lrs[2]

    assert curve.suggest(mine) == Suggestion(curve.lrs[3], "as mine says")
    assert seen[0] == [lr for i, lr in enumerate(curve.lrs) if i != 1]
    assert seen[1] == pytest.approx([3.0] * 6)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "returned None"),
        (math.nan, "returned nan, which is no learning rate"),
        (0.0, "returned 0, which is no learning rate"),
        (-1, "returned -1, which is no learning rate"),
    ],
)
def test_a_function_without_an_answer(answer: float | None, reason: str) -> None:
    suggestion = curve_of(typical).suggest(lambda lrs, losses: answer)
    assert suggestion.lr is None
    assert suggestion.reason.endswith(reason)


@pytest.mark.parametrize("method", ["steep", "", None, 3])
def test_an_unknown_method_names_the_options(method: Any) -> None:
    with pytest.raises(ValueError, match="'max_lr', 'steepest', 'valley', 'slide', 'minimum'") as e:
        curve_of(typical).suggestion(method)
    assert str(e.value).endswith(f"or a function, got {method!r}")


# --------------------------------------------------------------------------------- values and files


def test_results_are_those_of_lightning() -> None:
    curve = LRCurve([0.1, 0.2], [3, 2])
    assert curve.results == {"lr": [0.1, 0.2], "loss": [3.0, 2.0]}
    assert curve.lrs == (0.1, 0.2)
    assert curve == LRCurve((0.1, 0.2), (3.0, 2.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"losses": [1.0]}, "losses must be as many as lrs, got 1 and 2"),
        ({"lrs": [0.1, 0.1]}, "lrs must rise, got 0.1 after 0.1"),
        ({"lrs": [0.2, 0.1]}, "lrs must rise, got 0.1 after 0.2"),
        ({"lrs": [0.0, 0.1]}, "lrs[0] must be > 0, got 0.0"),
        ({"lrs": [0.1, math.nan]}, "lrs[1] must be > 0, got nan"),
        ({"lrs": [0.1, math.inf]}, "lrs[1] must be > 0, got inf"),
        ({"lrs": "ab"}, "lrs must be a sequence of numbers, got 'ab'"),
        ({"lrs": 0.1}, "lrs must be a sequence of numbers, got 0.1"),
        ({"losses": [1.0, None]}, "losses must be numbers, got [1.0, None]"),
        ({"losses": [1.0, "x"]}, "losses must be numbers, got [1.0, 'x']"),
        ({"losses": None}, "losses must be a sequence of numbers, got None"),
        ({"val_lrs": [0.1]}, "val_losses must be as many as val_lrs, got 0 and 1"),
        ({"val_lrs": [-1], "val_losses": [1]}, "val_lrs[0] must be > 0, got -1"),
        ({"mode": "log"}, "mode must be one of 'exponential', 'linear', got 'log'"),
        ({"conditions": {}}, "conditions must be Conditions or None, got {}"),
        ({"stopped": None}, "stopped must be a string, got None"),
    ],
)
def test_refuses_a_bad_value(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011  (the whole message is compared)
        LRCurve(**{"lrs": [0.1, 0.2], "losses": [1.0, 2.0], **arguments})
    assert str(refusal.value) == message


@pytest.mark.parametrize("sigma", [0, -1, math.nan, "wide"])
def test_refuses_a_window_that_is_none(sigma: Any) -> None:
    with pytest.raises(ValueError, match="sigma must be > 0, got"):
        LRCurve((0.1,), (1.0,)).smoothed(sigma)


FULL = LRCurve(
    (1e-7, 0.1, 0.30000000000000004),
    (2.302585092994046, -1.5, 9.0),
    conditions=Conditions(optimizer="SGD", groups=({"lr_ratio": 1.0, "betas": (0.9, 0.999)},)),
    stopped="diverged at lr 0.3",
    diverged=True,
    mode="linear",
    val_lrs=(0.1,),
    val_losses=(2.0,),
)


@given(
    losses=st.lists(st.floats(), max_size=20),
    mode=st.sampled_from(["exponential", "linear"]),
    stopped=st.text(),
)
@properties
def test_json_round_trip(
    tmp_path_factory: Any, losses: list[float], mode: Any, stopped: str
) -> None:
    lrs = tuple(1e-6 * 1.7**k for k in range(len(losses)))
    path = tmp_path_factory.mktemp("curve") / "lr_find.json"
    curve = replace(FULL, lrs=lrs, losses=losses, mode=mode, stopped=stopped)
    curve.save(path)
    loaded = LRCurve.load(path)
    assert repr(loaded) == repr(curve)  # NaN is not equal to itself
    assert [p.name for p in path.parent.iterdir()] == ["lr_find.json"]


def test_the_file_is_valid_json_with_a_format(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lr_find.json"
    replace(FULL, losses=(math.nan, math.inf, -math.inf)).save(str(path))

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(path.read_text(), parse_constant=refuse)
    assert content["format"] == 1
    assert content["loss"] == ["nan", "inf", "-inf"]
    assert content["lr"] == [1e-7, 0.1, 0.30000000000000004]
    assert content["conditions"]["groups"] == [{"lr_ratio": 1.0, "betas": [0.9, 0.999]}]
    assert LRCurve.load(path).conditions == FULL.conditions


def test_a_file_of_the_least_that_is_a_curve(tmp_path: Path) -> None:
    path = tmp_path / "lr_find.json"
    path.write_text('{"format": 1, "lr": [0.1, 1], "loss": [null, 2], "later": true}')
    curve = LRCurve.load(path)
    assert math.isnan(curve.losses[0])
    assert (curve.conditions, curve.stopped, curve.mode) == (None, "", "exponential")
    assert not curve.diverged


@pytest.mark.parametrize(
    ("stopped", "diverged"),
    [("diverged at lr 0.3", True), ("loss not finite at lr 1", True), ("range completed", False)],
)
def test_a_file_of_an_earlier_version_says_in_words_that_the_loss_diverged(
    stopped: str, diverged: bool
) -> None:
    values = replace(FULL, stopped=stopped, diverged=not diverged).to_dict()
    assert LRCurve.from_dict(values).diverged is not diverged
    del values["diverged"]
    assert LRCurve.from_dict(values).diverged is diverged


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[1, 2]", "there is no 'format' in it"),
        ("{}", "there is no 'format' in it"),
        ('{"format": 2, "lr": [], "loss": []}', "its format must be 1, got 2"),
        ('{"format": 1, "loss": []}', "there is no 'lr' in it"),
        ('{"format": 1, "lr": [0.1], "loss": []}', "losses must be as many as lrs"),
        ('{"format": 1, "lr": [0.1], "loss": ["high"]}', "losses must be numbers, got ['high']"),
        ('{"format": 1, "lr": [0.1], "loss": [{}]}', "losses must be numbers"),
        ('{"format": 1, "lr": 3, "loss": 4}', "lrs must be a sequence"),
        ('{"format": 1, "lr": [], "loss": [], "conditions": 3}', "conditions must be a mapping"),
    ],
)
def test_a_file_that_is_no_curve(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not an LR curve") as refusal:
        LRCurve.load(path)
    assert str(refusal.value).startswith(f"{path} is not an LR curve: ")
    assert message in str(refusal.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="is not an LR curve"):
        LRCurve.load(path)
    with pytest.raises(FileNotFoundError):
        LRCurve.load(tmp_path / "none.json")


def test_a_save_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lr_find.json"
    FULL.save(path)

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        replace(FULL, stopped="later").save(path)
    assert LRCurve.load(path) == FULL
    assert [p.name for p in tmp_path.iterdir()] == ["lr_find.json"]


# -------------------------------------------------------------------------------------------- plots


def texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


def legend(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize("suggest", [False, True])
@pytest.mark.parametrize(
    "curve",
    [
        curve_of(typical, 0.1, stopped="diverged at lr 10"),
        curve_of(lambda x: 2.3, 0.1),
        FULL,
        LRCurve((), ()),
        LRCurve((0.1,), (math.nan,)),
        LRCurve((0.1, 1.0), (2.0, 2.0)),
    ],
    ids=["typical", "flat", "full", "empty", "nan", "constant"],
)
def test_renders_any_curve(curve: LRCurve, suggest: bool) -> None:
    figure = curve.plot(suggest=suggest)
    figure.set_dpi(40)
    figure.savefig(io.BytesIO(), format="png")
    (ax,) = figure.axes
    assert ax.get_xscale() == ("linear" if curve.mode == "linear" else "log")
    assert (curve.stopped in texts(ax)) == bool(curve.stopped)


def test_marks_every_suggestion_at_its_rate() -> None:
    curve = curve_of(typical, 0.02)
    ax = plot_lr_curve(curve, suggest=True)
    suggestions = curve.suggestions()
    assert texts(ax) == [f"max_lr {suggestions['max_lr'].lr:.3g}"]
    drawn = {str(line.get_label()): line.get_xdata()[0] for line in ax.lines}  # type: ignore[index]
    for name, suggestion in suggestions.items():
        if name != "max_lr" and suggestion.lr is not None:
            assert drawn[f"{name} {suggestion.lr:.3g}"] == suggestion.lr
    assert suggestions["max_lr"].lr in [line.get_xdata()[0] for line in ax.lines]  # type: ignore[index]
    assert legend(plot_lr_curve(curve)) == ["training loss, smoothed"]


def test_says_why_there_is_no_suggestion() -> None:
    (text,) = texts(plot_lr_curve(LRCurve((0.1, 1.0), (2.0, 2.0)), suggest=True))
    assert "no suggestion: 2 finite losses are too few" in text.replace("\n", " ")


@pytest.mark.parametrize("blow_up", [1e3, 1e30, math.inf])
def test_a_blow_up_does_not_flatten_the_picture(blow_up: float) -> None:
    calm = curve_of(lambda x: 2.0 - 0.1 * (x + 7.0), 0.02)
    low, high = plot_lr_curve(replace(calm, losses=(*calm.losses[:-3], *[blow_up] * 3))).get_ylim()
    assert low < min(calm.losses)
    assert 2.0 < high < 4.0


def test_draws_into_the_axes_it_is_given() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot_lr_curve(FULL, ax=right) is right
    assert not left.lines
    assert FULL.plot(ax=left) is figure
    assert "validation loss" in legend(left)


def test_several_curves_in_one_picture() -> None:
    curves = {f"{wd:g}": curve_of(typical, 0.02, seed=k) for k, wd in enumerate((0, 1e-4, 1e-3))}
    ax = plot_lr_curves({**curves, "full": FULL, "empty": LRCurve((), ())})
    assert legend(ax) == ["0", "0.0001", "0.001", "full", "empty"]
    ax.figure.savefig(io.BytesIO(), format="png")
    with pytest.raises(ValueError, match="curves must be one LRCurve or more, got none"):
        plot_lr_curves({})


# ------------------------------------------------------------------------------------------- purity


def test_curves_import_neither_torch_nor_lightning() -> None:
    """The modules themselves: the packages around them are stood in for by empty ones."""
    package = Path(lightning_onecycle.__file__).parent
    code = f"""
        import sys, types
        for name, path in (("", ""), (".range_test", "/range_test")):
            stub = types.ModuleType("lightning_onecycle" + name)
            stub.__path__ = [{str(package)!r} + path]
            sys.modules["lightning_onecycle" + name] = stub
        import lightning_onecycle.range_test.conditions
        import lightning_onecycle.range_test.suggest
        from lightning_onecycle.range_test.curve import LRCurve
        assert LRCurve((0.1,), (1.0,)).suggestion() is None
        tops = {{name.partition(".")[0] for name in sys.modules}}
        print(sorted(tops & {{"torch", "lightning", "pytorch_lightning", "numpy", "matplotlib"}}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
