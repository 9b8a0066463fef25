"""The picture of a recipe. Matplotlib is imported when one is asked for."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from lightning_onecycle.plots import GREY, PALETTE, new_figure
from lightning_onecycle.range_test.plot import plot_lr_curves
from lightning_onecycle.search.recipe_report import RANGE_TESTS, Row, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_onecycle.search.result import Search

_ROW, _HEADING = 0.22, 1.0  # inches of a line; lines of a heading


def plot_recipe(search: Search) -> Figure:
    """Draw the range tests of all weight decays, and the losses of the trainings of each stage.

    The upper panel is Smith's figure from which a weight decay is chosen (arXiv:1803.09820,
    section 4.4). In the lower panel a filled point is the setting that is kept after its stage.
    The others were thrown away; a cross is a training that was not completed.

    Args:
        search: One with a recipe.

    Returns:
        The figure, which is made without pyplot.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the search has no recipe.
    """
    trainings = [row for row in rows(search) if row.stage != RANGE_TESTS]
    stages = [(name, list(of_stage)) for name, of_stage in groupby(trainings, lambda r: r.stage)]
    lines = len(trainings) + (_HEADING + 0.5) * len(stages)
    height = 3.4 + _ROW * lines if stages else 3.4
    figure = new_figure(8.0, height)
    heights = [3.0, max(height - 3.4, 0.1)] if stages else [3.0]
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    tests = search.recipe.tests if search.recipe else ()
    labels = ["own" if t.weight_decay is None else f"{t.weight_decay:g}" for t in tests]
    plot_lr_curves({label: t.curve for label, t in zip(labels, tests, strict=True)}, ax=axes[0])
    axes[0].set_title("range tests: weight decay", loc="left", fontsize="medium", pad=22)
    if stages:
        _draw_stages(axes[1], stages, search.judged_by)
    return figure


def _draw_stages(ax: Axes, stages: list[tuple[str, list[Row]]], judged_by: str) -> None:
    """Draw a line for each training, the first at the top."""
    place, ticks, labels = 0.0, [], []
    across = ax.get_yaxis_transform()
    for index, (name, of_stage) in enumerate(stages):
        color = PALETTE[index % len(PALETTE)]
        steps = f"{max(row.steps for row in of_stage):,} steps each"
        ax.text(0.0, place, f"{name}, {steps}", transform=across, color=color, va="center")
        place += _HEADING
        for row in of_stage:
            _draw(ax, row, place, color)
            ticks.append(place)
            labels.append(row.tried)
            place += 1.0
        place += 0.5
    ax.set_yticks(ticks, labels, fontsize="small")
    ax.set_ylim(place - 0.5, -0.8)
    ax.set_xlabel(judged_by)
    ax.margins(x=0.08)
    ax.tick_params(length=0, axis="y")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.grid(axis="x", color="0.93", linewidth=0.8)
    ax.set_axisbelow(True)


def _draw(ax: Axes, row: Row, place: float, color: str) -> None:
    if row.loss is None:
        # At the end of the axis, where no loss is drawn: its own is not known.
        ax.plot(0.99, place, "x", transform=ax.get_yaxis_transform(), color=GREY, markersize=6)
        return
    face = color if row.is_kept else ax.get_facecolor()
    ax.plot(row.loss, place, "o", color=color, markerfacecolor=face, markersize=6.5)
    ax.annotate(
        f"{row.loss:.4g}",
        (row.loss, place),
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        fontsize="x-small",
        color=GREY,
    )
