"""Where over-fitting starts, marked: in the cycle, or where the learning rate is annihilated?

    python -m experiments.figures.runs overfitting fig2_losses fig3_high_rate fig4_overfitting
    python -m experiments.figures.overfitting

It starts at the lowest validation loss, where from there to the end the training loss falls and the
validation loss rises by more than 1 % (`lightning_onecycle.measure.onset`). The cycle is over where
the rate is back at its start; behind that it is annihilated. Trainings that never over-fit count as
over-fitting from behind their last epoch. The rules were written down before anything was read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.build import build
from experiments.figures.claims import Claim, spread
from experiments.figures.runs import RESULTS, configuration
from experiments.figures.style import BLUE, GREY, ORANGE, band, new_figure, save
from experiments.rows import Row, markdown, quiet, read
from lightning_onecycle.measure import onset


class Training(NamedTuple):
    """An experiment, the schedule whose jobs are meant, and what to call it."""

    experiment: str
    schedule: str
    label: str


TRAININGS = (
    Training("overfitting", "onecycle", "MLP, no augmentation, 1cycle"),
    Training("overfitting", "constant", "MLP, no augmentation, constant rate"),
    Training("overfitting", "step", "MLP, no augmentation, step"),
    Training("fig2_losses", "", "Fig. 2"),
    Training("fig3_high_rate", "", "Fig. 3"),
    Training("fig4_overfitting", "", "Fig. 4: a cycle of half of the run"),
)


class Losses(NamedTuple):
    """Training and validation loss of one seed, by epoch."""

    train: list[float]
    val: list[float]

    @property
    def start(self) -> int | None:
        """Epochs that were over when over-fitting started, if it did."""
        found = onset(self.train, self.val)
        return None if found is None else found + 1


def losses(training: Training) -> list[Losses]:
    """Return the seeds that are there."""
    rows = read(RESULTS / f"{training.experiment}.csv")
    if training.schedule:
        rows = [row for row in rows if f"schedule={training.schedule} " in f"{row['job']} "]
    return [
        Losses(*([r[m] for r in rows if r["seed"] == seed] for m in ("train/loss", "val/loss")))
        for seed in sorted({row["seed"] for row in rows})
    ]


def cycle_end(training: Training, epochs: int) -> float:
    """Return the epoch at which 1cycle is back at its first rate."""
    schedule = build(configuration(f"experiment={training.experiment}"), "schedule")
    return (1 - schedule.phases[-1].fraction) * epochs


def claims(results: dict[Training, list[Losses]]) -> list[Claim]:
    """Return the claims about trainings that are there."""
    found = []
    starts = {}
    for training, seeds in results.items():
        epochs = len(seeds[0].val)
        starts[training] = [float(s.start or epochs + 1) for s in seeds]
        if training.schedule in ("", "onecycle"):
            end = cycle_end(training, epochs)
            found.append(
                Claim(
                    training.label,
                    f"over-fitting starts where the rate is annihilated: epochs behind the end of"
                    f" the cycle, at {end:g} of {epochs}, at least 0",
                    [start - end for start in starts[training]],
                    lambda v: v >= 0,
                    1,
                )
            )
    onecycle, *others = (t for t in results if t.experiment == "overfitting")
    found += [
        Claim(
            onecycle.label,
            f"it starts later than with {other.schedule}: epochs, above 0",
            [a - b for a, b in zip(starts[onecycle], starts[other], strict=True)],
            lambda v: v > 0,
            1,
        )
        for other in others
    ]
    return found


def table(results: dict[Training, list[Losses]]) -> str:
    """Return the verdicts, and below them where each training starts to over-fit."""
    lines = []
    for training, seeds in results.items():
        starts = [s.start for s in seeds]
        line: Row = {"training": training.label, "n": len(seeds), "epochs": len(seeds[0].val)}
        line["starts behind epoch"] = ", ".join("never" if s is None else str(s) for s in starts)
        line["lowest validation loss"] = spread([min(s.val) for s in seeds], 3)
        line["at the end"] = spread([s.val[-1] for s in seeds], 3)
        lines.append(line)
    verdicts: list[dict[str, Any]] = [claim.row() for claim in claims(results)]
    return f"{markdown(verdicts)}\n\n{markdown(lines)}\n"


def draw(results: dict[Training, list[Losses]]) -> None:
    """Draw the losses, and mark where each seed starts to over-fit."""
    columns = 3
    figure = new_figure(-(-len(results) // columns), columns, width=11.0, height=5.6)
    for ax, (training, seeds) in zip(figure.axes, results.items(), strict=False):
        epochs = range(1, len(seeds[0].val) + 1)
        band(ax, epochs, [s.train for s in seeds], BLUE, "training loss")
        band(ax, epochs, [s.val for s in seeds], ORANGE, "validation loss")
        _mark(ax, seeds)
        if training.schedule in ("", "onecycle"):
            ax.axvspan(cycle_end(training, len(epochs)), len(epochs), color="0.94", zorder=0)
        ax.set_ylim(0, 1)
        ax.set_xlim(0, len(epochs))
        ax.set_title(training.label, loc="left", fontsize="medium")
        ax.set_xlabel("epoch")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    for ax in figure.axes[len(results) :]:
        ax.remove()
    save(figure, "overfitting.png")


def _mark(ax: Any, seeds: Sequence[Losses]) -> None:
    started = [(s.start, s.val[s.start - 1]) for s in seeds if s.start is not None]
    if started:
        ax.plot(*zip(*started, strict=True), "v", color=GREY, label="over-fitting starts")


def main() -> None:
    """Print and write the table, and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    quiet()
    results = {training: found for training in TRAININGS if (found := losses(training))}
    text = table(results)
    print(text)
    (RESULTS / "overfitting.md").write_text(text)
    draw(results)


if __name__ == "__main__":
    main()
