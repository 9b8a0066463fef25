"""Measure: train each task over its grid of peaks, and run the finders on it."""

from __future__ import annotations

import itertools
import tempfile
import time

from experiments.benchmarks.peers import PEERS
from experiments.benchmarks.regret.tasks import SEEDS, TASKS, build, make_trainer, train
from experiments.benchmarks.results import RESULTS
from experiments.rows import add_line, read_lines
from lightning_onecycle import OneCycle, Tuner, one_cycle

FAILED = 0.15  # accuracy up to which a training has learnt nothing

# The peaks tried, by optimizer: factors of 10**0.25, and one far below. A grid ends where all seeds
# fail.
GRIDS = {
    "sgd": tuple(10**e for e in (-3.5, *(n / 4 for n in range(-10, 5)))),
    "adamw": tuple(10**e for e in (-5, *(n / 4 for n in range(-16, 1)))),
}
# Our range tests, by optimizer: over a wide and a narrow range, and with three times as many steps.
RANGES = {
    "wide": {"sgd": (1e-6, 10.0), "adamw": (1e-6, 1.0)},
    "narrow": {"sgd": (1e-4, 10.0), "adamw": (1e-5, 1.0)},
    "fine": {"sgd": (1e-6, 10.0), "adamw": (1e-6, 1.0)},
}
POINTS = {"wide": 100, "narrow": 100, "fine": 300}


def run_truth() -> None:
    """Train each task over its grid of peaks, from the lowest up to where all seeds fail."""
    path = RESULTS / "regret_truth.jsonl"
    done = {(row["task"], row["lr"], row["seed"]): row for row in read_lines(path)}
    for task in TASKS:
        learnt = False
        for lr in (round(lr, 8) for lr in GRIDS[task.optimizer]):
            accuracies = []
            for seed in SEEDS:
                row = done.get((task.name, lr, seed))
                if row is None:
                    row = {"task": task.name, "lr": lr, "seed": seed, **train(task, seed, lr)}
                    add_line(path, row)
                accuracies.append(row["acc"])
            print(task.name, f"{lr:.3g}", accuracies, flush=True)
            learnt = learnt or max(accuracies) > FAILED
            if learnt and max(accuracies) <= FAILED:
                break


def run_find() -> None:
    """Run our range test on each task and seed, over each of `RANGES`, and keep the curves."""
    path = RESULTS / "regret_curves.jsonl"
    done = {(row["range"], row["task"], row["seed"]) for row in read_lines(path)}
    for name, task, seed in itertools.product(RANGES, TASKS, SEEDS):
        if (name, task.name, seed) in done:
            continue
        low, high = RANGES[name][task.optimizer]
        module, data = build(task, seed, lr=high)
        began = time.perf_counter()
        curve = Tuner(make_trainer(task)).lr_find(
            module,
            datamodule=data,
            min_lr=low,
            max_lr=high,
            num_training=POINTS[name],
            schedule=one_cycle(),
        )
        row = {"range": name, "task": task.name, "seed": seed, "stopped": curve.stopped}
        row["seconds"] = round(time.perf_counter() - began, 2)
        row["lrs"] = [float(f"{lr:.6g}") for lr in curve.lrs]
        row["losses"] = [float(f"{loss:.6g}") for loss in curve.losses]
        add_line(path, row)
        print(name, task.name, seed, curve.suggest(), flush=True)


def run_searches() -> None:
    """Search on each task and seed, for as many steps as the training has; those apart first."""
    path = RESULTS / "regret_searches.jsonl"
    done = {(row["task"], row["seed"]) for row in read_lines(path)}
    for task, seed in itertools.product(sorted(TASKS, key=lambda task: task.tuned), SEEDS):
        if (task.name, seed) in done:
            continue
        low, high = RANGES["wide"][task.optimizer]
        module, data = build(task, seed, lr=high)
        found = Tuner(make_trainer(task, OneCycle())).search(
            module, datamodule=data, min_lr=low, max_lr=high
        )
        row = {"task": task.name, "seed": seed, "lr": found.suggestion(), "steps": found.steps}
        add_line(path, {**row, "of": found.total_steps, "says": str(found)})
        print(task.name, seed, found, flush=True)


def run_peers() -> None:
    """Run each of `PEERS` on each task and seed."""
    path = RESULTS / "regret_peers.jsonl"
    done = {(row["peer"], row["task"], row["seed"]) for row in read_lines(path)}
    for task, seed, peer in itertools.product(TASKS, SEEDS, PEERS):
        if (peer, task.name, seed) in done:
            continue
        module, data = build(task, seed, lr=0.01 if task.optimizer == "sgd" else 0.001)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            suggestions = PEERS[peer]((module, data, make_trainer(task, folder=folder)))
        row = {"peer": peer, "task": task.name, "seed": seed, "suggestions": suggestions}
        add_line(path, {**row, "seconds": round(time.perf_counter() - began, 2)})
        print(task.name, seed, suggestions, flush=True)
