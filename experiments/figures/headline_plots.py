"""The pictures of Fig. 5 and of the headline."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.figures.style import BLUE, GREY, ORANGE, band, legend, new_figure

Points = tuple[Sequence[int], Sequence[Sequence[float]]]
"""Optimizer steps, and for each of them the test accuracy of each seed."""


def plot_curves(ax: Axes, onecycle: Points, standard: Points) -> None:
    """Draw the test accuracy of both tuned regimes over the steps of their trainings."""
    for (steps, accuracies), color, label, marker in (
        (onecycle, BLUE, "1cycle", "o"),
        (standard, ORANGE, "standard regime", "s"),
    ):
        seeds = 100 * np.transpose(accuracies)
        band(ax, steps, seeds, color, label, marker=marker, markersize=4)
    ax.set_xscale("log")
    ax.set_xticks(onecycle[0], [f"{n:,}" for n in onecycle[0]])
    ax.xaxis.set_minor_locator(NullLocator())


def plot_fig5(onecycle: Points, standard: Points, reached: float | None) -> Figure:
    """Draw one setting, with an arrow from the standard regime's last accuracy to 1cycle.

    Args:
        onecycle: Tuned 1cycle.
        standard: The tuned standard regime.
        reached: Steps at which 1cycle has the standard regime's last accuracy, if it has.
    """
    figure = new_figure()
    (ax,) = figure.axes
    plot_curves(ax, onecycle, standard)
    last = standard[0][-1]
    level = 100 * fmean(standard[1][-1])
    if reached is not None:
        arrow = {"arrowstyle": "->", "color": GREY, "shrinkA": 3, "shrinkB": 0}
        ax.annotate("", (reached, level), (last, level), arrowprops=arrow)
        ax.annotate(
            f"{last / reached:.1f} times fewer steps",
            (reached, level),
            xytext=(-10, 6),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=GREY,
        )
    ax.set_xlabel("optimizer steps of the whole training")
    ax.set_ylabel("test accuracy (%)")
    legend(ax)
    return figure


def plot_all(curves: Sequence[tuple[str, Points, Points]]) -> Figure:
    """Draw each setting on axes of its own."""
    columns = min(len(curves), 4)
    rows = -(-len(curves) // columns)
    figure = new_figure(rows, columns, width=2.6 * columns, height=2.5 * rows)
    for ax, (setting, onecycle, standard) in zip(figure.axes, curves, strict=False):
        plot_curves(ax, onecycle, standard)
        ax.set_title(_in_two_lines(setting), fontsize="small", loc="left")
        ax.tick_params(labelsize="x-small")
    for ax in figure.axes[len(curves) :]:
        ax.remove()
    figure.axes[0].legend(frameon=False, fontsize="x-small", loc="lower right")
    figure.supxlabel("optimizer steps of the whole training", fontsize="small")
    figure.supylabel("test accuracy (%)", fontsize="small")
    return figure


def plot_speed_ups(
    rows: Sequence[tuple[str, float | None, Sequence[float | None], bool]],
) -> Figure:
    """Draw the speed-up of each setting: of the means as a dot, of the seeds as lines.

    Where 1cycle does not reach the accuracy they are at the left edge. The dot is hollow where the
    standard regime has stopped to gain by more steps, which is each row's last entry.
    """
    figure = new_figure(height=1.2 + 0.34 * len(rows))
    (ax,) = figure.axes
    edge = 0.5
    gains = {False: "the standard regime still gains by more steps", True: "it no longer does"}
    for place, (_, mean, seeds, is_saturated) in enumerate(reversed(rows)):
        ax.axhline(place, color="0.93", linewidth=0.8, zorder=0)
        for value in seeds:
            ax.plot(value or edge, place, "|", color=BLUE, markersize=11, alpha=0.7)
        face, label = "white" if is_saturated else BLUE, gains.pop(is_saturated, None)
        ax.plot(mean or edge, place, "o", color=BLUE, mfc=face, markersize=8, label=label)
    ax.axvline(1.0, color=GREY, linewidth=1.0, zorder=1)
    ax.set_xscale("log")
    ax.set_xlim(edge * 0.92, 9.5)
    ax.set_xticks([0.5, 1, 2, 4, 8], ["not reached", "1", "2", "4", "8"])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_yticks(range(len(rows)), [_in_two_lines(name) for name, *_ in reversed(rows)])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.grid(visible=False)
    ax.set_xlabel("times fewer steps than the tuned standard regime")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize="small")
    return figure


def _in_two_lines(setting: str) -> str:
    return setting.replace(", no", ",\nno", 1)
