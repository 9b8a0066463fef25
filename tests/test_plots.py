"""Plots: what is drawn is the schedule, and nothing of matplotlib's state is left changed."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_onecycle.plots import plot_schedule
from lightning_onecycle.schedules import (
    Phase,
    Schedule,
    constant,
    lr_range,
    one_cycle,
    step_decay,
    trapezoid,
    triangular,
    warmup_cosine,
)

DECAYING = Schedule((Phase(1.0, (0.1, 1.0), (0.95, 0.85), weight_decay=(1.0, 0.5)),))


def figure_of(ax: Axes) -> Figure:
    figure = ax.figure
    assert isinstance(figure, Figure)
    return figure


def labelled(ax: Axes) -> dict[str, Line2D]:
    """Return the lines of a plot, twins included, by their label."""
    lines = (line for axes in figure_of(ax).axes for line in axes.lines)
    return {str(line.get_label()): line for line in lines}


def xy(line: Line2D) -> Iterator[tuple[int, float]]:
    return zip(map(int, line.get_xdata()), map(float, line.get_ydata()), strict=True)  # type: ignore[arg-type]


def boundaries(ax: Axes) -> list[int]:
    vertical = (line for line in ax.lines if len(set(line.get_xdata())) == 1)  # type: ignore[arg-type]
    return sorted(int(line.get_xdata()[0]) for line in vertical if len(line.get_xdata()) == 2)  # type: ignore[arg-type, index]


@pytest.mark.parametrize("total", [1, 2, 40, 100, 2000, 2001, 10_000, 1_234_567])
def test_draws_the_values_of_the_schedule(total: int) -> None:
    schedule = one_cycle()
    lines = labelled(plot_schedule(schedule, total, max_lr=0.4))
    drawn = dict(xy(lines["learning rate"]))
    assert list(drawn) == sorted(drawn)
    assert len(drawn) == total if total <= 2000 else 1000 <= len(drawn) <= 2010
    edges = {step for segment in schedule.segments(total) for step in segment[:2]}
    assert edges <= set(drawn)
    for step, lr in drawn.items():
        assert lr == pytest.approx(0.4 * schedule.at(step, total).lr)
    for step, momentum in xy(lines["momentum"]):
        assert momentum == schedule.at(step, total).momentum


def test_labels_say_what_and_in_which_unit() -> None:
    ax = plot_schedule(one_cycle(), 100)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("optimizer step", "learning rate (factor)")
    assert plot_schedule(one_cycle(), 100, max_lr=0.1).get_ylabel() == "learning rate"
    twin = figure_of(ax).axes[1]
    assert twin.get_ylabel() == "momentum"
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["learning rate", "momentum"]


@pytest.mark.parametrize(
    ("schedule", "names"),
    [
        (one_cycle(), ["learning rate", "momentum"]),
        (one_cycle(cycle_momentum=False), ["learning rate"]),
        (constant(), ["learning rate"]),
        (DECAYING, ["learning rate", "momentum", "weight decay"]),
    ],
)
def test_draws_only_what_is_scheduled(schedule: Schedule, names: list[str]) -> None:
    ax = plot_schedule(schedule, 50)
    assert len(figure_of(ax).axes) == len(names)
    assert [name for name in labelled(ax) if not name.startswith("_")] == names


def test_momentum_of_some_phases_only() -> None:
    schedule = Schedule((Phase(0.5, (0, 1), (0.9, 0.8)), Phase(0.5, (1, 0))))
    momentum = dict(xy(labelled(plot_schedule(schedule, 10))["momentum"]))
    assert [momentum[step] == momentum[step] for step in range(10)] == [True] * 5 + [False] * 5


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (one_cycle(), [44, 88]),
        (step_decay(), [50, 75]),
        (constant(), []),
        (triangular(2), [24, 48, 72]),
    ],
)
def test_parts_the_phases(schedule: Schedule, expected: list[int]) -> None:
    assert boundaries(plot_schedule(schedule, 100)) == expected


@pytest.mark.parametrize(
    ("schedule", "total", "max_lr", "expected"),
    [
        (one_cycle(), 100, 0.4, "peak 0.4 at step 44"),
        (one_cycle(), 10_000, None, "peak 1 at step 4,499"),
        (trapezoid(), 100, None, "peak 1 at steps 9 to 78"),
        (step_decay(), 10_000, 1e-4, "peak 0.0001 at steps 0 to 4,999"),
        (lr_range(1e-3, 10), 100, 0.05, "peak 0.5 at step 99"),
        (triangular(3), 100, None, "peak 1 at step 16"),
    ],
)
def test_annotates_the_peak(
    schedule: Schedule, total: int, max_lr: float | None, expected: str
) -> None:
    ax = plot_schedule(schedule, total, max_lr=max_lr)
    assert [text.get_text() for text in ax.texts] == [expected]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("total", [1, 2, 3, 100, 10_000])
@pytest.mark.parametrize(
    "schedule", [one_cycle(), warmup_cosine(), constant(), DECAYING, trapezoid(0, 1)]
)
def test_renders_at_any_length(schedule: Schedule, total: int, log: bool) -> None:
    ax = plot_schedule(schedule, total, log=log)
    figure = figure_of(ax)
    figure.set_dpi(40)
    figure.savefig(io.BytesIO(), format="png")
    assert ax.get_yscale() == ("log" if log else "linear")
    peak = max(point.lr for point in schedule.trace(total))
    assert ax.get_ylim()[0] < peak < ax.get_ylim()[1]


def test_draws_into_the_axes_it_is_given() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot_schedule(one_cycle(), 100, ax=right) is right
    assert not left.lines
    assert plot_schedule(constant(), 100, max_lr=3.0, ax=left) is left
    plot_schedule(constant(), 100, max_lr=0.1, ax=left)
    assert left.get_ylim()[1] > 3.0  # the second plot does not hide the first


def test_pyplot_does_not_hear_of_it() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plot_schedule(one_cycle(), 100)
    assert plt.get_fignums() == before


@pytest.mark.slow
def test_matplotlib_is_imported_when_a_plot_is_drawn() -> None:
    code = """
import sys
import lightning_onecycle.phases
for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
    del sys.modules[name]
import lightning_onecycle.plots as plots
assert "matplotlib" not in sys.modules
from lightning_onecycle.schedules import one_cycle
plots.plot_schedule(one_cycle(), 10)
assert "matplotlib.figure" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_says_how_to_get_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'pip install "lightning-onecycle\[plots\]"'):
        plot_schedule(one_cycle(), 100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_steps": 0}, "total_steps must be a whole number >= 1, got 0"),
        ({"total_steps": 10, "max_lr": 0}, "max_lr must be > 0, got 0"),
        ({"total_steps": 10, "max_lr": "0.1"}, "max_lr must be > 0, got '0.1'"),
    ],
)
def test_refuses_a_bad_value(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011  (the whole message is compared)
        plot_schedule(one_cycle(), **arguments)
    assert str(refusal.value) == message
