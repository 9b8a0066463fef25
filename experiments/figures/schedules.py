"""Figs. 1 and 6: the learning rate, and the momentum, that each optimizer step of a training used.

    python -m experiments.figures.schedules

Trains ``fig1_learning_rate`` and ``fig6_momentum`` (seconds), writes what the optimizer had at each
step to ``results/NAME.csv``, and draws it.
"""

from __future__ import annotations

import argparse
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.axes import Axes
from torch.optim import Optimizer

from experiments.figures.runs import RESULTS, configuration, train
from experiments.figures.style import BLUE, DASHES, ORANGE, legend, new_figure, save
from experiments.rows import Row, add, quiet, read

FIGURES = {"fig1_learning_rate": ("lr",), "fig6_momentum": ("lr", "momentum")}


class UsedBySteps(Callback):
    """Keep the learning rate and momentum that the optimizer has when it takes each step."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Read the first group."""
        group = optimizer.param_groups[0]
        row = {"step": len(self.rows), "lr": group["lr"], "momentum": group["momentum"]}
        self.rows.append(row)


def record(name: str) -> list[Row]:
    """Train, or read what is there already."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        used = UsedBySteps()
        train(configuration(f"experiment={name}", "trainer.enable_progress_bar=false"), used)
        add(path, used.rows)
    return read(path)


def draw(name: str, rows: list[Row]) -> None:
    """Draw the steps, the momentum on an axis of its own."""
    steps = [row["step"] for row in rows]
    figure = new_figure()
    (ax,) = figure.axes
    style: dict[str, Any] = {"linewidth": 1.8}
    lines = ax.plot(
        *(steps, [row["lr"] for row in rows]), color=BLUE, label="learning rate", **style
    )
    ax.set_ylabel("learning rate", color=BLUE)
    ax.set_xlabel("optimizer step")
    ax.set_ylim(bottom=0)
    if "momentum" in FIGURES[name]:
        twin: Axes = ax.twinx()
        lines += twin.plot(
            *(steps, [row["momentum"] for row in rows]),
            color=ORANGE,
            linestyle=DASHES[ORANGE],
            label="momentum",
            **style,
        )
        twin.set_ylabel("momentum", color=ORANGE)
        twin.set_ylim(0.84, 0.96)
        twin.spines[["left", "top"]].set_visible(False)
        twin.tick_params(length=3)
    legend(ax, handles=lines)
    save(figure, f"{name}.png")


def main() -> None:
    """Train and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    quiet()
    for name in FIGURES:
        rows = record(name)
        peak = max(rows, key=lambda row: row["lr"])
        print(name, f"{len(rows)} steps", rows[0], peak, rows[-1], sep="\n  ")
        draw(name, rows)


if __name__ == "__main__":
    main()
