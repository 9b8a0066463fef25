"""Searches and Smith's recipe against Optuna over peak, weight decay and momentum.

    python -m experiments.benchmarks.recipe run      # about an hour of one core
    python -m experiments.benchmarks.recipe table    # recipe.md and recipe.png

A half of each task's validation set chooses, for all methods, and the other half tests what was
chosen. Spent steps are counted in full trainings. The final training of a recipe is counted too.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from experiments.benchmarks.kinds.problems import Problem
from experiments.benchmarks.kinds.tasks import TASKS, Task
from experiments.benchmarks.kinds.trainings import Regime, loaders, trainer_for
from experiments.benchmarks.trainers import EndAtNaN
from experiments.rows import add_line, markdown, quiet, read_lines
from lightning_onecycle import OneCycle, ScheduleCallback, Tuner, one_cycle

RESULTS = Path(__file__).parent / "results"
ROWS = RESULTS / "recipe.jsonl"
NAMES = (
    "fashion-angles-sgd", "fashion-inpainting-sgd", "fashion-autoencoder-adamw",
    "digits-margin-sgd", "diabetes-mlp-adamw", "cancer-mlp-nadam", "wine-mlp-sgd",
    "voters-mlp-adamw", "help-transformer-adamw", "code-tags-adamw", "fashion-factors-adam",
    "digits-points-adam",
)  # fmt: skip
CHOSEN_TASKS = tuple(task for task in TASKS if task.name in NAMES)
SEEDS = (10, 11, 12)
TRAININGS = (5, 10, 12, 20, 40)
COSTS = (1.0, 3.0, 6.0)
SEARCH_COSTS = (1.0, 2.0)
WEIGHT_DECAYS = (0.0, 1e-5, 1e-4, 1e-3)
MOMENTA = ((0.95, 0.85), 0.9, 0.85)
DECADES, HIGHEST = 5.0, {"sgd": 1.0, "": 0.0}
"""Optuna draws the peak from so many decades, below this exponent of ten."""


class Bench:
    """A task and a seed, with a validation set to choose by and one to test on."""

    def __init__(self, task: Task, seed: int) -> None:
        self.task, self.seed = task, seed
        task.make()  # so that what is kept of it draws no numbers the second time

    def problem(self, part: int) -> Problem:
        """Return the problem, with the one or the other half of the validation set."""
        torch.manual_seed(self.seed)
        problem = self.task.make()
        return problem._replace(val=tuple(x[part::2] for x in problem.val))

    def build(self, weight_decay: float | None = None) -> tuple[Regime, Any, Any]:
        """Return the module and the loaders to train on and to choose by."""
        task = self.task
        if weight_decay is not None:
            task = replace(task, weight_decay=weight_decay)
        problem = self.problem(0)
        return Regime(task, problem, 1e-3), *loaders(problem, task, self.seed)

    def train(
        self, callback: ScheduleCallback, weight_decay: float | None, *more: Callback
    ) -> dict[str, float | None]:
        """Train; return the loss to choose by and that of the test, None if it has diverged."""
        module, train_loader, chooses = self.build(weight_decay)
        end = EndAtNaN()
        trainer_for(self.task.steps, callback, end, *more).fit(module, train_loader)
        if end.diverged:
            return {"validation": None, "test": None}
        tests = loaders(self.problem(1), self.task, self.seed)[1]
        return {"validation": loss_of(module, chooses), "test": loss_of(module, tests)}


def loss_of(module: Regime, loader: DataLoader[Any]) -> float | None:
    """Return the mean loss, or None if it is not finite."""
    was_training = module.training
    module.eval()
    losses, sizes = [], []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for i, batch in enumerate(loader):
            torch.manual_seed(i)
            losses.append(float(module.loss(module.net, batch)))
            sizes.append(len(batch[0]))
    module.train(was_training)
    loss = fmean(losses, sizes)
    return loss if math.isfinite(loss) else None


# ---- the methods ------------------------------------------------------------------------------


def defaults(bench: Bench) -> Iterator[dict[str, Any]]:
    """A range test with the default number of steps, and the task's own weight decay."""
    module, loader, _ = bench.build()
    trainer = trainer_for(bench.task.steps, OneCycle())
    curve = Tuner(trainer).lr_find(module, loader)
    peak = curve.suggestion()
    row: dict[str, Any] = {"method": "range test", "lr": peak, "weight_decay": None}
    row["trainings"] = 1 + len(curve.lrs) / bench.task.steps
    callback = OneCycle(max_lr=peak) if peak else None
    lost = {"validation": None, "test": None}
    yield row | (bench.train(callback, None) if callback else lost)


