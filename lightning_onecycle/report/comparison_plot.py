"""The picture of a sweep: a metric and the learning rate of each group, over the steps."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_onecycle.plots import PALETTE, new_figure
from lightning_onecycle.report.events import Points, curve
from lightning_onecycle.report.markdown import failures, mean_and_std, options, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from lightning_onecycle.report.table import Group, Table

# Beyond the palette: told apart from it and from each other in simulations of colour blindness.
_COLORS = (*PALETTE, "#5E35B1", "#B15928", "#882255", "#222255", "#663333")
_REST = "0.8"
_DASHES = (4, 1.5)
_NAMED = 10  # groups, where there are more than colours
_WIDTH, _LONGEST_LABEL = 125, 48  # characters
_AFTER = 0.25  # the vertical axis shows what comes after this part of a run


def plot_comparison(table: Table) -> Figure | None:
    """Draw the table's metric, and below it the learning rate, over the optimizer steps.

    A line is the mean of a group's completed runs, its band their minimum and maximum. A run that
    did not complete is a dashed line that ends, with a cross, where the run did. The metric's axis
    is for what comes after the first quarter of the runs. The legend is in the table's order; of
    more than 12 groups the best 10 have a colour.

    Args:
        table: What to draw.

    Returns:
        The figure, or None if no run has logged the metric or ``lr``.

    Raises:
        ImportError: If matplotlib or TensorBoard is not installed.

    Example:
        >>> from lightning_onecycle.report.table import Table
        >>> plot_comparison(Table("logs", (), (), ())) is None
        True
    """
    tags = [(tag, {run.job: curve(run, tag) for run in table.runs}) for tag in (table.metric, "lr")]
    tags = [(tag, curves) for tag, curves in tags if any(curves.values())]
    if not tags:
        return None
    figure = new_figure(8.0, 6.0)
    panels = figure.subplots(len(tags), sharex=True, squeeze=False)[:, 0]
    for ax, (tag, curves) in zip(panels, tags, strict=True):
        if percent(tag):
            curves = {job: [(k, 100.0 * v) for k, v in points] for job, points in curves.items()}
        if tag == "lr":
            ax.set_yscale("log", nonpositive="mask")
        ax.set_ylabel("learning rate" if tag == "lr" else f"{tag} %" if percent(tag) else tag)
        for group, color in reversed(_colored(table.groups)):  # the best lies on top
            _draw(ax, group, curves, color)
        if tag != "lr":
            _look_closer(ax, [curves[run.job] for run in table.runs if run.completed])
        _dress(ax)
    has_bands = any(len(group.completed) > 1 for group in table.groups)
    of_runs = " (lines: means of the runs, bands: lowest to highest)" if has_bands else ""
    panels[-1].set_xlabel(f"optimizer step{of_runs}")
    rows = _legend(figure, table)
    figure.set_figheight(0.7 + 0.17 * rows + 2.7 * len(tags))
    return figure


def _colored(groups: Sequence[Group]) -> list[tuple[Group, str]]:
    """Give each group a colour; if there are more groups than colours, only the best ten."""
    named = len(groups) if len(groups) <= len(_COLORS) else _NAMED
    colors = [*_COLORS[:named], *[_REST] * (len(groups) - named)]
    return list(zip(groups, colors, strict=True))


def _draw(ax: Axes, group: Group, curves: Mapping[str, Points], color: str) -> None:
    width = 0.8 if color == _REST else 1.8
    completed = [curves[run.job] for run in group.completed if curves[run.job]]
    if completed:
        steps, mean, low, high = _over_runs(completed)
        marker = "o" if ax.get_yscale() == "linear" and len(steps) <= 40 and color != _REST else ""
        ax.plot(steps, mean, color=color, linewidth=width, marker=marker, markersize=3.5)
        if len(completed) > 1 and color != _REST:
            ax.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
    top: dict[str, Any] = {"color": color, "zorder": 1.5 if color == _REST else 3}
    for run in group.runs:
        if not run.completed and curves[run.job]:
            points = curves[run.job]
            ax.plot(*zip(*points, strict=True), linewidth=0.7 * width, dashes=_DASHES, **top)
            ax.plot(*points[-1], "x", markersize=6, markeredgewidth=1.5, **top)


def _over_runs(curves: Sequence[Points]) -> tuple[NDArray[Any], ...]:
    """Return the steps that all runs have reached, and mean, minimum and maximum there."""
    import numpy as np

    start = max(points[0][0] for points in curves)
    end = min(points[-1][0] for points in curves)
    steps = np.unique([step for points in curves for step, _ in points if start <= step <= end])
    columns = [np.array(points, dtype=float).T for points in curves]
    values = np.array([np.interp(steps, known, levels) for known, levels in columns])
    return steps, values.mean(0), values.min(0), values.max(0)


def _look_closer(ax: Axes, curves: Sequence[Points]) -> None:
    """Choose vertical limits without the steep start, which every run has."""
    late = [v for points in curves for k, v in points if k >= _AFTER * points[-1][0]]
    if late and min(late) < max(late):
        margin = 0.06 * (max(late) - min(late))
        ax.set_ylim(min(late) - margin, max(late) + margin)


def _dress(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    ax.margins(x=0.02)
    ax.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.tick_params(length=3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="0.93", linewidth=0.8)
    ax.set_axisbelow(True)


def _legend(figure: Figure, table: Table) -> int:
    """Draw the legend above the panels; return its number of rows."""
    from matplotlib.lines import Line2D

    colored = _colored(table.groups)
    named = [(group, color) for group, color in colored if color != _REST]
    names = map(", ".join, zip(*options(table), strict=True)) if table.swept else ["all runs"]
    handles, longest = [], 0
    for (group, color), name in zip(named, names, strict=False):
        result = mean_and_std(group, table.metric) or failures(group.runs)
        name = textwrap.shorten(name, _LONGEST_LABEL, placeholder=" ...")
        label = ": ".join(filter(None, (name, result)))
        handles.append(Line2D([], [], color=color, label=label))
        if not group.completed:
            handles[-1].set_dashes(_DASHES)
        longest = max(longest, len(label))
    if len(named) < len(colored):
        rest = f"{len(colored) - len(named)} more"
        handles.append(Line2D([], [], color=_REST, label=rest))
    columns = max(min(len(handles), _WIDTH // (8 + longest)), 1)
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=columns,
        title=textwrap.shorten(", ".join(table.swept), 100, placeholder=" ..."),
        alignment="left",
        frameon=False,
        fontsize="small",
        handlelength=2.2,
    )
    return -(-len(handles) // columns)
