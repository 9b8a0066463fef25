"""Measure what `table` reads, one JSON line each, and leave out what is there already.

    python -m experiments.benchmarks.kinds.measure [truth|half|quarter|curves|search|others ...]

``truth``: 1cycle over a ladder of peaks. ``half``, ``quarter``: the same over fewer steps,
which is what a search sees. ``curves``: range tests. ``search``: searches at three costs.
``others``: learning-rate-free optimizers. --part 0/2 takes every second task.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from experiments.benchmarks.kinds.tasks import OPTIMIZERS, TASKS, Problem, Task
from experiments.rows import quiet
from lightning_onecycle import OneCycle, Tuner

RESULTS = Path(__file__).parents[1] / "results" / "kinds"
SEEDS = (0, 1, 2)
FRACTIONS = {"full": 1, "half": 2, "quarter": 4}
POINTS = (100, 300)
COSTS = (1.0, 0.5, 2.0)
# The largest rate of a range test; the smallest is its default.
HIGHEST = {"sgd": 10.0, "adagrad": 10.0, "muon": 10.0}
# Exponents of ten: of the lowest peak of a ladder, by optimizer, and of the highest.
LOWEST = {"sgd": -3.0, "adagrad": -3.0, "muon": -3.5}
LOWEST_PEAK, HIGHEST_PEAK = -4.0, 1.0


class Regime(LightningModule):
    """A problem of `tasks` and its optimizer."""

    def __init__(self, task: Task, problem: Problem, lr: float, make: Any = None) -> None:
        super().__init__()
        self.task, self.net, self.lr, self.make = task, problem.net, lr, make
        self.slow = problem.slow
        self.loss, self.accuracy = problem.loss, problem.accuracy

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        return self.loss(self.net, batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the loss, and the accuracy where there is one."""
        # What is random in a loss is the same each time.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(batch_idx)
            self.log("val_loss", self.loss(self.net, batch), batch_size=len(batch[0]))
            if self.accuracy is not None:
                self.log("val_acc", self.accuracy(self.net, batch), batch_size=len(batch[0]))

    def configure_optimizers(self) -> Any:
        """Make the optimizer of the task, or another one."""
        if self.make is not None:
            return self.make(self)
        slow = [p for name in self.slow for p in self.net.get_submodule(name).parameters()]
        others = [p for p in self.net.parameters() if all(p is not s for s in slow)]
        groups = [{"params": others, "lr": self.lr}]
        if slow:
            groups.append({"params": slow, "lr": self.lr / 10})
        make = OPTIMIZERS[self.task.optimizer]
        return make(groups, lr=self.lr, weight_decay=self.task.weight_decay)


