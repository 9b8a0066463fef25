"""Fig. 7: range tests with several weight decays, and where each of them blows up.

    python -m experiments.figures.weight_decay run       # two minutes of one core
    python -m experiments.figures.weight_decay table

A curve blows up where its smoothed loss is above four times its lowest: Gugger's rule, the same for
every weight decay.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from statistics import fmean, geometric_mean, stdev

from lightning.pytorch import seed_everything

from experiments.build import build, optimizer_of
from experiments.figures.runs import RESULTS, configuration, jobs, missing
from experiments.figures.style import BLUE, GREEN, ORANGE, PINK, band, legend, new_figure, save
from experiments.rows import Row, add, markdown, quiet, read
from experiments.task import Classifier
from lightning_onecycle import Tuner

EXPERIMENT = "fig7_weight_decay"
PATH = RESULTS / f"{EXPERIMENT}.csv"
COLORS = (ORANGE, GREEN, BLUE, PINK)
BETA = 0.9  # of the running mean: a tenth of a decade at 25 points a decade


def smoothed(losses: Sequence[float], beta: float = BETA) -> list[float]:
    """Return the exponential running mean, divided by the sum of its weights.

    Example:
        >>> smoothed([1.0, 3.0], beta=0.5)
        [1.0, 2.3333333333333335]
    """
    result, mean, weight = [], 0.0, 0.0
    for loss in losses:
        mean = beta * mean + (1 - beta) * loss
        weight = beta * weight + (1 - beta)
        result.append(mean / weight)
    return result


def blow_up(lrs: Sequence[float], losses: Sequence[float], factor: float = 4.0) -> float | None:
    """Return the first rate whose loss is above ``factor`` times the lowest before it, or is none.

    Args:
        lrs: Learning rates, rising.
        losses: The smoothed loss at each.
        factor: How many times as large.

    Returns:
        The rate; None if the loss stays below up to the end.

    Example:
        >>> blow_up([0.1, 1.0, 10.0], [2.0, 0.5, 2.1])
        10.0
    """
    best = math.inf
    for lr, loss in zip(lrs, losses, strict=True):
        if not math.isfinite(loss) or loss > factor * best:
            return lr
        best = min(best, loss)
    return None


def run() -> None:
    """Run the range tests that are not there yet."""
    for job in missing(PATH, jobs(EXPERIMENT)):
        cfg = configuration(f"experiment={EXPERIMENT}", *job, "trainer.enable_progress_bar=false")
        seed_everything(cfg.seed, workers=True, verbose=False)
        data = build(cfg, "data")
        task = Classifier(build(cfg, "model"), optimizer_of(cfg), cfg.data.num_classes, **cfg.task)
        trainer = build(cfg, "trainer", logger=False, enable_checkpointing=False)
        options = ("min_lr", "max_lr", "num_training", "early_stop_threshold")
        curve = Tuner(trainer).lr_find(
            task,
            datamodule=data,
            schedule=build(cfg, "schedule"),
            **{name: cfg.lr_find[name] for name in options},
        )
        place = {"job": " ".join(job), "weight_decay": cfg.optimizer.weight_decay, "seed": cfg.seed}
        points = zip(curve.lrs, curve.losses, strict=True)
        rounded = [{"lr": float(f"{lr:.6g}"), "loss": float(f"{x:.6g}")} for lr, x in points]
        add(PATH, (place | point for point in rounded))
        print(*job, curve.stopped, flush=True)


def curves(rows: list[Row]) -> dict[float, list[tuple[list[float], list[float]]]]:
    """Return rates and smoothed losses of each seed, by weight decay, the largest first."""
    found: dict[float, list[tuple[list[float], list[float]]]] = {}
    for decay in sorted({float(row["weight_decay"]) for row in rows}, reverse=True):
        for seed in sorted({row["seed"] for row in rows}):
            mine = [r for r in rows if r["seed"] == seed and float(r["weight_decay"]) == decay]
            curve = ([row["lr"] for row in mine], smoothed([row["loss"] for row in mine]))
            found.setdefault(decay, []).append(curve)
    return found


def table(rows: list[Row]) -> str:
    """Return where each weight decay blows up, and how low its loss came before."""
    lines = []
    for decay, seeds in curves(rows).items():
        rates = [blow_up(lrs, losses) for lrs, losses in seeds]
        reached = [rate for rate in rates if rate is not None]
        lowest = [min(losses) for _, losses in seeds]
        line: Row = {"weight decay": f"{decay:g}", "n": len(seeds)}
        line["blows up at a learning rate of"] = ", ".join(
            "nowhere" if rate is None else f"{rate:.2f}" for rate in rates
        )
        line["geometric mean"] = f"{geometric_mean(reached):.2f}" if reached else ""
        line["lowest smoothed loss"] = f"{fmean(lowest):.3f} ± {stdev(lowest):.3f}"
        lines.append(line)
    return f"{markdown(lines)}\n"


def draw(rows: list[Row]) -> None:
    """Draw the smoothed losses over the learning rate."""
    figure = new_figure()
    (ax,) = figure.axes
    for color, (decay, seeds) in zip(COLORS, curves(rows).items(), strict=True):
        length = min(len(lrs) for lrs, _ in seeds)
        losses = [[min(loss, 1e3) for loss in seed[:length]] for _, seed in seeds]
        band(ax, seeds[0][0][:length], losses, color, f"{decay:g}")
    ax.set_xscale("log")
    ax.set_ylim(0.8, 4.0)
    ax.set_xlim(0.008, 50)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("training loss, smoothed")
    legend(ax, title="weight decay", alignment="left")
    save(figure, f"{EXPERIMENT}.png")


def main() -> None:
    """Run one of the steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=["run", "table"])
    quiet()
    if parser.parse_args().step == "run":
        run()
        return
    rows = read(PATH)
    text = table(rows)
    print(text)
    (RESULTS / f"{EXPERIMENT}.md").write_text(text)
    draw(rows)


if __name__ == "__main__":
    main()
