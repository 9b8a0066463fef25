"""Seconds that an LR range test of 100 points takes: ours, those of others, the steps alone.

    python -m experiments.benchmarks.finder_speed --peers-python PYTHON

All of it runs in the Python that has the finders of others; those that it lacks are marked as
missing. All train the same net on the same
batches, up to a learning rate at which none of them stops early. Beside them stand as many steps
of the training itself, in ``trainer.fit`` and in a loop that logs nothing. They take turns, after
one round that is not counted, and the medians are printed: from the call to the suggestion, on the
clock and of the processor, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from experiments.benchmarks import bare
from experiments.benchmarks.peers import PEERS, POINTS, Run
from experiments.benchmarks.regret.tasks import TASKS, build, make_trainer
from experiments.benchmarks.results import keep, run_module
from experiments.rows import markdown, quiet
from lightning_onecycle import Tuner, one_cycle

LOWEST, HIGHEST = 1e-6, 0.1
BARE = "bare steps"
DEFAULT_TASKS = ["fashion-resnet-sgd", "fashion-resnet-sgd-256"]


def bare_steps(run: Run) -> None:
    """Take the steps in a loop as short as PyTorch allows, and keep the losses."""
    module, data, _ = run
    optimizer = module.configure_optimizers()
    (group,) = optimizer.param_groups
    group |= {"lr": LOWEST, "momentum": one_cycle().peak_momentum}
    losses: list[float] = []
    for loss in bare.train(module.net, optimizer, data, POINTS):
        losses.append(loss.item())
        group["lr"] = LOWEST * (HIGHEST / LOWEST) ** (len(losses) / (POINTS - 1))


def training(run: Run) -> None:
    """Take the steps in the trainer, as the training does."""
    module, data, trainer = run
    trainer.fit_loop.epoch_loop.max_steps = POINTS
    trainer.fit_loop.max_epochs = -1
    trainer.limit_val_batches = 0
    trainer.fit(module, datamodule=data)


def ours(run: Run) -> None:
    """Run the range test of this project and read off its suggestion."""
    module, data, trainer = run
    curve = Tuner(trainer).lr_find(
        module,
        datamodule=data,
        min_lr=LOWEST,
        max_lr=HIGHEST,
        num_training=POINTS,
        schedule=one_cycle(),
    )
    curve.suggestion()


FINDERS: dict[str, Callable[[Run], Any]] = {
    BARE: bare_steps,
    "trainer.fit": training,
    "ours": ours,
    "lightning": partial(PEERS["lightning"], min_lr=LOWEST, max_lr=HIGHEST),
    "torch-lr-finder": partial(PEERS["torch-lr-finder"], start_lr=LOWEST, end_lr=HIGHEST),
    "fastai": partial(PEERS["fastai"], start_lr=LOWEST, end_lr=HIGHEST),
    "ignite": partial(PEERS["ignite"], start_lr=LOWEST, end_lr=HIGHEST),
}


def measure(task_name: str, rounds: int) -> dict[str, tuple[float, float] | None]:
    """Return the median seconds of each finder, clock and processor; None where it is missing.

    Args:
        task_name: One of `TASKS`.
        rounds: Rounds that are counted.
    """
    task = next(task for task in TASKS if task.name == task_name)
    times: dict[str, list[tuple[float, float]] | None] = {name: [] for name in FINDERS}
    for turn in range(rounds + 1):
        for name, find in FINDERS.items():
            results = times[name]
            if results is None:
                continue
            module, data = build(task, seed=turn, lr=LOWEST)
            data.setup("fit")
            with tempfile.TemporaryDirectory() as folder:
                trainer = make_trainer(task, folder=folder)
                clock, processor = time.perf_counter(), time.process_time()
                try:
                    # Some draw a progress bar, to whatever standard error is.
                    with contextlib.redirect_stderr(io.StringIO()):
                        find((module, data, trainer))
                except ImportError:
                    times[name] = None
                    continue
                took = (time.perf_counter() - clock, time.process_time() - processor)
            if turn > 0:
                results.append(took)
    return {
        name: None
        if results is None
        else (median(clock for clock, _ in results), median(cpu for _, cpu in results))
        for name, results in times.items()
    }


def rows_of(times: dict[str, tuple[float, float] | None]) -> list[dict[str, Any]]:
    """Return the rows of the table: seconds, and how many times those of the bare steps.

    Args:
        times: As `measure` returns them.
    """
    bare_times = times[BARE]
    rows = []
    for name, seconds in times.items():
        row: dict[str, Any] = {"finder": name}
        for index, clock in enumerate(("clock (s)", "processor (s)")):
            if seconds is None or bare_times is None:
                row |= {clock: "missing", f"{clock.split()[0]} / bare": "missing"}
            else:
                ratio = seconds[index] / bare_times[index]
                row |= {clock: seconds[index], f"{clock.split()[0]} / bare": ratio}
        rows.append(row)
    return rows


def main() -> None:
    """Measure, and print the tables; they are written to ``results/finder_speed.md`` too."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [task.name for task in TASKS]
    parser.add_argument("--tasks", nargs="+", metavar="TASK", default=DEFAULT_TASKS, choices=names)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers-python", help="the Python that has the peers installed")
    arguments = parser.parse_args()
    if arguments.peers_python:
        options = ("--tasks", *arguments.tasks, "--rounds", str(arguments.rounds))
        run_module(__spec__.name, *options, python=arguments.peers_python, check=True)
        return
    quiet()
    rows, parts = [], []
    for name in arguments.tasks:
        found = rows_of(measure(name, arguments.rounds))
        rows += [{"task": name, **row} for row in found]
        parts.append(f"{POINTS} points of {name}, median of {arguments.rounds}:\n")
        parts.append(f"{markdown(found)}\n")
    keep("finder_speed", rows, "\n".join(parts))


if __name__ == "__main__":
    main()
