"""1cycle beside other schedules, each with its own tuned peak, at three budgets.

    python -m experiments.benchmarks.which_schedule measure    # about an hour of one core
    python -m experiments.benchmarks.which_schedule table

``measure`` adds a JSON line for each training to results/which_schedule.jsonl and leaves out what
is there already. ``--part 0/2`` takes every second task. ``table`` writes which_schedule.md and
which_schedule.png. It needs the packages schedulefree and prodigyopt.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from experiments.benchmarks.results import RESULTS
from experiments.benchmarks.which_schedule.entries import ENTRIES, TRAININGS, Entry
from experiments.benchmarks.which_schedule.tasks import BUDGETS, TASKS, Task
from experiments.benchmarks.which_schedule.trainings import FRESH, train, tuned
from experiments.rows import add_line, quiet, read_lines

ROWS = RESULTS / "which_schedule.jsonl"
KEYS = ("task", "training", "budget", "exponent", "seed")


class Measured:
    """The trainings that are on disk, and those that are still to be done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = {tuple(row[key] for key in KEYS): row for row in read_lines(path)}

    def value(self, task: Task, entry: Entry, budget: int, exponent: int, seed: int) -> float:
        """Return what the weights of a row have after a training, which is done if need be."""
        key = (task.name, entry.training, budget, exponent, seed)
        if key not in self.rows:
            results = train(task, TRAININGS[entry.training], budget, 2.0**exponent, seed)
            rounded = {name: float(f"{x:.6g}") for name, x in results.items()}
            self.rows[key] = dict(zip(KEYS, key, strict=True)) | rounded
            add_line(self.path, self.rows[key])
        return float(self.rows[key][entry.weights])


def measure(first: int, every: int, only: str | None) -> None:
    """Tune each row of the table on each task, and train it with fresh seeds."""
    measured = Measured(ROWS)
    began = time.monotonic()
    for task in TASKS[first::every]:
        if only not in (None, task.name):
            continue
        for entry in ENTRIES:

            def value(
                budget: int, k: int, seed: int, task: Task = task, entry: Entry = entry
            ) -> float:
                return measured.value(task, entry, budget, k, seed)

            peaks = dict.fromkeys(BUDGETS, 0)
            if entry.is_tuned:
                peaks = tuned(value, task.optimizer, entry.shift)
            finals = {
                budget: [value(budget, peaks[budget], seed + entry.shift) for seed in FRESH]
                for budget in BUDGETS
            }
            told = {b: f"2^{peaks[b]}: {sum(x) / len(x):.4g}" for b, x in finals.items()}
            print(f"{time.monotonic() - began:5.0f} s", task.name, entry.name, told, flush=True)


def main() -> None:
    """Measure, or draw up the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("measure", "table"))
    parser.add_argument("--part", default="0/1", help="K/N: every N-th task, from the K-th on")
    parser.add_argument("--task", help="one task alone")
    arguments = parser.parse_args()
    quiet()
    if arguments.step == "measure":
        first, every = map(int, arguments.part.split("/"))
        measure(first, every, arguments.task)
    else:
        from experiments.benchmarks.which_schedule.table import write

        write(Measured(ROWS).rows)


if __name__ == "__main__":
    main()
