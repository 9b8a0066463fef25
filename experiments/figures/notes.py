"""What was measured beside the figures: momentum, batch norm, LeNet.

    python -m experiments.figures.runs momentum batch_norm
    python -m experiments.figures.runs lenet lenet_step lenet_inv
    python -m experiments.figures.runs lenet_peaks lenet_short lenet_long lenet_warm
    python -m experiments.figures.notes

Prints the tables of what is there, and writes ``results/notes.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from experiments.figures.criteria import steps_to_accuracy
from experiments.figures.runs import RESULTS, configuration
from experiments.rows import Row, markdown, quiet, read

LENET = {
    "1cycle": ("lenet_peaks", "lenet"),
    "step": ("lenet_short", "lenet_long", "lenet_step"),
    "step, warmed up": ("lenet_warm",),
    "inv": ("lenet_inv",),
}
"""LeNet's regimes, and the experiments that train each."""

Seeds = dict[int, Row]
"""By seed: the last row of a run."""
Lengths = dict[int, dict[float, Seeds]]
"""By epochs and learning rate: the seeds of a regime."""


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


def lenet_runs() -> dict[str, Lengths]:
    """Return what has been trained of each of LeNet's regimes."""
    regimes: dict[str, Lengths] = {name: {} for name in LENET}
    for name, experiments in LENET.items():
        for experiment in experiments:
            cfg = configuration(f"experiment={experiment}")
            rows = read(RESULTS / f"{experiment}.csv")
            for (epochs, rate), seeds in finals(rows, "trainer.max_epochs", "optimizer.lr").items():
                rates = regimes[name].setdefault(int(epochs or cfg.trainer.max_epochs), {})
                rates.setdefault(float(rate or cfg.optimizer.lr), {}).update(seeds)
    return regimes


def tuned(lengths: Lengths) -> dict[int, tuple[float, Seeds]]:
    """Return, for each number of epochs, the learning rate that validates best, and its seeds.

    Learning rates count once all three seeds have been trained.
    """
    found = {}
    for epochs in sorted(lengths):
        rates = {rate: seeds for rate, seeds in lengths[epochs].items() if len(seeds) == 3}
        if rates:
            rate = max(rates, key=lambda rate: mean_of(rates[rate], "val/acc"))
            found[epochs] = rate, rates[rate]
    return found


def lenet_table(regimes: Mapping[str, Lengths]) -> list[dict[str, Any]]:
    """Return how each regime ended after so many epochs, at its best learning rate."""
    return [
        {
            "regime": name,
            "epochs": epochs,
            "steps": next(iter(seeds.values()))["steps"],
            "learning rate": str(rate),
            "of": ", ".join(str(r) for r, s in sorted(lengths[epochs].items()) if len(s) == 3),
            "n": len(seeds),
            "test accuracy (%)": spread(seeds, "test/acc"),
        }
        for name, lengths in regimes.items()
        for epochs, (rate, seeds) in tuned(lengths).items()
    ]


def lenet_factors(regimes: Mapping[str, Lengths]) -> list[dict[str, Any]]:
    """Return how many times 1cycle's steps each other regime needs for 1cycle's accuracy.

    Steps are interpolated over their logarithm between the lengths that were trained.
    """
    lines: list[dict[str, Any]] = []
    if not (trained := tuned(regimes["1cycle"])):
        return lines
    ((_, target),) = trained.values()
    for name, lengths in regimes.items():
        budgets = [seeds for _, seeds in tuned(lengths).values()]
        if name == "1cycle" or len(budgets) < 2:
            continue

        def factor(metric: Callable[[Seeds], float], budgets: list[Seeds] = budgets) -> str:
            steps = [next(iter(seeds.values()))["steps"] for seeds in budgets]
            own = next(iter(target.values()))["steps"]
            needed = steps_to_accuracy(steps, [metric(b) for b in budgets], metric(target))
            return f"> {steps[-1] / own:.1f}" if needed is None else f"{needed / own:.1f}"

        line = {"regime": name, "of the means": factor(lambda seeds: mean_of(seeds, "test/acc"))}
        line["each seed"] = ", ".join(
            factor(lambda seeds, seed=seed: seeds[seed]["test/acc"]) for seed in sorted(target)
        )
        lines.append(line)
    return lines


def main() -> None:
    """Print and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    quiet()
    lenet = lenet_runs()
    tables = [
        momentum_table(read(RESULTS / "momentum.csv")),
        batch_norm_table(read(RESULTS / "batch_norm.csv")),
        lenet_table(lenet),
        lenet_factors(lenet),
    ]
    text = "\n\n".join(markdown(table) for table in tables if table) + "\n"
    print(text)
    (RESULTS / "notes.md").write_text(text)


if __name__ == "__main__":
    main()
