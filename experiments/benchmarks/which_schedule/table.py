"""What came of it: differences from default 1cycle by task and budget, their means, a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median, stdev
from typing import Any, NamedTuple

from experiments.benchmarks.results import RESULTS
from experiments.benchmarks.which_schedule.entries import CONTROL, ENTRIES, REFERENCE, Entry
from experiments.benchmarks.which_schedule.tasks import BUDGETS, TASKS, Task
from experiments.benchmarks.which_schedule.trainings import FRESH, tuned
from experiments.rows import markdown

LIMIT = 2.776
"""Standard errors of five differences beyond which 5 % lie by chance: Student's t, 4 degrees."""

Key = tuple[str, str, int, int, int]
Rows = Mapping[tuple[Any, ...], Mapping[str, Any]]


class Cell(NamedTuple):
    """A row of the table on one task at one budget.

    Attributes:
        task: The task's name.
        entry: The row's name.
        budget: One of `BUDGETS`.
        peak: The tuned one.
        values: Of each fresh seed, errors in per cent or a loss.
        better: By how much each is lower than that of default 1cycle with the same seed.
        gain: What default 1cycle gains over a trivial predictor.
    """

    task: str
    entry: str
    budget: int
    peak: float
    values: Sequence[float]
    better: Sequence[float]
    gain: float

    @property
    def mean(self) -> float:
        """The mean difference, in per cent of the gain."""
        return 100.0 * fmean(self.better) / self.gain

    @property
    def error(self) -> float:
        """Its standard error, in per cent of the gain."""
        return 100.0 * stdev(self.better) / math.sqrt(len(self.better)) / self.gain

    @property
    def sign(self) -> int:
        """1 or -1 where the difference is beyond its noise, else 0."""
        if abs(self.mean) <= LIMIT * self.error:
            return 0
        return 1 if self.mean > 0 else -1


def finals(rows: Rows, task: Task, entry: Entry) -> dict[int, tuple[int, list[float]]]:
    """Return the tuned exponent and the fresh values at each budget.

    Raises:
        KeyError: A training is missing.
    """

    def value(budget: int, k: int, seed: int) -> float:
        return float(rows[task.name, entry.training, budget, k, seed][entry.weights])

    peaks = dict.fromkeys(BUDGETS, 0)
    if entry.is_tuned:
        peaks = tuned(value, task.optimizer, entry.shift)
    return {b: (k, [value(b, k, seed + entry.shift) for seed in FRESH]) for b, k in peaks.items()}


def cells(rows: Rows, trivial: Mapping[str, float]) -> list[Cell]:
    """Return what is complete.

    Args:
        rows: The trainings.
        trivial: What a trivial predictor has, by task; other tasks are left out.
    """
    found = []
    for task in TASKS:
        if task.name not in trivial:
            continue
        try:
            reference = finals(rows, task, REFERENCE)
        except KeyError:
            continue
        for entry in ENTRIES:
            try:
                of = finals(rows, task, entry)
            except KeyError:
                continue
            for budget, (k, values) in of.items():
                base = reference[budget][1]
                better = [b - x for b, x in zip(base, values, strict=True)]
                gain = trivial[task.name] - fmean(base)
                found.append(Cell(task.name, entry.name, budget, 2.0**k, values, better, gain))
    return found


def over_tasks(of: Iterable[Cell]) -> tuple[float, float]:
    """Return the mean of all cells and its standard error, from the noise of the seeds alone."""
    of = list(of)
    error = math.sqrt(sum(cell.error**2 for cell in of)) / len(of)
    return fmean(cell.mean for cell in of), error


def noise_limit(of: Iterable[Cell]) -> float:
    """Return what a mean over tasks has to exceed: twice what chance makes of 1cycle's own.

    `CONTROL` is 1cycle, tuned and trained again with other seeds. So this has the noise of tuning
    too. It is not paired, so it is rather too large than too small.
    """
    own = [cell.mean for cell in of if cell.entry == CONTROL.name]
    return 2.0 * math.sqrt(fmean(x * x for x in own) / len(own)) if own else math.inf


def plus_minus(mean: float, error: float, digits: int = 1) -> str:
    """Return a difference with its sign, and its error."""
    return f"{mean:+.{digits}f} ± {error:.{digits}f}"


