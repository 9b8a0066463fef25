"""Steps per second of train.py against a bare PyTorch loop: same net, batch, data, optimizer.

    python -m experiments.benchmarks.train_speed --rounds 5

Both run as processes of their own, one after the other, in each round, with validation off. The
clock runs while they train and not while they start. Prints each round and the ratio of medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from experiments.benchmarks import bare
from experiments.benchmarks.results import ROOT, keep, run_module
from experiments.rows import Row, markdown

OPTIONS = ["data=fashion_mnist", "model=resnet", "trainer=cpu", "trainer.limit_val_batches=0"]


def bare_loop(steps: int) -> float:
    """Train for ``steps`` in a loop as short as PyTorch allows; return steps per second."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", OPTIONS)
    torch.manual_seed(cfg.seed)
    data, net = instantiate(cfg.data, _convert_="all"), instantiate(cfg.model, _convert_="all")
    data.prepare_data()
    data.setup("fit")
    optimizer = instantiate(cfg.optimizer, _convert_="all")(net.parameters())
    started = time.perf_counter()
    for _ in bare.train(net, optimizer, data, steps):
        pass
    return steps / (time.perf_counter() - started)


def train_py(steps: int, directory: Path) -> float:
    """Train for ``steps`` as a user would; return the steps per second in result.json."""
    options = [*OPTIONS, f"trainer.max_steps={steps}", f"hydra.run.dir={directory}"]
    command = [sys.executable, "train.py", *options]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    result = json.loads((directory / "result.json").read_text())
    return result["steps"] / result["fit_seconds"]


def rows_of(theirs: list[float], ours: list[float]) -> list[Row]:
    """Return the medians of steps per second, and the spread of single rounds.

    Args:
        theirs: Of the bare loop, in each round.
        ours: Of train.py.
    """
    bare_loop = statistics.median(theirs)
    return [
        {
            "loop": name,
            "steps/s": statistics.median(speeds),
            "lowest": min(speeds),
            "highest": max(speeds),
            "/ bare": statistics.median(speeds) / bare_loop,
        }
        for name, speeds in (("bare", theirs), ("train.py", ours))
    ]


def main() -> None:
    """Measure both, in turn, and print the ratio; ``results/train_speed.md`` has it too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        print(bare_loop(arguments.steps))
        return
    theirs, ours = [], []
    with tempfile.TemporaryDirectory() as folder:
        for n in range(arguments.rounds):
            options = ("--bare", "--steps", str(arguments.steps))
            output = run_module(__spec__.name, *options, check=True, capture_output=True)
            theirs.append(float(output.stdout))
            ours.append(train_py(arguments.steps, Path(folder, str(n))))
            print(f"round {n}: bare {theirs[-1]:.2f} steps/s, train.py {ours[-1]:.2f} steps/s")
    rows = rows_of(theirs, ours)
    said = f"Steps per second, {arguments.steps} steps, median of {arguments.rounds}"
    keep("train_speed", rows, f"{said}:\n\n{markdown(rows)}\n")


if __name__ == "__main__":
    main()
