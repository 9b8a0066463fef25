"""Run the benchmarks one after the other, and write one table of what came out.

    python -m experiments.benchmarks --peers-python PYTHON

PYTHON has fastai, torch-lr-finder and pytorch-ignite installed, besides Lightning, torchmetrics and
scikit-learn; without it, what needs them is left out or marked as missing. Each benchmark is a
process of its own; one that fails is told, and the rest goes on. Times are those of an idle machine
with two cores. The table is written to experiments/benchmarks/results/comparison.md.

With --all come those that take hours. They leave out the trainings whose results are in the
repository: to have everything trained again, delete results/regret*.jsonl here and
results/headline.csv in experiments/figures first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Sequence
from typing import NamedTuple

from experiments.benchmarks.comparison import write
from experiments.benchmarks.results import run_module


class Benchmark(NamedTuple):
    """What is run for one or several questions.

    Attributes:
        name: What it is called.
        minutes: About how long it takes.
        steps: The arguments of each of its runs.
        peers: The runs that are given the Python of the peers.
        package: Where its module is.
    """

    name: str
    minutes: float
    steps: Sequence[tuple[str, ...]] = ((),)
    peers: Sequence[tuple[str, ...]] = ()
    package: str = "experiments.benchmarks"


QUICK = (
    Benchmark("scheduler_cost", 0.5),
    Benchmark("import_time", 1),
    Benchmark("trainer_speed", 3),
    Benchmark("train_speed", 2),
    Benchmark("finder_speed", 4, peers=((),)),
    Benchmark("finder_traces", 0.5),
    Benchmark("traps", 2, peers=((),)),
)
LONG = (
    Benchmark("measure_cost", 2),
    Benchmark("sweep_cost", 2),
    Benchmark(
        "regret", 120, steps=(("train",), ("find",), ("peers",), ("table",)), peers=(("peers",),)
    ),
    Benchmark("headline", 600, steps=(("run",), ("table",)), package="experiments.figures"),
)

BUSY = 0.7
"""A load average above which others must be at work."""


def run(benchmark: Benchmark, peers_python: str | None) -> bool:
    """Run a benchmark, and return whether all of its runs succeeded.

    Args:
        benchmark: One of `QUICK` or `LONG`.
        peers_python: The Python that has the peers installed.
    """
    for step in benchmark.steps:
        options = (
            ["--peers-python", peers_python] if peers_python and step in benchmark.peers else []
        )
        done = run_module(f"{benchmark.package}.{benchmark.name}", *step, *options)
        if done.returncode:
            print(f"{benchmark.name} failed: exit code {done.returncode}", flush=True)
            return False
    return True


def main() -> int:
    """Run what is asked for; return 1 if something failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = {benchmark.name: benchmark for benchmark in (*QUICK, *LONG)}
    parser.add_argument("--peers-python", help="a Python that has the peers installed")
    parser.add_argument("--all", action="store_true", help="the long ones, too")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=every, help=", ".join(every))
    arguments = parser.parse_args()
    if arguments.peers_python and shutil.which(arguments.peers_python) is None:
        parser.error(f"--peers-python must be a Python, got {arguments.peers_python}")
    chosen = list(every.values()) if arguments.all else list(QUICK)
    if arguments.only:
        chosen = [every[name] for name in arguments.only]
    minutes = sum(benchmark.minutes for benchmark in chosen)
    print(f"{len(chosen)} benchmarks, about {minutes:.0f} minutes", flush=True)
    if (load := os.getloadavg()[0]) > BUSY:
        print(f"the machine is busy (load {load:.1f}): take no times from this run", flush=True)
    failed = []
    for number, benchmark in enumerate(chosen, 1):
        about = f"about {benchmark.minutes:g} minutes"
        print(f"\n[{number}/{len(chosen)}] {benchmark.name}, {about}\n", flush=True)
        began = time.perf_counter()
        try:
            done = run(benchmark, arguments.peers_python)
        except KeyboardInterrupt:
            print(write(failed))
            return 130
        if not done:
            failed.append(benchmark.name)
        print(f"took {(time.perf_counter() - began) / 60:.1f} minutes", flush=True)
    print(write(failed))
    if failed:
        print(f"failed: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
