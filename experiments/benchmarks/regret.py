"""What an LR finder costs: the accuracy lost by training 1cycle at its suggestion.

    python -m experiments.benchmarks.regret train     # the truth: 1cycle over a grid of peaks
    python -m experiments.benchmarks.regret find      # our range tests
    python -m experiments.benchmarks.regret search    # range tests and short trainings, at cost 1
    python -m experiments.benchmarks.regret peers --peers-python PYTHON
    python -m experiments.benchmarks.regret table     # the regret of each method

The regret of a suggestion is the validation accuracy at the best peak of the grid, the mean over
seeds, less the accuracy at the suggestion with the seed that it was made with. Between two peaks of
the grid the accuracy of a seed is interpolated linearly over log10 of the peak; below the grid it
is that of the lowest peak, and above it chance. A training that diverges has chance accuracy.

Each step adds JSON lines to ``experiments/benchmarks/results/`` and leaves out what is there
already, so that it may be interrupted.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import SGD, AdamW

from experiments.benchmarks.peers import PEERS
from experiments.benchmarks.results import RESULTS, run_module
from experiments.benchmarks.trainers import EndAtNaN, quiet_trainer
from experiments.data import Digits, FashionMNIST
from experiments.data.base import InMemoryDataModule
from experiments.models import MLP, LeNet, ResNet
from experiments.rows import add_line, markdown, quiet, read_lines
from experiments.task import Classifier
from lightning_onecycle import BatchNormRecalibration, LRCurve, OneCycle, Tuner, one_cycle

SEEDS = (0, 1, 2)
CHANCE = 0.1
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
BEST = "best of the grid"
# Peaks of people who run no range test: one number for each optimizer, whatever the task is.
NO_FINDER = {
    f"no finder (SGD {sgd:g}, AdamW 0.003)": {"sgd": sgd, "adamw": 3e-3}
    for sgd in (0.03, 0.05, 0.1)
}


@dataclass(frozen=True)
class Task:
    """A short training. A task that is changed needs a new name, for results go by the name.

    Attributes:
        name: What it is called in the results.
        tuned: Whether rules were designed on it; the other tasks were kept apart.
        data: ``"digits"`` or ``"fashion"``.
        net: A key of `NETS`.
        optimizer: ``"sgd"`` (Nesterov) or ``"adamw"``.
        weight_decay: Of all parameters.
        batch_size: Images in a batch.
        epochs: Length of the training.
        train_size: Images to train on; None: all.
    """

    name: str
    tuned: bool
    data: str
    net: str
    optimizer: str
    weight_decay: float
    batch_size: int
    epochs: int
    train_size: int | None = None


# The rule was chosen on the tuned tasks. The last seven were trained after it, and are kept apart.
TASKS = (
    Task("digits-mlp_bn-sgd", True, "digits", "mlp_bn", "sgd", 1e-4, 64, 30),
    Task("digits-mlp-adamw", True, "digits", "mlp", "adamw", 0.1, 64, 30),
    Task("fashion-mlp-sgd", True, "fashion", "mlp", "sgd", 5e-4, 128, 10, 4000),
    Task("fashion-mlp_bn-sgd-256", True, "fashion", "mlp_bn", "sgd", 1e-3, 256, 12, 5000),
    Task("fashion-lenet-sgd", True, "fashion", "lenet", "sgd", 5e-4, 64, 5, 3000),
    Task("fashion-lenet-sgd-256", True, "fashion", "lenet", "sgd", 0.0, 256, 10, 3000),
    Task("fashion-resnet-sgd", True, "fashion", "resnet", "sgd", 1e-3, 128, 6, 4000),
    Task("fashion-resnet-sgd-32", True, "fashion", "resnet", "sgd", 1e-4, 32, 3, 3000),
    Task("fashion-mlp_bn-adamw", True, "fashion", "mlp_bn", "adamw", 0.01, 128, 10, 4000),
    Task("fashion-resnet-adamw", True, "fashion", "resnet", "adamw", 0.05, 64, 5, 3000),
    Task("fashion-lenet-adamw", True, "fashion", "lenet", "adamw", 0.01, 32, 3, 3000),
    Task("digits-mlp-sgd-32", True, "digits", "mlp", "sgd", 0.0, 32, 20),
    Task("fashion-mlp-adamw-256", True, "fashion", "mlp", "adamw", 0.1, 256, 15, 5000),
    Task("digits-mlp_bn-sgd-256", True, "digits", "mlp_bn", "sgd", 1e-3, 256, 60),
    Task("digits-mlp_bn-adamw-32", True, "digits", "mlp_bn", "adamw", 0.01, 32, 20),
    Task("fashion-mlp-sgd-32", True, "fashion", "mlp", "sgd", 1e-4, 32, 5, 2000),
    Task("fashion-mlp_bn-sgd-64", True, "fashion", "mlp_bn", "sgd", 5e-3, 64, 8, 2000),
    Task("fashion-lenet-sgd-32", True, "fashion", "lenet", "sgd", 1e-3, 32, 3, 2000),
    Task("fashion-mlp-adamw-64", True, "fashion", "mlp", "adamw", 0.01, 64, 6, 3000),
    Task("fashion-resnet-sgd-64", True, "fashion", "resnet", "sgd", 5e-4, 64, 5, 2000),
    Task("fashion-resnet-adamw-32", True, "fashion", "resnet", "adamw", 0.01, 32, 3, 2000),
    Task("digits-mlp-sgd-128", True, "digits", "mlp", "sgd", 5e-4, 128, 30),
    Task("digits-mlp_bn-adamw", True, "digits", "mlp_bn", "adamw", 0.05, 64, 15),
    Task("fashion-mlp-sgd-256", True, "fashion", "mlp", "sgd", 1e-3, 256, 15, 4000),
    Task("fashion-mlp_bn-adamw-64", True, "fashion", "mlp_bn", "adamw", 0.05, 64, 6, 3000),
    Task("fashion-lenet-adamw-128", True, "fashion", "lenet", "adamw", 0.1, 128, 8, 4000),
    Task("fashion-lenet-sgd-128", True, "fashion", "lenet", "sgd", 1e-4, 128, 6, 3000),
    Task("fashion-resnet-sgd-256", True, "fashion", "resnet", "sgd", 5e-4, 256, 10, 4000),
    Task("digits-mlp-adamw-128", False, "digits", "mlp", "adamw", 0.01, 128, 40),
    Task("digits-mlp_bn-sgd-32", False, "digits", "mlp_bn", "sgd", 5e-4, 32, 15),
    Task("fashion-mlp-sgd-64", False, "fashion", "mlp", "sgd", 5e-4, 64, 6, 3000),
    Task("fashion-mlp_bn-sgd-128", False, "fashion", "mlp_bn", "sgd", 1e-4, 128, 10, 4000),
    Task("fashion-mlp_bn-adamw-256", False, "fashion", "mlp_bn", "adamw", 0.1, 256, 12, 5000),
    Task("fashion-lenet-adamw-64", False, "fashion", "lenet", "adamw", 0.05, 64, 5, 3000),
    Task("fashion-resnet-sgd-128", False, "fashion", "resnet", "sgd", 1e-4, 128, 8, 3000),
)

NETS = {
    "mlp": partial(MLP, num_classes=10, batch_norm=False),
    "mlp_bn": partial(MLP, num_classes=10),
    "lenet": partial(LeNet, num_classes=10),
    "resnet": partial(ResNet, num_classes=10, blocks=(1, 1, 1), width=16, stem_stride=2),
}


# ---- trainings ----------------------------------------------------------------------------------


def build(task: Task, seed: int, lr: float) -> tuple[Classifier, InMemoryDataModule]:
    """Return the module and the data of one run of ``task``."""
    sizes = {"batch_size": task.batch_size, "train_size": task.train_size}
    data: InMemoryDataModule
    if task.data == "digits":
        data = Digits(num_val=600, seed=seed, **sizes)
    else:
        data = FashionMNIST(num_val=2000, seed=seed, **sizes)
    optimizer: Any
    if task.optimizer == "sgd":
        optimizer = partial(SGD, momentum=0.9, nesterov=True)
    else:
        optimizer = partial(AdamW, betas=(0.9, 0.99))
    optimizer = partial(optimizer, lr=lr, weight_decay=task.weight_decay)
    torch.manual_seed(seed)
    return Classifier(NETS[task.net](data.shape), optimizer, num_classes=10), data


def make_trainer(task: Task, *callbacks: Callback, folder: str | None = None) -> Trainer:
    """Return a trainer for ``task`` that validates at the end only and writes nothing.

    Args:
        task: What is to be trained.
        *callbacks: Besides the one that sees to batch-norm statistics.
        folder: Where somebody else's finder may write.
    """
    return quiet_trainer(
        *callbacks,
        BatchNormRecalibration(),
        max_epochs=task.epochs,
        check_val_every_n_epoch=task.epochs,
        default_root_dir=folder,
    )


def train(task: Task, seed: int, lr: float) -> dict[str, Any]:
    """Train 1cycle at the peak ``lr``; return the validation accuracy, chance if it diverged."""
    module, data = build(task, seed, lr)
    end = EndAtNaN()
    trainer = make_trainer(task, OneCycle(), end)
    began = time.perf_counter()
    trainer.fit(module, datamodule=data)
    accuracy = CHANCE if end.diverged else float(trainer.callback_metrics["val/acc"])
    seconds = round(time.perf_counter() - began, 2)
    return {"acc": round(accuracy, 6), "diverged": end.diverged, "seconds": seconds}


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


# ---- suggestions --------------------------------------------------------------------------------


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


METHODS = ("max_lr", "steepest", "valley", "slide", "minimum")
"""Of `LRCurve`."""


# ---- regret -------------------------------------------------------------------------------------

Truth = Mapping[tuple[str, int], Mapping[float, float]]
"""By task and seed: the accuracy at each peak."""


def accuracy_at(accuracies: Mapping[float, float], lr: float) -> float:
    """Interpolate linearly over log10 of the peak.

    Args:
        accuracies: The accuracy at each peak of a grid.
        lr: A peak. Below the grid the accuracy is that of its lowest peak, above it chance.

    Example:
        >>> accuracy_at({0.01: 0.8, 1.0: 0.6}, 0.1)
        0.7
    """
    ladder = {math.log10(peak): accuracy for peak, accuracy in accuracies.items()}
    return round(interpolated(ladder, math.log10(lr), beyond=CHANCE), 12)


def interpolated(values: Mapping[float, float], exponent: float, beyond: float) -> float:
    """Interpolate linearly; below the ladder its lowest counts, above it ``beyond``.

    Example:
        >>> interpolated({-2.0: 0.4, -1.0: 0.6}, -1.5, 1.0), interpolated({-2.0: 0.4}, -1.0, 1.0)
        (0.5, 1.0)
    """
    ladder = sorted(values)
    if exponent > ladder[-1]:
        return beyond
    right = bisect.bisect_left(ladder, exponent)
    if right == 0:
        return values[ladder[0]]
    low, high = ladder[right - 1], ladder[right]
    part = (exponent - low) / (high - low)
    return values[low] + part * (values[high] - values[low])


def best_peak(truth: Truth, task: str) -> tuple[float, float]:
    """Return the peak with the highest accuracy, the mean over seeds, and that accuracy."""
    seeds = [accuracies for (name, _), accuracies in truth.items() if name == task]
    peaks = sorted(set.intersection(*(set(accuracies) for accuracies in seeds)))
    return max(
        ((lr, fmean(accuracies[lr] for accuracies in seeds)) for lr in peaks), key=lambda p: p[1]
    )


def regrets(
    truth: Truth, suggestions: Iterable[tuple[str, str, int, float | None]]
) -> list[dict[str, Any]]:
    """Return one row for each suggestion, with its regret in points of accuracy.

    Args:
        truth: The accuracies.
        suggestions: Method, task, seed and learning rate; None: the method gave none.
    """
    rows = []
    for method, task, seed, lr in suggestions:
        best_lr, best = best_peak(truth, task)
        row = {"method": method, "task": task, "seed": seed, "lr": lr, "best_lr": best_lr}
        row["regret"] = (
            None if lr is None else round(100 * (best - accuracy_at(truth[task, seed], lr)), 3)
        )
        rows.append(row)
    return rows


def summary(rows: Iterable[Mapping[str, Any]], tuned: Mapping[str, bool]) -> list[dict[str, Any]]:
    """Return for each method, first on tuned tasks and then on those apart, its regrets.

    ``n`` is the number of suggestions and ``none`` how often there was none; ``worst_task`` the
    worst mean of a task, and ``worst`` the worst single run.

    Args:
        rows: As `regrets` returns them.
        tuned: Of each task, whether it is tuned.
    """
    groups: dict[tuple[bool, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[not tuned[row["task"]], row["method"]].append(row)
    lines = []
    for (apart, method), members in sorted(groups.items(), key=lambda item: item[0][0]):
        by_task = defaultdict(list)
        for row in members:
            if row["regret"] is not None:
                by_task[row["task"]].append(row["regret"])
        values = list(itertools.chain.from_iterable(by_task.values()))
        line = {"tasks": "apart" if apart else "tuned", "method": method, "n": len(values)}
        line |= {"none": len(members) - len(values), "mean": fmean(values) if values else None}
        line["worst_task"] = max(map(fmean, by_task.values()), default=None)
        line["worst"] = max(values, default=None)
        lines.append(line)
    return lines


def read_truth() -> dict[tuple[str, int], dict[float, float]]:
    """Return the accuracies of the tasks that have been trained over the whole of their grids."""
    truth: dict[tuple[str, int], dict[float, float]] = defaultdict(dict)
    for row in read_lines(RESULTS / "regret_truth.jsonl"):
        truth[row["task"], row["seed"]][row["lr"]] = row["acc"]
    whole = {}
    for task in TASKS:
        grids = {(task.name, s): truth[task.name, s] for s in SEEDS if (task.name, s) in truth}
        if len(grids) == len(SEEDS) and _is_whole(task, list(grids.values())):
            whole.update(grids)
    return whole


def _is_whole(task: Task, grids: list[dict[float, float]]) -> bool:
    if len({max(grid) for grid in grids}) > 1:
        return False
    top = max(grids[0])
    learnt = max(accuracy for grid in grids for accuracy in grid.values()) > FAILED
    fails = learnt and max(grid[top] for grid in grids) <= FAILED
    return fails or top == round(GRIDS[task.optimizer][-1], 8)


def read_suggestions() -> Iterator[tuple[str, str, int, float | None]]:
    """Yield method, task, seed and learning rate: `METHODS` on our curves, peers, `NO_FINDER`."""
    for row in read_lines(RESULTS / "regret_curves.jsonl"):
        curve = LRCurve(lrs=row["lrs"], losses=row["losses"])
        for method in METHODS:
            peak = curve.suggestion(method)
            yield f"{method} ({row['range']})", row["task"], row["seed"], peak
    for row in read_lines(RESULTS / "regret_searches.jsonl"):
        yield "search, cost 1", row["task"], row["seed"], row["lr"]
    for row in read_lines(RESULTS / "regret_peers.jsonl"):
        for method, lr in row["suggestions"].items():
            yield method, row["task"], row["seed"], lr
    for (method, peaks), task, seed in itertools.product(NO_FINDER.items(), TASKS, SEEDS):
        yield method, task.name, seed, peaks[task.optimizer]


def tasks_table(truth: Truth) -> list[dict[str, Any]]:
    """Return for each task its best peak, and the peaks within a point of accuracy of it."""
    lines = []
    for task in (task for task in TASKS if (task.name, SEEDS[0]) in truth):
        lr, best = best_peak(truth, task.name)
        means = {
            p: fmean(truth[task.name, s].get(p, CHANCE) for s in SEEDS)
            for p in truth[task.name, SEEDS[0]]
        }
        near = [peak for peak, mean in means.items() if mean > best - 0.01]
        line = {"task": task.name, "": "tuned" if task.tuned else "apart", "best peak": f"{lr:.3g}"}
        line["accuracy (%)"] = 100 * best
        line["within a point"] = f"{min(near):.3g} to {max(near):.3g}"
        lines.append(line)
    return lines


def rows() -> list[dict[str, Any]]:
    """Return the regret of every suggestion that is on disk, as `regrets` does."""
    truth = read_truth()
    suggestions = [item for item in read_suggestions() if (item[1], item[2]) in truth]
    # What the luck of a seed amounts to: the peak that is best in the mean, for each seed.
    suggestions += [(BEST, task, seed, best_peak(truth, task)[0]) for task, seed in truth]
    return regrets(truth, suggestions)


def run_table() -> None:
    """Print the tables, and write them to ``regret.md``."""
    lines = summary(rows(), {task.name: task.tuned for task in TASKS})
    text = f"{markdown(tasks_table(read_truth()))}\n\n{markdown(lines)}\n"
    print(text)
    (RESULTS / "regret.md").write_text(text)


# ---- command line -------------------------------------------------------------------------------


def main() -> None:
    """Run one of the steps."""
    steps: dict[str, Callable[[], None]]
    steps = {
        "train": run_truth,
        "find": run_find,
        "search": run_searches,
        "peers": run_peers,
        "table": run_table,
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=list(steps))
    parser.add_argument(
        "--peers-python", default=sys.executable, help="the Python that has the peers installed"
    )
    arguments = parser.parse_args()
    if arguments.step == "peers" and arguments.peers_python != sys.executable:
        run_module(__spec__.name, "peers", python=arguments.peers_python, check=True)
        return
    quiet()
    steps[arguments.step]()


if __name__ == "__main__":
    main()
