"""What a method loses on the tasks of `tasks`: tables from what `measure` has measured.

    python -m experiments.benchmarks.kinds.table

The loss of a suggestion is the validation loss of the seed at it, interpolated over log10 of the
peak, less the best of the ladder in the mean over seeds, in per cent of what that best gains over a
predictor that does not look at its input. No answer, divergence and anything worse than that
predictor lose 100 %.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean, stdev
from typing import Any

from experiments.benchmarks.kinds.measure import COSTS, POINTS, RESULTS, SEEDS
from experiments.benchmarks.kinds.tasks import TASKS, Task
from experiments.benchmarks.regret.table import interpolated
from experiments.rows import markdown, read_lines
from lightning_onecycle import LRCurve

Losses = Mapping[float, float]
"""The validation loss at each exponent of ten of the peak."""

# What people take who do not search.
RATES = {
    "no finder: Adam 3e-3, SGD 0.03": {"sgd": 0.03, "adagrad": 0.03, "muon": 0.02, "": 3e-3},
    "no finder: Adam 1e-3, SGD 0.1": {"sgd": 0.1, "adagrad": 0.1, "muon": 0.02, "": 1e-3},
}
TRAININGS = (4, 8, 12, 16)
DECADES = 5.0
"""Random search and TPE draw from so many, down from the highest peak of the ladder."""


class Truth:
    """The losses of all trainings of a ladder.

    Args:
        rows: What `measure` writes.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.trivial: dict[str, float] = {}
        self.losses: dict[tuple[str, int], dict[float, float]] = defaultdict(dict)
        for row in rows:
            worst = self.trivial[row["task"]] = row["trivial"]
            loss = worst if row["loss"] is None else min(row["loss"], worst)
            self.losses[row["task"], row["seed"]][row["exponent"]] = loss

    def best(self, task: str) -> tuple[float, float]:
        """Return the exponent whose loss is lowest in the mean over seeds, and that loss."""
        of_seeds = [self.losses[task, seed] for seed in SEEDS]
        common = set.intersection(*map(set, of_seeds))
        means = {x: fmean(losses[x] for losses in of_seeds) for x in common}
        return min(means.items(), key=lambda item: (item[1], item[0]))

    def loss(self, task: str, seed: int, lr: float) -> float:
        """Return the loss of a seed at a peak."""
        return interpolated(self.losses[task, seed], math.log10(lr), self.trivial[task])

    def lost(self, task: str, loss: float | None) -> float:
        """Return what a loss lacks of the best gain, in per cent; 100 where there is none."""
        best, trivial = self.best(task)[1], self.trivial[task]
        return 100.0 if loss is None else 100.0 * (min(loss, trivial) - best) / (trivial - best)


def random_search(losses: Losses, beyond: float, trainings: int, draws: int = 200) -> float:
    """Return the mean of the lowest of so many losses at random peaks."""
    chance = random.Random(0)
    top = max(losses)
    return fmean(
        min(
            interpolated(losses, chance.uniform(top - DECADES, top), beyond)
            for _ in range(trainings)
        )
        for _ in range(draws)
    )