def summary(of: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return a row for each schedule: its mean difference at each budget, and at all."""
    groups = {f"budget {b}": [cell for cell in of if cell.budget == b] for b in BUDGETS}
    groups["all"] = list(of)
    limits = {name: noise_limit(some) for name, some in groups.items()}
    lines = []
    for entry in ENTRIES:
        mine = [cell for cell in of if cell.entry == entry.name]
        if not mine or entry == REFERENCE:
            continue
        line: dict[str, Any] = {"against default 1cycle": entry.name}
        line["tasks"] = len({cell.task for cell in mine})
        for name, some in groups.items():
            mean, error = over_tasks(cell for cell in some if cell.entry == entry.name)
            text = plus_minus(mean, error)
            line[name] = f"**{text}**" if abs(mean) > limits[name] else text
        line["median"] = median(cell.mean for cell in mine)
        line["better"] = sum(cell.sign > 0 for cell in mine)
        line["worse"] = sum(cell.sign < 0 for cell in mine)
        line["worst"] = min(cell.mean for cell in mine)
        lines.append(line)
    last = dict.fromkeys(lines[0], "") | {"against default 1cycle": "noise limit"}
    return [*lines, last | {name: f"{limit:.1f}" for name, limit in limits.items()}]


def details(of: Sequence[Cell], task: Task) -> list[dict[str, Any]]:
    """Return a row for each schedule on one task, in the task's own unit."""
    lines = []
    for entry in ENTRIES:
        mine = {
            cell.budget: cell for cell in of if (cell.entry, cell.task) == (entry.name, task.name)
        }
        if not mine:
            continue
        line: dict[str, Any] = {"schedule": entry.name}
        for budget, cell in mine.items():
            digits = 2 if task.in_errors else 4
            values = f"{fmean(cell.values):.{digits}f} ± {stdev(cell.values):.{digits}f}"
            error = stdev(cell.better) / math.sqrt(len(cell.better))
            against = plus_minus(fmean(cell.better), error, digits)
            if entry == REFERENCE:
                against = ""
            elif cell.sign:
                against = f"**{against}**"
            line |= {f"peak {budget}": f"{cell.peak:.2g}", f"budget {budget}": values}
            line[f"better by {budget}"] = against
        lines.append(line)
    return lines


def chosen(of: Sequence[Cell]) -> list[dict[str, Any]]:
    """Choose the best candidate on one half of the tasks, and judge it on the other half."""
    candidates = [entry.name for entry in ENTRIES if entry.is_candidate]
    half = {task.name: task.half for task in TASKS}
    lines = []
    for choosing in (0, 1):

        def mean(name: str, part: int) -> tuple[float, float]:
            return over_tasks(c for c in of if c.entry == name and half[c.task] == part)

        best = max(candidates, key=lambda name: mean(name, choosing)[0])
        judged = [c for c in of if c.entry == best and half[c.task] != choosing]
        lines.append(
            {
                "chosen on": ", ".join(t.name for t in TASKS if t.half == choosing),
                "candidate": best,
                "there": plus_minus(*mean(best, choosing)),
                "on the others": plus_minus(*mean(best, 1 - choosing)),
                "noise limit": noise_limit(c for c in of if half[c.task] != choosing),
                "better": sum(cell.sign > 0 for cell in judged),
                "worse": sum(cell.sign < 0 for cell in judged),
            }
        )
    return lines


def write(rows: Rows) -> None:
    """Write ``which_schedule.md`` and ``which_schedule.png``."""
    from experiments.benchmarks.which_schedule.picture import draw

    trivial = {task.name: task.trivial(task.make()) for task in TASKS}
    of = cells(rows, trivial)
    names = {cell.task for cell in of}
    tasks = [task for task in TASKS if task.name in names]
    count = len({(cell.task, cell.entry) for cell in of})
    parts = [
        f"{len(rows)} trainings; {count} of {len(TASKS) * len(ENTRIES)} rows of tasks.",
        "Better (+) or worse (-) than default 1cycle, in per cent of what that gains over a trivial"
        " predictor: mean over tasks ± the standard error of the five fresh seeds. Bold: beyond the"
        " noise limit, twice what chance makes of 1cycle, tuned and trained again. better, worse:"
        f" tasks and budgets, of {len(BUDGETS)} times the tasks, where five paired differences are"
        f" beyond {LIMIT} standard errors. median and worst: of the same.",
        markdown(summary(of), 1),
        "The best candidate on half of the tasks, and what it is worth on the others:",
    ]
    if all(any(task.half == half for task in tasks) for half in (0, 1)):
        parts.append(markdown(chosen(of), 1))
    for task in tasks:
        unit = "errors in %" if task.in_errors else "loss"
        steps = ", ".join(str(budget * task.steps) for budget in BUDGETS)
        parts.append(f"## {task.name}")
        of_trivial = f"{trivial[task.name]:.4g} of a trivial predictor"
        parts.append(f"{unit}; {steps} steps; {of_trivial}; n = {len(FRESH)}")
        parts.append(markdown(details(of, task)))
    text = "\n\n".join(parts)
    print(text)
    (RESULTS / "which_schedule.md").write_text(f"{text}\n")
    draw(of)
