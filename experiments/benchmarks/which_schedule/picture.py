"""The picture: the difference from default 1cycle over the budget."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.benchmarks.results import RESULTS
from experiments.benchmarks.which_schedule.table import Cell, noise_limit, over_tasks
from experiments.benchmarks.which_schedule.tasks import BUDGETS
from experiments.figures.style import BLUE, GREEN, ORANGE, PINK, new_figure, save

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


LOWEST, HIGHEST = -8.0, 8.0  # what is below is written beside an arrow


def draw(cells: Sequence[Cell], name: str = "which_schedule.png") -> None:
    """Draw a panel for each kind of change; the grey band is the noise of 1cycle itself."""
    figure = new_figure(1, len(PANELS), width=11.0, height=4.6)
    limits = [noise_limit(c for c in cells if c.budget == budget) for budget in BUDGETS]
    at = range(len(BUDGETS))
    for ax, (title, names) in zip(figure.axes, PANELS.items(), strict=True):
        ax.axhline(0.0, color="0.3", linewidth=0.8)
        band = [min(limit, HIGHEST) for limit in limits]
        lower = [-limit for limit in band]
        ax.fill_between(at, lower, band, color="0.9", label="noise limit", linewidth=0)
        for i, (entry, (color, marker)) in enumerate(zip(names, STYLES, strict=False)):
            points = []
            for place, budget in enumerate(BUDGETS):
                some = [c for c in cells if (c.entry, c.budget) == (entry, budget)]
                if some:
                    points.append((place + 0.05 * (i - 2.5), *over_tasks(some)))
            if not points:
                continue
            x, mean, error = zip(*points, strict=True)
            style = {"color": color, "marker": marker, "markersize": 4}
            ax.errorbar(x, mean, error, label=entry, linewidth=1.2, **style)
            for place, value in zip(x, mean, strict=True):
                if value < LOWEST:
                    text = {"text": f"↓ {value:.0f}", "xy": (place, LOWEST), "color": color}
                    text |= {"xytext": (place + 0.1, LOWEST + 0.2), "fontsize": 8}
                    ax.annotate(**text)
        ax.set_ylim(LOWEST, HIGHEST)
        ax.set_title(title, fontsize=10)
        ax.set_xticks(at, [f"{budget}x" for budget in BUDGETS])
        ax.set_xlabel("steps, in those of the shortest training")
        ax.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.17), frameon=False)
    figure.axes[0].set_ylabel("better than default 1cycle, % of its gain")
    save(figure, RESULTS / name)
