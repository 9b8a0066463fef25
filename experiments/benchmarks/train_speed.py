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
from torch.nn.functional import cross_entropy

ROOT = Path(__file__).parents[2]
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
    net.train()
    done, started = 0, time.perf_counter()
    while True:
        for batch in data.train_dataloader():
            images, labels = data.on_after_batch_transfer(batch, 0)
            optimizer.zero_grad()
            cross_entropy(net(images), labels).backward()
            optimizer.step()
            done += 1
            if done == steps:
                return steps / (time.perf_counter() - started)


def train_py(steps: int, directory: Path) -> float:
    """Train for ``steps`` as a user would; return the steps per second in result.json."""
    options = [*OPTIONS, f"trainer.max_steps={steps}", f"hydra.run.dir={directory}"]
    command = [sys.executable, "train.py", *options]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    result = json.loads((directory / "result.json").read_text())
    return result["steps"] / result["fit_seconds"]


def main() -> None:
    """Measure both, in turn, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        print(bare_loop(arguments.steps))
        return
    bare, ours = [], []
    command = [sys.executable, "-m", __spec__.name, "--bare", "--steps", str(arguments.steps)]
    with tempfile.TemporaryDirectory() as folder:
        for n in range(arguments.rounds):
            output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            bare.append(float(output.stdout))
            ours.append(train_py(arguments.steps, Path(folder, str(n))))
            print(f"round {n}: bare {bare[-1]:.2f} steps/s, train.py {ours[-1]:.2f} steps/s")
    ratio = statistics.median(ours) / statistics.median(bare)
    print(
        f"medians of {arguments.rounds}: bare {statistics.median(bare):.2f}, train.py"
        f" {statistics.median(ours):.2f} steps/s; ratio {ratio:.3f}"
    )


if __name__ == "__main__":
    main()
