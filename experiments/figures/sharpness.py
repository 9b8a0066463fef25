"""Is the loss flat in the middle of the cycle, where the learning rate is large?

    python -m experiments.figures.sharpness run      # what is there already is left out
    python -m experiments.figures.sharpness table

The largest eigenvalue of the Hessian of the training loss, and Keskar's sharpness, at 13 points of
1cycle, of a constant learning rate and of one that is cut to a tenth at half of the run and again
at three quarters, all from the same peak and the same initial weights. Flat minima are said to
generalize better, and large rates to find them; then it is odd that 1cycle has to end with a rate
far below that at which it began.

The middle are the points with three quarters of the largest rate among 1cycle's, and more. The
claims and the rules of their verdicts were written down before the runs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.ticker import LogFormatter
from scipy.stats import spearmanr

from experiments.build import build
from experiments.figures.claims import Claim, where
from experiments.figures.runs import RESULTS, configuration, jobs, train
from experiments.figures.style import BLUE, GREEN, ORANGE, band, new_figure, save
from experiments.rows import Row, add, markdown, quiet, read
from lightning_onecycle import Sharpness

EXPERIMENT = "sharpness"
PATH = RESULTS / "sharpness_points.csv"
# The peak is that of .05, .1, .2 and .4 with the lowest validation loss of 1cycle, seed 0, before
# anything was measured. Without augmentation .05 was not tried before; it is lower, .367 and not
# .387.
SETTINGS = {
    "MLP": ("optimizer.lr=0.1",),
    "MLP, no augmentation": ("data.augment=null", "optimizer.lr=0.1"),
    "MLP with batch norm": ("model.batch_norm=true", "optimizer.lr=0.1"),
}
TAGS = {"eigenvalue": "measure/hessian_eigenvalue", "sharpness": "measure/sharpness"}
NAMES = {"eigenvalue": "largest eigenvalue", "sharpness": "Keskar's sharpness (%)"}
REGIMES = {"onecycle": (BLUE, "1cycle"), "constant": (ORANGE, "constant"), "step": (GREEN, "step")}


class Points(Callback):
    """Keep what `Sharpness` finds, with the learning rate and the loss of the steps before it.

    List it behind the measurement.
    """

    def __init__(self, measurement: Sharpness) -> None:
        self.measurement = measurement
        self.rows: list[Row] = []
        self._losses: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Take what was measured before this step."""
        if trainer.global_step % self.measurement.every_n_steps == 0:
            self._take(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Note the loss."""
        self._losses.append(float(outputs["loss"]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take what was measured at the end."""
        self._take(trainer)

    def _take(self, trainer: Trainer) -> None:
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        found = {name: self.measurement.latest.get(tag, math.nan) for name, tag in TAGS.items()}
        loss = fmean(self._losses) if self._losses else math.nan
        values = {"lr": lr, "loss": loss, **found}
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        self.rows.append({"step": trainer.global_step, **rounded})
        self._losses = []


def run(settings: Sequence[str]) -> None:
    """Train what is not there yet."""
    for setting in settings:
        for job in jobs(EXPERIMENT):
            cfg = configuration(
                f"experiment={EXPERIMENT}",
                *job,
                *SETTINGS[setting],
                "trainer.enable_progress_bar=false",
            )
            key = {"setting": setting, "schedule": job[0].partition("=")[2], "seed": cfg.seed}
            if where(read(PATH), **key):
                continue
            measurement = build(cfg.callbacks, "sharpness")
            points = Points(measurement)
            _, diverged, seconds, tested = train(cfg, measurement, points)
            accuracy = math.nan if diverged else tested["test/acc"]
            add(PATH, (key | row | {"test/acc": accuracy} for row in points.rows))
            print(*key.values(), f"{seconds} s", points.rows[-1], accuracy, flush=True)


# ---- what came out ------------------------------------------------------------------------------


def curve(rows: Sequence[Row], setting: str, schedule: str, seed: int, name: str) -> list[float]:
    """Return a column of one run."""
    return [row[name] for row in where(rows, setting=setting, schedule=schedule, seed=seed)]


def log_mean(values: Sequence[float]) -> float:
    """Return the geometric mean.

    Example:
        >>> log_mean([1.0, 4.0])
        2.0
    """
    return math.exp(fmean(math.log(value) for value in values))


def seeds_of(rows: Sequence[Row], setting: str) -> list[int]:
    """Return the seeds of which all regimes are there."""
    found = [{r["seed"] for r in where(rows, setting=setting, schedule=name)} for name in REGIMES]
    return sorted(set.intersection(*found))


def claims(rows: Sequence[Row], setting: str) -> list[Claim]:
    """Return the claims about one setting; ratios of geometric means, of each seed."""
    seeds = seeds_of(rows, setting)
    if not seeds:
        return []
    lrs = curve(rows, setting, "onecycle", seeds[0], "lr")
    middle = [i for i, lr in enumerate(lrs) if lr >= 0.75 * max(lrs)]
    last = len(lrs) - 1
    behind = [i for i in range(last) if 0.55 * last <= i <= 0.75 * last]  # the first cut

    def ratio(name: str, above: tuple[str, list[int]], below: tuple[str, list[int]]) -> list[float]:
        parts = []
        for seed in seeds:
            (a, b) = (
                log_mean([curve(rows, setting, regime, seed, name)[i] for i in points])
                for regime, points in (above, below)
            )
            parts.append(a / b)
        return parts

    rises = {
        (regime, name): ratio(name, (regime, [last]), (regime, middle))
        for regime in REGIMES
        for name in TAGS
    }
    found = [
        Claim(
            setting,
            f"1cycle, {NAMES[name]}: end over middle, more than 1",
            rises["onecycle", name],
            lambda v: v > 1,
        )
        for name in TAGS
    ]
    found += [
        Claim(
            setting,
            f"1cycle, {NAMES[name]}: rank correlation with the learning rate, below 0"
            " (initial weights left out)",
            [
                float(spearmanr(lrs[1:], curve(rows, setting, "onecycle", seed, name)[1:])[0])
                for seed in seeds
            ],
            lambda v: v < 0,
        )
        for name in TAGS
    ]
    found += [
        Claim(
            setting,
            f"it is the learning rate, not time, {NAMES[name]}: 1cycle's end over middle, over that"
            " of the constant rate, more than 1",
            [a / b for a, b in zip(rises["onecycle", name], rises["constant", name], strict=True)],
            lambda v: v > 1,
        )
        for name in TAGS
    ]
    found.append(
        Claim(
            setting,
            "step, largest eigenvalue: behind the first cut over middle, more than 1",
            ratio("eigenvalue", ("step", behind), ("step", middle)),
            lambda v: v > 1,
        )
    )
    found.append(
        Claim(
            setting,
            "1cycle's end over step's end, largest eigenvalue, below 1: the flatter minimum",
            ratio("eigenvalue", ("onecycle", [last]), ("step", [last])),
            lambda v: v < 1,
        )
    )
    return found


def table(rows: Sequence[Row]) -> str:
    """Return the verdicts, and below them how each regime ended."""
    verdicts = [claim.row() for setting in SETTINGS for claim in claims(rows, setting)]
    ends = []
    for setting in SETTINGS:
        for regime, (_, label) in REGIMES.items():
            mine = where(rows, setting=setting, schedule=regime)
            if mine:
                finals = where(mine, step=max(row["step"] for row in mine))
                line = {"setting": setting, "regime": label, "n": len(finals)}
                for name in ("eigenvalue", "sharpness", "loss"):
                    line[f"{NAMES.get(name, 'training loss')}, end"] = _of(finals, name)
                line["test accuracy (%)"] = _of(finals, "test/acc", 100)
                ends.append(line)
    return f"{markdown(verdicts)}\n\n{markdown(ends)}\n" if verdicts else "nothing is finished\n"


def _of(rows: Sequence[Row], name: str, factor: float = 1.0) -> str:
    return Claim("", "", [factor * row[name] for row in rows], bool).row()["mean ± std"]


def draw(rows: Sequence[Row]) -> None:
    """Draw both measures of each setting over the learning rate of 1cycle."""
    settings = [setting for setting in SETTINGS if seeds_of(rows, setting)]
    figure = new_figure(2, len(settings), width=3.4 * len(settings) + 0.6, height=5.4)
    for place, ax in enumerate(figure.axes):
        name = list(TAGS)[place // len(settings)]
        setting = settings[place % len(settings)]
        seeds = seeds_of(rows, setting)
        steps = curve(rows, setting, "onecycle", seeds[0], "step")
        for regime, (color, label) in REGIMES.items():
            values = [curve(rows, setting, regime, seed, name) for seed in seeds]
            band(ax, steps[1:], [v[1:] for v in values], color, label, marker="o", markersize=3)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        ax.tick_params(axis="y", which="both", labelsize="small")
        rate = ax.twinx()
        ax.set_zorder(rate.get_zorder() + 1)
        ax.patch.set_visible(False)
        lrs = curve(rows, setting, "onecycle", seeds[0], "lr")
        rate.fill_between(steps, lrs, color="0.93", linewidth=0)
        rate.set_ylim(0, max(lrs) * 1.05)
        rate.tick_params(axis="y", colors="0.5", length=3, labelsize="small")
        rate.spines[["top", "left"]].set_visible(False)
        rate.spines["right"].set_color("0.7")
        if place % len(settings) == 0:
            ax.set_ylabel(NAMES[name])
        if place < len(settings):
            ax.set_title(setting, loc="left", fontsize="medium")
        else:
            ax.set_xlabel("optimizer step")
        if place % len(settings) == len(settings) - 1:
            rate.set_ylabel("learning rate of 1cycle", color="0.5")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    save(figure, f"{EXPERIMENT}.png")


def main() -> None:
    """Run, or print and write the tables and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=["run", "table"])
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    arguments = parser.parse_args()
    quiet()
    if arguments.step == "run":
        run(arguments.settings)
        return
    rows = read(PATH)
    text = table(rows)
    print(text)
    (RESULTS / f"{EXPERIMENT}.md").write_text(text)
    draw(rows)


if __name__ == "__main__":
    main()