def searches(bench: Bench) -> Iterator[dict[str, Any]]:
    """Searches of the peak alone, and a training at what each has found."""
    for cost in SEARCH_COSTS:
        yield search(bench, f"search, cost {cost:g}", cost=cost)


def recipes(bench: Bench) -> Iterator[dict[str, Any]]:
    """The recipe at several costs, and a training with what it has chosen."""
    grids = {"weight_decays": WEIGHT_DECAYS, "momenta": MOMENTA}
    for cost in COSTS:
        yield search(bench, f"recipe, cost {cost:g}", cost=cost, **grids)


def search(bench: Bench, method: str, **arguments: Any) -> dict[str, Any]:
    """Search, and train with what was found."""
    module, loader, chooses = bench.build()
    trainer = trainer_for(bench.task.steps, OneCycle())
    trainer.limit_val_batches = 1.0
    found = Tuner(trainer).search(module, loader, val_dataloaders=chooses, **arguments)
    row: dict[str, Any] = {"method": method, "lr": found.suggestion()}
    row |= {"weight_decay": found.weight_decay, "momentum": found.momentum}
    row["trainings"] = 1 + found.steps / bench.task.steps
    return row | bench.train(found.callback(), found.weight_decay)


class Prune(Callback):
    """Report the validation loss to a trial of Optuna at a quarter and at a half of the steps."""

    def __init__(self, bench: Bench, trial: Any) -> None:
        self.trial, self.loader = trial, loaders(bench.problem(0), bench.task, bench.seed)[1]
        self.at = {bench.task.steps // 4: 1, bench.task.steps // 2: 2}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the trial if it is behind."""
        import optuna

        rung = self.at.get(trainer.global_step)
        if rung is None:
            return
        loss = loss_of(pl_module, self.loader)  # type: ignore[arg-type]
        self.trial.report(math.inf if loss is None else loss, rung)
        if self.trial.should_prune():
            self.trial.set_user_attr("trainings", trainer.global_step / trainer.max_steps)
            raise optuna.TrialPruned


def studies(bench: Bench) -> Iterator[dict[str, Any]]:
    """Optuna's TPE without and with Hyperband, and random search."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    samplers = optuna.samplers
    hyperband = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=4, reduction_factor=2)
    for name, sampler, pruner in (
        ("TPE", samplers.TPESampler(seed=bench.seed), None),
        ("TPE, Hyperband", samplers.TPESampler(seed=bench.seed), hyperband),
        ("random search", samplers.RandomSampler(seed=bench.seed), None),
    ):
        study = optuna.create_study(sampler=sampler, pruner=pruner or optuna.pruners.NopPruner())
        spent, best, left = 0.0, None, list(TRAININGS)
        while left:
            trial = study.ask()
            row = try_out(bench, trial, prune=pruner is not None)
            spent += row.pop("spent")
            value = row["validation"]
            if row["pruned"]:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(trial, math.inf if value is None else value)
            if value is not None and (best is None or value < best["validation"]):
                best = row
            while left and spent >= left[0] - 1e-9:
                yield (best or row) | {"method": f"{name}, {left[0]}", "trainings": left.pop(0)}


def try_out(bench: Bench, trial: Any, prune: bool) -> dict[str, Any]:
    """Train at what a trial suggests."""
    import optuna

    top = HIGHEST.get(bench.task.optimizer, HIGHEST[""])
    row: dict[str, Any] = {
        "lr": trial.suggest_float("lr", 10 ** (top - DECADES), 10**top, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
        "momentum": [
            trial.suggest_float("momentum at the ends", 0.8, 0.99),
            trial.suggest_float("momentum at the peak", 0.8, 0.99),
        ],
    }
    ends, peak = row["momentum"]
    schedule = one_cycle().with_momentum(ends, peak)
    callback = ScheduleCallback(schedule, max_lr=row["lr"])
    more = [Prune(bench, trial)] if prune else []
    try:
        losses = bench.train(callback, row["weight_decay"], *more)
    except optuna.TrialPruned:
        spent = trial.user_attrs["trainings"]
        return row | {"validation": None, "test": None, "pruned": True, "spent": spent}
    return row | losses | {"pruned": False, "spent": 1.0}


# ---- what came of it ----------------------------------------------------------------------------


def run() -> None:
    """Run what is not on disk yet."""
    done = {(row["task"], row["seed"], row["method"]) for row in read_lines(ROWS)}
    last = {defaults: "range test", searches: "search, cost 2"}
    last |= {recipes: "recipe, cost 6", studies: "random search, 40"}
    for seed in SEEDS:
        for task in CHOSEN_TASKS:
            for method, final in last.items():
                if (task.name, seed, final) in done:
                    continue
                bench = Bench(task, seed)
                for row in method(bench):
                    trivial = round(bench.problem(1).trivial, 6)
                    row = {"task": task.name, "seed": seed, "trivial": trivial, **row}
                    if (task.name, seed, row["method"]) not in done:
                        add_line(ROWS, row)
                    print({k: row[k] for k in ("task", "seed", "method", "test")}, flush=True)


def lost(rows: list[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Return, by method and task, the test loss of each seed over that of the best method.

    In per cent of what the best method, in the mean over seeds, gains over a trivial predictor.
    """
    losses: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    trivial = {row["task"]: row["trivial"] for row in rows}
    for row in rows:
        worst = row["trivial"]
        loss = worst if row["test"] is None else min(row["test"], worst)
        losses[row["method"]][row["task"]].append(loss)
    best = {t: min(fmean(of[t]) for of in losses.values() if of[t]) for t in trivial}
    return {
        method: {
            t: [100 * (x - best[t]) / (trivial[t] - best[t]) for x in values]
            for t, values in of.items()
        }
        for method, of in losses.items()
    }


def table() -> None:
    """Write ``recipe.md`` and ``recipe.png``."""
    rows = list(read_lines(ROWS))
    by_method = lost(rows)
    spent = {m: fmean(r["trainings"] for r in rows if r["method"] == m) for m in by_method}
    lines = []
    for method, of in by_method.items():
        means = {task.name: fmean(of[task.name]) for task in CHOSEN_TASKS if task.name in of}
        spread = [stdev(values) for values in of.values() if len(values) > 1]
        line: dict[str, Any] = {"method": method, "trainings": f"{spent[method]:.1f}"}
        line |= {"tasks": len(means), "mean": fmean(means.values()), "worst": max(means.values())}
        line["seeds"] = fmean(spread) if spread else ""
        lines.append(line | means)
    text = markdown(lines, 1)
    print(text)
    (RESULTS / "recipe.md").write_text(f"{text}\n")
    draw(by_method, spent)


def draw(by_method: Mapping[str, Mapping[str, list[float]]], spent: Mapping[str, float]) -> None:
    """Draw what is lost over the trainings that were spent."""
    from experiments.figures.style import new_figure, save

    figure = new_figure(height=4.2)
    (ax,) = figure.axes
    families: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for method, of in by_method.items():
        means = [fmean(values) for values in of.values()]
        family = method.rpartition(", ")[0] or method
        families[family].append((spent[method], fmean(means), max(means)))
    for (name, points), color in zip(
        families.items(), ("#999999", "#D55E00", "#0072B2", "#56B4E9", "#009E73"), strict=False
    ):
        x, mean, worst = zip(*sorted(points), strict=True)
        ax.plot(x, mean, "o-", color=color, label=f"{name}: mean")
        ax.plot(x, worst, "o:", color=color, markersize=3, label="its worst task")
    ax.set_xscale("log")
    ax.set_xticks([1, 2, 5, 10, 20, 40], ["1", "2", "5", "10", "20", "40"])
    ax.set_xlabel("spent, in full trainings (that of the result included)")
    ax.set_ylabel("test loss lost, % of the best gain")
    ax.legend(fontsize=7, ncols=2)
    save(figure, RESULTS / "recipe.png")


def main() -> None:
    """Run, or draw up the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("run", "table"))
    quiet()
    {"run": run, "table": table}[parser.parse_args().step]()


if __name__ == "__main__":
    main()