def tpe(losses: Losses, beyond: float, trainings: int, studies: int = 5) -> float:
    """Return the mean of the lowest loss that Optuna's TPE finds over the peak alone."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    top, lowest = max(losses), []
    for seed in range(studies):
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        study.optimize(
            lambda trial: interpolated(
                losses, trial.suggest_float("x", top - DECADES, top), beyond
            ),
            n_trials=trainings,
        )
        lowest.append(study.best_value)
    return fmean(lowest)


Answer = Callable[[Task, int], "float | None"]
"""The loss that a method ends with, of a task and a seed."""


def methods(
    truth: Truth,
) -> dict[str, tuple[Answer, Mapping[tuple[str, int], float | None] | None]]:
    """Return the loss of each method, and the peaks where it names any."""
    found: dict[str, dict[tuple[str, int], float | None]] = defaultdict(dict)
    for row in read_lines(RESULTS / "curves.jsonl"):
        curve = LRCurve(row["lrs"], row["losses"])
        where = row["task"], row["seed"]
        found[f"range test, {row['points']} steps"][where] = curve.suggestion()
        if row["points"] == POINTS[0]:
            for rule in ("steepest", "valley", "slide", "minimum"):
                found[f"its curve, by {rule}"][where] = curve.suggestion(rule)
    for row in read_lines(RESULTS / "search.jsonl"):
        found[f"search, cost {row['cost']:g}"][row["task"], row["seed"]] = row["lr"]
    for row in read_lines(RESULTS / "peers.jsonl"):
        found[row["method"]][row["task"], row["seed"]] = row["lr"]
    for name, rates in RATES.items():
        for task in TASKS:
            for seed in SEEDS:
                found[name][task.name, seed] = rates.get(task.optimizer, rates[""])

    def by_peak(peaks: Mapping[tuple[str, int], float | None]) -> Answer:
        def answer(task: Task, seed: int) -> float | None:
            lr = peaks[task.name, seed]
            return None if lr is None else truth.loss(task.name, seed, lr)

        return answer

    answers: dict[str, Any] = {name: (by_peak(peaks), peaks) for name, peaks in found.items()}
    trained: dict[str, dict[tuple[str, int], float | None]] = defaultdict(dict)
    for row in read_lines(RESULTS / "others.jsonl"):
        trained[row["method"]][row["task"], row["seed"]] = row["loss"]
    for name, losses in trained.items():
        answers[name] = (lambda task, seed, of=losses: of[task.name, seed]), None
    for label, search in (("random search", random_search), ("TPE over the peak", tpe)):
        for n in TRAININGS:
            answers[f"{label}, {n} trainings"] = (
                (
                    lambda task, seed, search=search, n=n: search(
                        truth.losses[task.name, seed], truth.trivial[task.name], n
                    )
                ),
                None,
            )
    return answers


def main() -> None:
    """Write ``kinds.md``: a table of methods, and one of tasks."""
    truth = Truth(read_lines(RESULTS / "full.jsonl"))
    lines, by_task = [], defaultdict(dict)
    for name, (answer, peaks) in methods(truth).items():
        line: dict[str, Any] = {"method": name}
        for label, tuned in (("tuned", True), ("apart", False)):
            tasks = [task for task in TASKS if task.tuned == tuned]
            losses = {task.name: [answer(task, seed) for seed in SEEDS] for task in tasks}
            lost = {task: [truth.lost(task, loss) for loss in of] for task, of in losses.items()}
            for task, values in lost.items():
                by_task[task][name] = fmean(values)
            means = [fmean(values) for values in lost.values()]
            line |= {f"{label}: mean": fmean(means), f"{label}: worst": max(means)}
            line[f"{label}: seeds"] = fmean(stdev(values) for values in lost.values())
            line[f"{label}: none"] = sum(loss is None for of in losses.values() for loss in of)
            if peaks is not None:
                apart = [
                    math.log10(lr) - truth.best(task.name)[0]
                    for task in tasks
                    for seed in SEEDS
                    if (lr := peaks[task.name, seed]) is not None
                ]
            line[f"{label}: decades"] = "" if peaks is None else f"{fmean(apart):+.2f}"
        lines.append(line)
    columns = [f"range test, {n} steps" for n in POINTS] + [f"search, cost {c:g}" for c in COSTS]
    tasks = [
        {
            "task": task.name,
            "": "tuned" if task.tuned else "apart",
            "steps": task.steps,
            "best peak": f"{10 ** truth.best(task.name)[0]:.2g}",
            "loss": f"{truth.best(task.name)[1]:.4f}",
            "trivial": f"{truth.trivial[task.name]:.4f}",
            **{name: by_task[task.name][name] for name in columns},
        }
        for task in TASKS
    ]
    text = f"{markdown(lines, 1)}\n\n{markdown(tasks, 1)}\n"
    print(text)
    (RESULTS.parent / "kinds.md").write_text(text)


if __name__ == "__main__":
    main()
