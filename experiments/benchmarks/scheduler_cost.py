"""What a scheduler costs at each optimizer step, counting and writing included.

``python -m experiments.benchmarks.scheduler_cost`` prints a table: microseconds a step beyond those
of the bare optimizer, the median over repeats that take turns, so that a busy machine is busy for
all of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

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


BARE = "bare optimizer"
BUILDERS = {BARE: _bare, "ScheduleLR": _ours, "OneCycleLR": _one_cycle_lr, "CyclicLR": _cyclic_lr}


def _microseconds(calls: list[Step], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        for call in calls:
            call()
    return (time.perf_counter() - start) / steps * 1e6


def measure(groups: int, steps: int = 500, repeats: int = 15) -> dict[str, float]:
    """Return microseconds a step for each scheduler, the optimizer's own step included.

    Args:
        groups: Parameter groups of the optimizer.
        steps: Optimizer steps in a repeat.
        repeats: Repeats for each scheduler; they take turns.
    """
    times: dict[str, list[float]] = {name: [] for name in BUILDERS}
    for _ in range(repeats):
        for name, build in BUILDERS.items():
            times[name].append(_microseconds(build(groups, steps), steps))
    return {name: median(values) for name, values in times.items()}


def table(results: dict[int, dict[str, float]]) -> str:
    """Return a markdown table of what each scheduler adds to the bare optimizer's step."""
    lines = [
        "| groups | bare step (us) | ScheduleLR | OneCycleLR | CyclicLR"
        " | less OneCycleLR (us) | over OneCycleLR |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for groups, times in results.items():
        bare = times[BARE]
        ours, theirs, cyclic = (
            times[name] - bare for name in ("ScheduleLR", "OneCycleLR", "CyclicLR")
        )
        lines.append(
            f"| {groups} | {bare:.1f} | +{ours:.1f} | +{theirs:.1f} | +{cyclic:.1f}"
            f" | {ours - theirs:+.1f} | {ours / theirs:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure at 1, 4 and 32 parameter groups, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 4, 32])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        table({n: measure(n, arguments.steps, arguments.repeats) for n in arguments.groups}),
        flush=True,
    )


if __name__ == "__main__":
    main()
