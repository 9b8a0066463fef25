"""Figs. 2 to 4: training and validation loss of three cycles, and whether they are as was said.

    python -m experiments.figures.runs fig2_losses fig3_high_rate fig4_overfitting
    python -m experiments.figures.losses

Writes ``fig2_losses.png``, ``fig3_high_rate.png``, ``fig4_overfitting.png`` and
``results/losses.md``. The training loss is the mean over an epoch's batches, as they were trained
on; the validation loss is that of the images as they are, at the end of the epoch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import ttest_1samp

from experiments.build import build
from experiments.figures.criteria import gap, roughness, slope
from experiments.figures.runs import RESULTS, configuration
from experiments.figures.style import BLUE, ORANGE, band, legend, new_figure, save
from experiments.rows import Row, markdown, quiet, read
from lightning_onecycle import Schedule

FIGURES = ("fig2_losses", "fig3_high_rate", "fig4_overfitting")


@dataclass(frozen=True)
class Run:
    """One seed: a value for each epoch.

    Attributes:
        train: Training loss.
        val: Validation loss.
        accuracy: Validation accuracy.
        test: Test accuracy behind the last epoch.
    """

    train: list[float]
    val: list[float]
    accuracy: list[float]
    test: float

    @property
    def gap(self) -> list[float]:
        """Validation loss less training loss."""
        return gap(self.train, self.val)

    def mean_gap(self, first: int, last: int) -> float:
        """Return the mean over epochs, counted from 0, the last included."""
        return fmean(self.gap[first : last + 1])


def runs_of(rows: list[Row]) -> list[Run]:
    """Return the runs that are in the rows, by seed."""
    seeds = sorted({row["seed"] for row in rows})
    by_seed = [[row for row in rows if row["seed"] == seed] for seed in seeds]
    return [
        Run(
            [row["train/loss"] for row in mine],
            [row["val/loss"] for row in mine],
            [row["val/acc"] for row in mine],
            mine[-1]["test/acc"],
        )
        for mine in by_seed
    ]


@dataclass(frozen=True)
class Verdict:
    """What one criterion says: whether it holds of each seed, and of the means."""

    figure: str
    criterion: str
    measured: str
    seeds: str
    holds: bool


def _spread(values: Sequence[float], decimals: int = 3) -> str:
    return f"{fmean(values):.{decimals}f} ± {stdev(values):.{decimals}f}"


def _compare(
    figure: str,
    criterion: str,
    runs: Sequence[Run],
    quantities: tuple[Callable[[Run], float], Callable[[Run], float]],
    holds: Callable[[float, float], bool],
) -> Verdict:
    """Hold two quantities of each run against each other; the verdict is that of the means."""
    first, second = ([quantity(run) for run in runs] for quantity in quantities)
    yes = sum(holds(a, b) for a, b in zip(first, second, strict=True))
    measured = f"{_spread(first)}; {_spread(second)}"
    good = holds(fmean(first), fmean(second))
    return Verdict(figure, criterion, measured, f"{yes} of {len(runs)}", good)


def judge_fig2(runs: Sequence[Run]) -> list[Verdict]:
    """Return the verdicts (a) to (d) on Fig. 2; its cycle ends with epoch 82 of 95."""
    last = len(runs[0].val) - 1
    slopes = [slope(run.gap[20:81]) for run in runs]
    rises = ttest_1samp(slopes, 0.0, alternative="greater").pvalue < 0.05
    return [
        _compare(
            "2",
            "(a) mean change of the validation loss an epoch, epochs 20 to 60 and the last 10: "
            "at least twice as large",
            runs,
            (lambda run: roughness(run.val[20:61]), lambda run: roughness(run.val[-10:])),
            lambda middle, end: middle >= 2 * end,
        ),
        Verdict(
            "2",
            "(b) slope of the gap an epoch, epochs 20 to 80: not above 0 (t test over seeds, 5 %)",
            _spread(slopes, 5),
            f"{sum(value <= 0 for value in slopes)} of {len(runs)}",
            not rises,
        ),
        _compare(
            "2",
            "(c) validation loss at the end and at the end of the cycle, epoch 82: lower",
            runs,
            (lambda run: run.val[last], lambda run: run.val[82]),
            lambda end, cycle: end < cycle,
        ),
        _compare(
            "2",
            "(d) epoch of the lowest validation loss: in the last 15 %, from 80.75 on",
            runs,
            (lambda run: float(run.val.index(min(run.val))), lambda run: 0.85 * (last + 1)),
            lambda epoch, start: epoch >= start,
        ),
    ]


def judge_fig3(runs: Sequence[Run], fig2: Sequence[Run]) -> list[Verdict]:
    """Return the verdicts (a) to (c) on Fig. 3, and (d) beside Fig. 2."""
    verdicts = [
        _compare(
            "3",
            "(a) mean change of the validation loss an epoch, epochs 10 to 32 and the last 5: "
            "at least twice as large",
            runs,
            (lambda run: roughness(run.val[10:33]), lambda run: roughness(run.val[-5:])),
            lambda middle, end: middle >= 2 * end,
        ),
        _compare(
            "3",
            "(b) gap in epochs 40 to 44 and in epochs 10 to 14: not larger",
            runs,
            (lambda run: run.mean_gap(40, 44), lambda run: run.mean_gap(10, 14)),
            lambda late, early: late <= early,
        ),
        _compare(
            "3",
            "(c) gap in the last 5 epochs and in epochs 40 to 44: larger",
            runs,
            (lambda run: run.mean_gap(45, 49), lambda run: run.mean_gap(40, 44)),
            lambda last, before: last > before,
        ),
    ]
    return [
        *verdicts,
        _paired("3", "(d) final validation loss, and Fig. 2's: lower", runs, fig2, _final_loss, -1),
        _paired("3", "(d) final accuracy, and Fig. 2's: lower", runs, fig2, _final_accuracy, -1),
    ]


def judge_fig4(runs: Sequence[Run], fig2: Sequence[Run]) -> list[Verdict]:
    """Return the verdicts on Fig. 4; all three must hold."""
    return [
        _paired("4", "(a) final gap, and Fig. 2's: larger", runs, fig2, lambda r: r.gap[-1], 1),
        _paired("4", "(b) final accuracy, and Fig. 2's: lower", runs, fig2, _final_accuracy, -1),
        _compare(
            "4",
            "(c) final validation loss, and its lowest in epochs 43 to 60: higher",
            runs,
            (_final_loss, lambda run: min(run.val[43:61])),
            lambda end, lowest: end > lowest,
        ),
    ]


def _final_loss(run: Run) -> float:
    return run.val[-1]


def _final_accuracy(run: Run) -> float:
    return run.accuracy[-1]


def _paired(
    figure: str,
    criterion: str,
    runs: Sequence[Run],
    others: Sequence[Run],
    quantity: Callable[[Run], float],
    sign: int,
) -> Verdict:
    """Hold a quantity against that of the same seeds of another figure."""
    mine, theirs = [quantity(run) for run in runs], [quantity(run) for run in others]
    differences = [sign * (a - b) for a, b in zip(mine, theirs, strict=True)]
    yes = f"{sum(value > 0 for value in differences)} of {len(runs)}"
    measured = f"{_spread(mine)}; {_spread(theirs)}"
    return Verdict(figure, criterion, measured, yes, fmean(differences) > 0)


def judge(fig2: list[Run], fig3: list[Run], fig4: list[Run]) -> list[Verdict]:
    """Return all verdicts of which the runs are there."""
    verdicts = judge_fig2(fig2)
    verdicts += judge_fig3(fig3, fig2) if fig3 else []
    return verdicts + (judge_fig4(fig4, fig2) if fig4 else [])


def tables(results: dict[str, list[Run]], verdicts: list[Verdict]) -> str:
    """Return how each figure ended, and the verdicts."""
    ends = [
        {
            "figure": name,
            "n": len(runs),
            "training loss": _spread([run.train[-1] for run in runs]),
            "validation loss": _spread([run.val[-1] for run in runs]),
            "gap": _spread([run.gap[-1] for run in runs]),
            "validation accuracy (%)": _spread([100 * run.accuracy[-1] for run in runs], 2),
            "test accuracy (%)": _spread([100 * run.test for run in runs], 2),
        }
        for name, runs in results.items()
        if runs
    ]
    lines = [
        {
            "figure": v.figure,
            "criterion": v.criterion,
            "measured": v.measured,
            "seeds of which it holds": v.seeds,
            "of the means": "holds" if v.holds else "does not hold",
        }
        for v in verdicts
    ]
    return f"{markdown(ends)}\n\n{markdown(lines)}\n"


def draw(name: str, runs: list[Run], schedule: Schedule, peak: float, title: str) -> None:
    """Draw the losses, and the gap between them, over the learning rate in grey."""
    epochs = range(1, len(runs[0].val) + 1)
    figure = new_figure(1, 2, width=9.0, height=3.4)
    losses, gaps = figure.axes
    band(losses, epochs, [run.train for run in runs], BLUE, "training loss")
    band(losses, epochs, [run.val for run in runs], ORANGE, "validation loss")
    band(gaps, epochs, [run.gap for run in runs], BLUE, "validation less training loss")
    gaps.axhline(0.0, color="0.6", linewidth=0.8)
    for ax, low, high in ((losses, 0.0, 1.0), (gaps, -0.2, 0.6)):
        ax.set_ylim(low, high)
        ax.set_xlim(0, epochs[-1])
        ax.set_xlabel("epoch")
        rate = ax.twinx()
        points = [peak * point.lr for point in schedule.trace(len(epochs) * 10)]
        rate.fill_between([i / 10 for i in range(len(points))], points, color="0.93", linewidth=0)
        rate.set_ylim(0, peak * 1.05)
        rate.tick_params(axis="y", colors="0.5", length=3)
        rate.spines[["top", "left"]].set_visible(False)
        rate.spines["right"].set_color("0.7")
        ax.set_zorder(rate.get_zorder() + 1)
        ax.patch.set_visible(False)
        legend(ax)
    losses.set_ylabel("loss")
    gaps.set_ylabel("gap in loss")
    rate.set_ylabel("learning rate", color="0.5")
    figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
    save(figure, f"{name}.png")


TITLES = {
    "fig2_losses": "Fig. 2: .08 to .8 and back in 82 epochs, 13 of annihilation",
    "fig3_high_rate": "Fig. 3: .15 to 3 and back in 45 epochs, 5 of annihilation",
    "fig4_overfitting": "Fig. 4: .08 to .8 and back in 47.5 epochs, 47.5 of annihilation",
}


def main() -> None:
    """Print and write the tables, and draw the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    quiet()
    results = {name: runs_of(read(RESULTS / f"{name}.csv")) for name in FIGURES}
    text = tables(results, judge(*results.values()))
    print(text)
    (RESULTS / "losses.md").write_text(text)
    for name, runs in results.items():
        cfg = configuration(f"experiment={name}")
        if runs:
            draw(name, runs, build(cfg, "schedule"), cfg.optimizer.lr, TITLES[name])


if __name__ == "__main__":
    main()
