"""What was measured beside the figures: momentum, batch norm, LeNet.

    python -m experiments.figures.runs momentum batch_norm
    python -m experiments.figures.runs lenet lenet_step lenet_inv
    python -m experiments.figures.runs lenet_peaks lenet_short lenet_long
    python -m experiments.figures.notes

Prints the tables of what is there, and writes ``results/notes.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from experiments.figures.runs import RESULTS
from experiments.rows import Row, markdown, quiet, read

LENET = {
    "1cycle": "lenet",
    "step": "lenet_step",
    "inv": "lenet_inv",
    "1cycle, tuned": "lenet_peaks",
    "step, tuned": "lenet_short",
    "step, tuned, longer": "lenet_long",
}
"""LeNet's regimes: an experiment each."""

Seeds = dict[int, Row]
"""By seed: the last row of a run."""


def finals(rows: Sequence[Row], *keys: str) -> dict[tuple[str, ...], Seeds]:
    """Return the last row of each run, by the values of some overrides of its job, and by seed.

    Example:
        >>> row = {"job": "a=1 optimizer.lr=0.2 seed=3", "seed": 3, "epoch": 1, "val/acc": 0.5}
        >>> list(finals([row], "optimizer.lr"))
        [('0.2',)]
    """
    found: dict[tuple[str, ...], Seeds] = {}
    for row in rows:
        options = dict(option.split("=", 1) for option in str(row["job"]).split())
        found.setdefault(tuple(options.get(key, "") for key in keys), {})[row["seed"]] = row
    return found


def mean_of(seeds: Seeds, metric: str) -> float:
    """Return the mean over seeds."""
    return fmean(row[metric] for row in seeds.values())


def spread(seeds: Seeds, metric: str) -> str:
    """Return mean and standard deviation over seeds, in per cent."""
    values = [100 * row[metric] for row in seeds.values()]
    return f"{fmean(values):.2f} ± {stdev(values):.2f}"


def momentum_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return each momentum at its best peak: the best by validation accuracy, the mean of seeds."""
    by_momentum: dict[str, dict[str, Seeds]] = {}
    for (momentum, lr), seeds in finals(rows, "momentum", "optimizer.lr").items():
        by_momentum.setdefault(momentum, {})[lr] = seeds
    lines = []
    for momentum, peaks in by_momentum.items():
        best = max(peaks, key=lambda lr: mean_of(peaks[lr], "val/acc"))
        line = {"momentum at the ends, at the peak": momentum, "best peak": best}
        line |= {"n": str(len(peaks[best])), "test accuracy (%)": spread(peaks[best], "test/acc")}
        lines.append(line)
    return lines


def batch_norm_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the accuracy with running averages and with statistics estimated anew."""
    runs = finals(rows, "trainer.max_steps", "callbacks.batch_norm")
    lines: dict[str, dict[str, Any]] = {}
    for (steps, batch_norm), seeds in runs.items():
        name = "running averages (%)" if batch_norm == "null" else "estimated anew (%)"
        line = lines.setdefault(steps, {"optimizer steps": steps, "n": len(seeds)})
        line[name] = spread(seeds, "test/acc")
    return list(lines.values())


def lenet_table(results: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """Return how each regime ended after so many epochs, at its best learning rate.

    Learning rates count once all three seeds have been trained.
    """
    lines = []
    for name, rows in results.items():
        by_epochs: dict[str, dict[str, Seeds]] = {}
        for (epochs, rate), seeds in finals(rows, "trainer.max_epochs", "optimizer.lr").items():
            if len(seeds) == 3:
                by_epochs.setdefault(epochs, {})[rate] = seeds
        for rates in by_epochs.values():
            rate = max(rates, key=lambda rate: mean_of(rates[rate], "val/acc"))
            last = next(iter(rates[rate].values()))
            line = {"regime": name, "epochs": last["epoch"], "steps": last["steps"]}
            line |= {"learning rate": rate or "the paper's", "n": len(rates[rate])}
            line["test accuracy (%)"] = spread(rates[rate], "test/acc")
            lines.append(line)
    return lines


def main() -> None:
    """Print and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    quiet()
    tables = [
        momentum_table(read(RESULTS / "momentum.csv")),
        batch_norm_table(read(RESULTS / "batch_norm.csv")),
        lenet_table({name: read(RESULTS / f"{file}.csv") for name, file in LENET.items()}),
    ]
    text = "\n\n".join(markdown(table) for table in tables if table) + "\n"
    print(text)
    (RESULTS / "notes.md").write_text(text)


if __name__ == "__main__":
    main()