class EndAtNaN(Callback):
    """End a training whose loss is not finite."""

    diverged = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Stop."""
        if not math.isfinite(float(outputs["loss"])):
            self.diverged = trainer.should_stop = True


def loaders(problem: Problem, task: Task, seed: int) -> tuple[Any, Any]:
    """Return batches to train on, in an order that the seed decides, and to validate on."""
    train, val = TensorDataset(*problem.train), TensorDataset(*problem.val)
    order = RandomSampler(train, generator=torch.Generator().manual_seed(seed))
    batches = BatchSampler(order, task.batch_size, drop_last=True)
    val_batches = BatchSampler(SequentialSampler(val), task.batch_size, drop_last=False)
    return (
        DataLoader(train, sampler=batches, batch_size=None),
        DataLoader(val, sampler=val_batches, batch_size=None),
    )


def trainer_for(steps: int, *callbacks: Callback) -> Trainer:
    """Return a trainer that takes so many steps, and validates once at their end."""
    return Trainer(
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        callbacks=list(callbacks),
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def build(task: Task, seed: int, lr: float, make: Any = None) -> tuple[Regime, Any, Any, float]:
    """Return the module, its two loaders and the loss of a trivial predictor."""
    task.make()  # so that what is kept of it draws no numbers the second time
    torch.manual_seed(seed)
    problem = task.make()
    return Regime(task, problem, lr, make), *loaders(problem, task, seed), problem.trivial


def train(
    task: Task, seed: int, steps: int, lr: float, make: Any = None, callback: Any = None
) -> dict[str, Any]:
    """Train, and return the validation loss; that of a trivial predictor where it diverges."""
    module, train_loader, val_loader, trivial = build(task, seed, lr, make)
    end = EndAtNaN()
    trainer = trainer_for(steps, callback or OneCycle(), end)
    trainer.fit(module, train_loader)
    row: dict[str, Any] = {"diverged": end.diverged, "trivial": round(trivial, 6)}
    if end.diverged:
        return {**row, "loss": None}
    module.eval()
    with torch.no_grad():
        losses, accuracies, sizes = [], [], []
        for i, batch in enumerate(val_loader):
            torch.manual_seed(i)
            sizes.append(len(batch[0]))
            losses.append(float(module.loss(module.net, batch)))
            if module.accuracy is not None:
                accuracies.append(float(module.accuracy(module.net, batch)))
    loss = fmean(losses, sizes)
    row["loss"] = round(loss, 6) if math.isfinite(loss) else None
    if accuracies:
        row["accuracy"] = round(fmean(accuracies, sizes), 5)
    row["losses"] = [float(f"{x:.5g}") for x in losses]
    return row


def ladder(task: Task, length: str) -> None:
    """Train over half decades, then over quarters around the best."""
    path = RESULTS / f"{length}.jsonl"
    done = {(r["task"], r["exponent"], r["seed"]): r for r in read(path)}
    steps = task.steps // FRACTIONS[length]

    def run(exponent: float) -> float:
        losses = []
        for seed in SEEDS:
            row = done.get((task.name, exponent, seed))
            if row is None:
                row = {"task": task.name, "exponent": exponent, "seed": seed}
                row |= train(task, seed, steps, 10.0**exponent)
                add(path, row)
                done[task.name, exponent, seed] = row
            losses.append(
                row["trivial"] if row["loss"] is None else min(row["loss"], row["trivial"])
            )
        return fmean(losses)

    means: dict[float, float] = {}
    exponent = LOWEST.get(task.optimizer, LOWEST_PEAK)
    trivial = None
    while exponent <= HIGHEST_PEAK:
        means[exponent] = run(exponent)
        trivial = done[task.name, exponent, 0]["trivial"]
        best = min(means.values())
        gained = trivial - best
        if (
            gained > 0
            and means[exponent] > trivial - 0.1 * gained
            and min(means, key=means.get) < exponent
        ):  # type: ignore[arg-type]
            break
        exponent += 0.5
    best_at = min(means, key=means.get)  # type: ignore[arg-type]
    for shift in (-0.75, -0.25, 0.25, 0.75):
        means[best_at + shift] = run(best_at + shift)
    best_at = min(means, key=means.get)  # type: ignore[arg-type]
    print(
        length,
        task.name,
        f"best 10^{best_at}: {means[best_at]:.4f} of trivial {trivial:.4f}",
        flush=True,
    )


def curves(task: Task) -> None:
    """Run range tests of several numbers of points."""
    path = RESULTS / "curves.jsonl"
    done = {(r["task"], r["points"], r["seed"]) for r in read(path)}
    for points in POINTS:
        for seed in SEEDS:
            if (task.name, points, seed) in done:
                continue
            module, train_loader, _, _ = build(task, seed, 1.0)
            curve = Tuner(trainer_for(task.steps, OneCycle())).lr_find(
                module, train_loader, max_lr=HIGHEST.get(task.optimizer, 10.0), num_training=points
            )
            row = {"task": task.name, "points": points, "seed": seed, "stopped": curve.stopped}
            row["lrs"] = [float(f"{lr:.6g}") for lr in curve.lrs]
            row["losses"] = [float(f"{loss:.6g}") for loss in curve.losses]
            add(path, row)
            print("curve", task.name, points, seed, curve.suggest(), flush=True)


def searches(task: Task) -> None:
    """Search at several costs, without and with validation data."""
    path = RESULTS / "search.jsonl"
    done = {(r["task"], r["cost"], r["seed"]) for r in read(path)}
    for cost in COSTS:
        for seed in SEEDS:
            if (task.name, cost, seed) in done:
                continue
            module, train_loader, val_loader, _ = build(task, seed, 1.0)
            trainer = trainer_for(task.steps, OneCycle())
            trainer.limit_val_batches = 1.0
            found = Tuner(trainer).search(
                module, train_loader, val_dataloaders=val_loader, cost=cost
            )
            row = {"task": task.name, "cost": cost, "seed": seed, "lr": found.suggestion()}
            row |= {"steps": found.steps, "of": task.steps, "says": str(found)}
            row["probes"] = [
                [p.lr, p.loss if math.isfinite(p.loss) else None, p.steps] for p in found.probes
            ]
            add(path, row)
            print(task.name, cost, seed, found, flush=True)


def others(task: Task) -> None:
    """Train with Prodigy at a rate of 1, under cosine and under 1cycle."""
    from prodigyopt import Prodigy

    path = RESULTS / "others.jsonl"
    done = {(r["task"], r["method"], r["seed"]) for r in read(path)}

    def prodigy(module: Regime) -> Optimizer:
        return Prodigy(module.net.parameters(), lr=1.0, weight_decay=task.weight_decay)

    def with_cosine(module: Regime) -> Any:
        optimizer = prodigy(module)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.steps)
        return [optimizer], [{"scheduler": cosine, "interval": "step"}]

    runs = {
        "Prodigy, cosine": (with_cosine, Callback()),
        "Prodigy, 1cycle": (prodigy, OneCycle(max_lr=1.0)),
    }
    for method, (make, callback) in runs.items():
        for seed in SEEDS:
            if (task.name, method, seed) not in done:
                row = {"task": task.name, "method": method, "seed": seed}
                row |= train(task, seed, task.steps, 1.0, make, callback)
                add(path, row)
                print(task.name, method, seed, row["loss"], flush=True)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of JSON lines; none if it is missing."""
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def add(path: Path, row: Mapping[str, Any]) -> None:
    """Write one more line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


STEPS = {
    "truth": lambda task: ladder(task, "full"),
    "quarter": lambda task: ladder(task, "quarter"),
    "half": lambda task: ladder(task, "half"),
    "curves": curves,
    "search": searches,
    "others": others,
}


def main() -> None:
    """Run some of the steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", default=list(STEPS), help=f"of {', '.join(STEPS)}")
    parser.add_argument("--part", default="0/1", help="K/N: every N-th task, from the K-th on")
    parser.add_argument("--task", help="one task alone")
    arguments = parser.parse_args()
    quiet()
    warnings.filterwarnings("ignore")
    first, step = map(int, arguments.part.split("/"))
    for task in TASKS[first::step]:
        if arguments.task in (None, task.name):
            for name in arguments.steps:
                STEPS[name](task)


if __name__ == "__main__":
    main()
