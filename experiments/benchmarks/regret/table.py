"""The regret of each suggestion on disk, and the tables of it."""

from __future__ import annotations

import bisect
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean
from typing import Any

from experiments.benchmarks.regret.measure import FAILED, GRIDS
from experiments.benchmarks.regret.tasks import CHANCE, SEEDS, TASKS, Task
from experiments.benchmarks.results import RESULTS
from experiments.rows import markdown, read_lines
from lightning_onecycle import LRCurve

BEST = "best of the grid"
# Peaks of people who run no range test: one number for each optimizer, whatever the task is.
NO_FINDER = {
    f"no finder (SGD {sgd:g}, AdamW 0.003)": {"sgd": sgd, "adamw": 3e-3}
    for sgd in (0.03, 0.05, 0.1)
}
METHODS = ("max_lr", "steepest", "valley", "slide", "minimum")
"""Of `LRCurve`."""

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
