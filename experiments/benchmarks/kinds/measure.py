"""Measure what `table` reads, one JSON line each, and leave out what is there already.

    python -m experiments.benchmarks.kinds.measure [truth|curves|search|others ...]

``truth``: 1cycle over a ladder of peaks. ``curves``: range tests. ``search``: searches at four
costs. ``others``: Prodigy, which needs no rate. ``--part 0/2`` takes every second task.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.optim import Optimizer

from experiments.benchmarks.kinds.tasks import TASKS, Task
from experiments.benchmarks.kinds.trainings import Regime, build, train, trainer_for
from experiments.rows import add_line, quiet, read_lines
from lightning_onecycle import OneCycle, Tuner

RESULTS = Path(__file__).parents[1] / "results" / "kinds"
SEEDS = (0, 1, 2)
POINTS = (100, 300)
COSTS = (0.5, 1.0, 2.0, 4.0)
# Exponents of ten: of the lowest peak of a ladder, by optimizer, and of the highest.
LOWEST = {"sgd": -3.0, "adagrad": -3.0, "muon": -3.5}
LOWEST_PEAK, HIGHEST_PEAK = -4.0, 1.0


def ladder(task: Task) -> None:
    """Train over half decades up to where nothing is gained, then over quarters around the best."""
    path = RESULTS / "full.jsonl"
    done = {(r["task"], r["exponent"], r["seed"]): r for r in read_lines(path)}
    trivial = build(task, SEEDS[0], 1.0)[-1]

    def mean_loss(exponent: float) -> float:
        losses = []
        for seed in SEEDS:
            row = done.get((task.name, exponent, seed))
            if row is None:
                row = {"task": task.name, "exponent": exponent, "seed": seed}
                row |= train(task, seed, task.steps, 10.0**exponent)
                add_line(path, row)
            losses.append(trivial if row["loss"] is None else min(row["loss"], trivial))
        return fmean(losses)

    means: dict[float, float] = {}
    exponent = LOWEST.get(task.optimizer, LOWEST_PEAK)
    while exponent <= HIGHEST_PEAK:
        means[exponent] = mean_loss(exponent)
        gained = trivial - min(means.values())
        if gained > 0 and trivial - means[exponent] < 0.1 * gained:
            break
        exponent += 0.5
    best = min(means, key=lambda x: means[x])
    for shift in (-0.75, -0.25, 0.25, 0.75):
        means[best + shift] = mean_loss(best + shift)
    print(task.name, {x: round(loss, 4) for x, loss in sorted(means.items())}, flush=True)


def curves(task: Task) -> None:
    """Run range tests of several numbers of points."""
    path = RESULTS / "curves.jsonl"
    done = {(r["task"], r["points"], r["seed"]) for r in read_lines(path)}
    for points in POINTS:
        for seed in SEEDS:
            if (task.name, points, seed) in done:
                continue
            module, train_loader, _, _ = build(task, seed, 1.0)
            curve = Tuner(trainer_for(task.steps, OneCycle())).lr_find(
                module, train_loader, num_training=points
            )
            row = {"task": task.name, "points": points, "seed": seed, "stopped": curve.stopped}
            row["lrs"] = [float(f"{lr:.6g}") for lr in curve.lrs]
            row["losses"] = [float(f"{loss:.6g}") for loss in curve.losses]
            add_line(path, row)
            print("curve", task.name, points, seed, curve.suggest(), flush=True)


def searches(task: Task) -> None:
    """Search at several costs."""
    path = RESULTS / "search.jsonl"
    done = {(r["task"], r["cost"], r["seed"]) for r in read_lines(path)}
    for cost in COSTS:
        for seed in SEEDS:
            if (task.name, cost, seed) in done:
                continue
            module, train_loader, val_loader, _ = build(task, seed, 1.0)
            trainer = trainer_for(task.steps, OneCycle())
            trainer.limit_val_batches = 1.0
            found = Tuner(trainer).search(
                module, train_loader, val_dataloaders=val_loader, cost=cost
            )
            row = {"task": task.name, "cost": cost, "seed": seed, "lr": found.suggestion()}
            row |= {"steps": found.steps, "of": task.steps, "says": str(found)}
            row["probes"] = [
                [p.lr, p.loss if math.isfinite(p.loss) else None, p.steps] for p in found.probes
            ]
            add_line(path, row)
            print(task.name, cost, seed, found, flush=True)


def others(task: Task) -> None:
    """Train with Prodigy at a rate of 1, under cosine and under 1cycle."""
    from prodigyopt import Prodigy

    path = RESULTS / "others.jsonl"
    done = {(r["task"], r["method"], r["seed"]) for r in read_lines(path)}

    def prodigy(module: Regime) -> Optimizer:
        return Prodigy(module.net.parameters(), lr=1.0, weight_decay=task.weight_decay)

    def with_cosine(module: Regime) -> Any:
        optimizer = prodigy(module)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.steps)
        return [optimizer], [{"scheduler": cosine, "interval": "step"}]

    runs = {
        "Prodigy, cosine": (with_cosine, Callback()),
        "Prodigy, 1cycle": (prodigy, OneCycle(max_lr=1.0)),
    }
    for method, (make, callback) in runs.items():
        for seed in SEEDS:
            if (task.name, method, seed) not in done:
                row = {"task": task.name, "method": method, "seed": seed}
                row |= train(task, seed, task.steps, 1.0, make, callback)
                add_line(path, row)
                print(task.name, method, seed, row["loss"], flush=True)


STEPS = {"truth": ladder, "curves": curves, "search": searches, "others": others}


def main() -> None:
    """Run some of the steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", default=list(STEPS), help=f"of {', '.join(STEPS)}")
    parser.add_argument("--part", default="0/1", help="K/N: every N-th task, from the K-th on")
    parser.add_argument("--task", help="one task alone")
    arguments = parser.parse_args()
    quiet()
    first, step = map(int, arguments.part.split("/"))
    for task in TASKS[first::step]:
        if arguments.task in (None, task.name):
            for name in arguments.steps:
                STEPS[name](task)


if __name__ == "__main__":
    main()
