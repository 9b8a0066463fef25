"""What a measurement costs: a training with it and the same without it, side by side.

    python -m experiments.benchmarks.measure_cost

The trainings take turns, after one round that is not counted, and the medians of the processor's
seconds are printed, which a busy machine disturbs less than those on the clock. From how many more
seconds so many measurements take follows what one costs, in training steps, and what share of a
training that is at the interval that the callback has by default.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from lightning.pytorch import Callback

from experiments.benchmarks.regret.tasks import TASKS, build
from experiments.benchmarks.results import keep
from experiments.benchmarks.trainers import quiet_trainer
from experiments.rows import markdown, quiet
from lightning_onecycle import GradientNoiseScale, OneCycle, Sharpness
from lightning_onecycle.measure._measurement import Measurement

STEPS = 200
NAMES = ("digits-mlp_bn-sgd", "fashion-resnet-sgd")
MEASUREMENTS: dict[str, Callable[..., Measurement]] = {
    "noise scale": GradientNoiseScale,
    "sharpness": Sharpness,
    "sharpness, no eigenvalue": partial(Sharpness, eigenvalue=False),
}
# So often that a short training has a few; the default is for longer ones.
INTERVALS = {"noise scale": 20, "sharpness": 100, "sharpness, no eigenvalue": 100}


class Counts(Callback):
    """How many measurements there were."""

    def __init__(self, measurement: Measurement) -> None:
        self.count = 0
        take = measurement._take

        def counted(*arguments: Any) -> None:
            self.count += 1
            take(*arguments)

        measurement._take = counted  # type: ignore[method-assign]


def seconds(task_name: str, seed: int, measurement: Measurement | None) -> tuple[float, int]:
    """Train for `STEPS`; return the processor's seconds and the number of measurements."""
    task = next(task for task in TASKS if task.name == task_name)
    module, data = build(task, seed, lr=0.05)
    data.setup("fit")
    callbacks: list[Callback] = [OneCycle()]
    counts = None
    if measurement is not None:
        counts = Counts(measurement)
        callbacks.append(measurement)
    trainer = quiet_trainer(*callbacks, max_epochs=-1, max_steps=STEPS, limit_val_batches=0)
    began = time.process_time()
    trainer.fit(module, datamodule=data)
    return time.process_time() - began, 0 if counts is None else counts.count


def measure(task_name: str, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each measurement.

    Args:
        task_name: One of the tasks of ``regret``.
        rounds: Rounds that are counted.
    """
    bare: list[float] = []
    spent: dict[str, list[float]] = {name: [] for name in MEASUREMENTS}
    counts: dict[str, int] = {}
    for turn in range(rounds + 1):
        took = {"": seconds(task_name, turn, None)}
        for name, make in MEASUREMENTS.items():
            took[name] = seconds(task_name, turn, make(every_n_steps=INTERVALS[name]))
        if turn > 0:
            bare.append(took[""][0])
            for name in MEASUREMENTS:
                spent[name].append(took[name][0])
                counts[name] = took[name][1]
    return [
        row_of(task_name, name, median(bare), median(spent[name]), counts[name])
        for name in MEASUREMENTS
    ]


def row_of(task: str, name: str, bare: float, spent: float, count: int) -> dict[str, Any]:
    """Return a row of the table.

    Args:
        task: Its name.
        name: The measurement's.
        bare: Seconds of `STEPS` without it.
        spent: Seconds with it.
        count: How many measurements there were.
    """
    steps = (spent - bare) / count / (bare / STEPS)
    default = MEASUREMENTS[name]().every_n_steps
    return {
        "task": task,
        "measurement": name,
        "times": count,
        f"{STEPS} steps without (s)": bare,
        "with (s)": spent,
        "with / without": spent / bare,
        "one costs (steps)": steps,
        "by default every": default,
        "which adds (%)": 100 * steps / default,
    }


def main() -> None:
    """Measure, and print the table; it is written to ``results/measure_cost.md`` too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    quiet()
    rows = [row for name in NAMES for row in measure(name, arguments.rounds)]
    text = (
        f"{STEPS} steps with measurements and without, median of {arguments.rounds} on one thread,"
        f" seconds of the processor:\n\n{markdown(rows)}\n"
    )
    keep("measure_cost", rows, text)


if __name__ == "__main__":
    main()
