"""What a scheduler costs at each optimizer step, counting and writing included.

    python -m experiments.benchmarks.scheduler_cost

Prints a table: the processor's microseconds a step beyond those of the bare optimizer. They take
turns, and the median over repeats of the difference to the bare step of the same turn counts, so
that a busy machine is busy for all of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from experiments.benchmarks.results import keep
from experiments.rows import Row, markdown, quiet
from lightning_onecycle import ScheduleLR, one_cycle

Step = Callable[[], object]


def _optimizer(groups: int) -> SGD:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(groups)]
    for parameter in parameters:
        parameter.grad = torch.zeros(1)
    return SGD([{"params": [parameter]} for parameter in parameters], lr=0.1, momentum=0.9)


def _bare(groups: int, steps: int) -> list[Step]:
    return [_optimizer(groups).step]


def _ours(groups: int, steps: int) -> list[Step]:
    optimizer = _optimizer(groups)
    ScheduleLR(optimizer, one_cycle(), steps)
    return [optimizer.step]


def _one_cycle_lr(groups: int, steps: int) -> list[Step]:
    optimizer = _optimizer(groups)
    scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=steps + 1)
    return [optimizer.step, scheduler.step]


def _cyclic_lr(groups: int, steps: int) -> list[Step]:
    optimizer = _optimizer(groups)
    scheduler = CyclicLR(optimizer, 0.01, 0.1, step_size_up=max(steps // 2, 1))
    return [optimizer.step, scheduler.step]


BARE, OURS = "bare optimizer", "ScheduleLR"
BUILDERS = {BARE: _bare, OURS: _ours, "OneCycleLR": _one_cycle_lr, "CyclicLR": _cyclic_lr}


def _microseconds(calls: list[Step], steps: int) -> float:
    start = time.process_time()
    for _ in range(steps):
        for call in calls:
            call()
    return (time.process_time() - start) / steps * 1e6


def measure(groups: int, steps: int = 500, repeats: int = 15) -> Row:
    """Return microseconds of the bare step, and what each scheduler adds to them.

    Args:
        groups: Parameter groups of the optimizer.
        steps: Optimizer steps in a repeat.
        repeats: Repeats for each scheduler; they take turns.
    """
    turns = [
        {name: _microseconds(build(groups, steps), steps) for name, build in BUILDERS.items()}
        for _ in range(repeats)
    ]
    added = {
        name: median(times[name] - times[BARE] for times in turns)
        for name in BUILDERS
        if name != BARE
    }
    return {"groups": groups, "bare step (us)": median(times[BARE] for times in turns), **added}


def table(rows: list[Row]) -> str:
    """Return a markdown table of what `measure` returns, with ratios.

    Args:
        rows: For each number of groups.
    """
    ratios = [
        {f"ours / {name}": row[OURS] / row[name] for name in BUILDERS if name not in (BARE, OURS)}
        for row in rows
    ]
    return markdown([row | ratio for row, ratio in zip(rows, ratios, strict=True)])


def main() -> None:
    """Measure, and print the table; it is written to ``results/scheduler_cost.md`` too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 4, 32])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    quiet()
    rows = [measure(n, arguments.steps, arguments.repeats) for n in arguments.groups]
    said = f"Microseconds on top of SGD's step, median of {arguments.repeats} x {arguments.steps}"
    keep("scheduler_cost", rows, f"{said} steps:\n\n{table(rows)}\n")


if __name__ == "__main__":
    main()
