"""One training, and the search for its best peak."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from experiments.benchmarks.kinds.problems import Problem
from experiments.benchmarks.kinds.trainings import param_groups
from experiments.benchmarks.which_schedule.entries import EMA, TAILS, Training, make_optimizer
from experiments.benchmarks.which_schedule.tasks import Task
from lightning_onecycle import ScheduleLR

TUNING = {1: (0, 1, 2), 4: (0, 1), 16: (0, 1)}
"""The seeds that choose a peak, by budget. They are measured on one half of the validation data."""
FRESH = (100, 101, 102, 103, 104)
"""The seeds of the final numbers, measured on the other half. All seeds of at least 100 are."""
# Exponents of 2: the ladder that is tried at the shortest budget, factors of 4 apart.
LADDERS = {"sgd": (-8, -6, -4, -2, 0), "adamw": (-13, -11, -9, -7, -5)}
MOST_EXTENSIONS = 5


def batches(tensors: Sequence[Tensor], size: int, seed: int) -> Iterator[list[Tensor]]:
    """Yield batches for ever, each epoch in another order; leave out those that are not full."""
    generator = torch.Generator().manual_seed(seed)
    n = len(tensors[0])
    while True:
        order = torch.randperm(n, generator=generator)
        for start in range(0, n - size + 1, size):
            chosen = order[start : start + size]
            yield [x[chosen] for x in tensors]


class Averages:
    """Averages of a net's weights, beside its training."""

    def __init__(self, net: nn.Module, names: Sequence[str], steps: int) -> None:
        self.net = net
        # The first step of each that counts. The first weights that an average sees are copied.
        self.begins = {name: steps - round(TAILS.get(name, 1.0) * steps) for name in names}
        age = max(EMA * steps, 1.0)
        ema = get_ema_multi_avg_fn(1.0 - 1.0 / age)
        self.models = {
            name: AveragedModel(net, multi_avg_fn=ema if name == "ema" else None) for name in names
        }

    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 0."""
        for name, model in self.models.items():
            if step >= self.begins[name]:
                model.update_parameters(self.net)


def train(task: Task, training: Training, budget: int, lr: float, seed: int) -> dict[str, float]:
    """Train; return what the last weights and each average have on their half of the data.

    A trivial predictor's if that is lower, or if a loss is not finite.
    """
    task.make()  # so that what is kept of it draws no numbers the second time
    torch.manual_seed(seed)
    problem = task.make()
    net, steps = problem.net, budget * task.steps
    trivial = task.trivial(problem)
    with contextlib.redirect_stdout(io.StringIO()):  # Prodigy prints
        groups = param_groups(net, problem.slow, lr)
        optimizer: Any = make_optimizer(task, training, groups, steps)
    if training.schedule is not None:
        ScheduleLR(optimizer, training.schedule, total_steps=steps)
    averages = Averages(net, training.averages, steps)
    has_modes = hasattr(optimizer, "eval")  # schedule-free: the weights of evaluation are averages
    if has_modes:
        optimizer.train()
    source = batches(problem.train, task.batch_size, seed)
    for step, batch in zip(range(steps), source, strict=False):
        loss = problem.loss(net, batch)
        if not math.isfinite(loss.item()):
            return dict.fromkeys(("last", *training.averages), trivial)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averages.update(step)
    if has_modes:
        optimizer.eval()
        recalibrate(net, problem, task)
    results = {"last": measure(task, problem, net, seed)}
    for name, model in averages.models.items():
        recalibrate(model.module, problem, task)
        results[name] = measure(task, problem, model.module, seed)
    return {name: min(x, trivial) if math.isfinite(x) else trivial for name, x in results.items()}


def recalibrate(net: nn.Module, problem: Problem, task: Task) -> None:
    """Estimate the statistics of batch norm anew, where weights are averages."""
    epoch = len(problem.train[0]) // task.batch_size
    source = batches(problem.train, task.batch_size, seed=0)
    update_bn((batch for _, batch in zip(range(epoch), source, strict=False)), net)


def half(tensors: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Return the half of the examples that the seed is for."""
    # At random: there are data whose order is by classes.
    order = torch.randperm(len(tensors[0]), generator=torch.Generator().manual_seed(0))
    return [x[order[int(seed >= FRESH[0]) :: 2]] for x in tensors]


@torch.no_grad()
def measure(task: Task, problem: Problem, net: nn.Module, seed: int) -> float:
    """Return errors in per cent, or the loss, on the half of the data that the seed is for."""
    net.eval()
    data = half(problem.val, seed)
    if task.in_errors:
        assert problem.accuracy is not None
        return 100.0 * (1.0 - float(problem.accuracy(net, data)))
    return float(problem.loss(net, data))


def best_exponent(value_at: Callable[[int], float], ladder: Sequence[int]) -> int:
    """Return the exponent that is best together with its two neighbours, weighted 1, 2, 1.

    So a peak is not chosen that is at the edge of divergence, and less by chance. A ladder whose
    end has the lowest value is extended; then, if its rungs are more than 1 apart, both neighbours
    of the lowest are tried. Of equal ones the lowest exponent counts.
    """
    width = ladder[1] - ladder[0]
    values = {k: value_at(k) for k in ladder}

    def lowest() -> int:
        return min(sorted(values), key=values.__getitem__)

    for _ in range(MOST_EXTENSIONS):
        if min(values) < lowest() < max(values):
            break
        further = lowest() + (width if lowest() == max(values) else -width)
        values[further] = value_at(further)
    if width > 1:
        values |= {k: value_at(k) for k in (lowest() - 1, lowest() + 1)}
    smooth = {
        k: values[k - 1] + 2 * value + values[k + 1]
        for k, value in values.items()
        if {k - 1, k + 1} <= set(values)
    }
    return min(sorted(smooth), key=smooth.__getitem__)


def tuned(value_at: Callable[[int, int, int], float], optimizer: str, shift: int) -> dict[int, int]:
    """Return the best exponent at each budget; each budget begins around that of the one before.

    Args:
        value_at: Of a budget, an exponent and a seed.
        optimizer: The task's.
        shift: Added to all seeds.
    """
    found: dict[int, int] = {}
    ladder: Sequence[int] = LADDERS[optimizer]
    for budget, seeds in TUNING.items():

        def mean(k: int, budget: int = budget, seeds: Sequence[int] = seeds) -> float:
            return fmean(value_at(budget, k, seed + shift) for seed in seeds)

        found[budget] = best = best_exponent(mean, ladder)
        ladder = (best - 1, best, best + 1)
    return found
