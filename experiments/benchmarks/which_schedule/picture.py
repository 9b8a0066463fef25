"""The picture: the difference from default 1cycle over the budget."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.benchmarks.results import RESULTS
from experiments.benchmarks.which_schedule.entries import CONTROL
from experiments.benchmarks.which_schedule.table import Cell, over_tasks
from experiments.benchmarks.which_schedule.tasks import BUDGETS
from experiments.figures.style import BLUE, GREEN, ORANGE, PINK, new_figure

STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PINK, "D"), ("#56B4E9", "v"), ("#E69F00", "P"))
PANELS = {
    "other numbers of 1cycle": (
        "1cycle, torch's numbers",
        "1cycle, momentum .9",
        "1cycle, momentum .85",
        "1cycle, climb .25, momentum .9",
        "1cycle, annihilation .25",
    ),
    "other schedules": (
        "cosine, warm-up 5 %",
        "cosine, warm-up 20 %",
        "linear to 0, warm-up 5 %",
        "trapezoid, cool-down .2",
        "step decay",
        "constant",
    ),
    "averages, and no schedule": (
        "1cycle, EMA",
        "1cycle, SWA of the annihilation",
        "climb .25, fall to .25, averaged",
        "constant, EMA",
        "schedule-free",
        "Prodigy, cosine, untuned",
    ),
}


def draw(cells: Sequence[Cell], name: str = "which_schedule.png") -> None:
    """Draw a panel for each kind of change; the grey line is 1cycle with other seeds."""
    figure = new_figure(1, len(PANELS), width=11.0, height=4.4)
    for ax, (title, names) in zip(figure.axes, PANELS.items(), strict=True):
        ax.axhline(0.0, color="0.3", linewidth=0.8)
        for i, (entry, (color, marker)) in enumerate(
            zip((CONTROL.name, *names), (("0.6", "x"), *STYLES), strict=False)
        ):
            points = []
            for at, budget in enumerate(BUDGETS):
                some = [c for c in cells if (c.entry, c.budget) == (entry, budget)]
                if some:
                    points.append((at + 0.05 * (i - 3), *over_tasks(some)))
            if points:
                x, mean, error = zip(*points, strict=True)
                style = {"color": color, "marker": marker, "markersize": 4, "capsize": 0}
                ax.errorbar(x, mean, error, label=entry, linewidth=1.2, **style)
        ax.set_title(title, fontsize=10)
        ax.set_xticks(range(len(BUDGETS)), [f"{budget}x" for budget in BUDGETS])
        ax.set_xlabel("steps, in those of the shortest training")
        ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    figure.axes[0].set_ylabel("better than default 1cycle, % of its gain")
    figure.savefig(RESULTS / name)
