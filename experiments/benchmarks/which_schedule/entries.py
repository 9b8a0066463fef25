"""What is compared: schedules, optimizers that need none, and averages of weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch.optim import Optimizer

from experiments.benchmarks.kinds.tasks import OPTIMIZERS
from experiments.benchmarks.which_schedule.tasks import Task
from lightning_onecycle import (
    Phase,
    Schedule,
    constant,
    one_cycle,
    one_cycle_steady,
    step_decay,
    trapezoid,
    warmup_cosine,
)

WARMUP = 0.05  # of the run: that of schedule-free
EMA = 0.05  # of the run: the mean age of the weights in an exponential average
TAILS = {"swa": 0.10, "tail": 0.25}  # of the run, from its end: what an equal average is over


def averaged_end() -> Schedule:
    """Climb over a quarter, fall to a quarter of the peak, and stay: the last part is averaged."""
    return Schedule((Phase(0.25, (0.1, 1.0)), Phase(0.5, (1.0, 0.25)), Phase(0.25, (0.25, 0.25))))


class Training(NamedTuple):
    """How weights are trained.

    Attributes:
        schedule: The schedule, or None.
        optimizer: ``"schedulefree"`` or ``"prodigy"`` in place of the task's own.
        averages: The averages of weights that are kept beside: ``"ema"`` or keys of `TAILS`.
    """

    schedule: Schedule | None
    optimizer: str = ""
    averages: tuple[str, ...] = ()


TRAININGS = {
    "1cycle": Training(one_cycle(), averages=("ema", "swa")),
    "1cycle, torch": Training(one_cycle(0.3, 0.0, 25.0, 1e4, "cos")),
    "1cycle, momentum .9": Training(one_cycle(cycle_momentum=False)),
    "1cycle, momentum .85": Training(one_cycle_steady()),
    "1cycle, climb .25, momentum .9": Training(one_cycle(0.25, cycle_momentum=False)),
    "1cycle, annihilation .25": Training(one_cycle(0.375, 0.25)),
    "averaged end": Training(averaged_end(), averages=("tail",)),
    "cosine, warm-up 5 %": Training(warmup_cosine(0.05)),
    "cosine, warm-up 20 %": Training(warmup_cosine(0.20)),
    "linear to 0, warm-up 5 %": Training(trapezoid(0.05, 0.95)),
    "trapezoid": Training(trapezoid(0.1, 0.2)),
    "step decay": Training(step_decay()),
    "constant": Training(constant(), averages=("ema",)),
    "schedule-free": Training(None, "schedulefree"),
    "Prodigy": Training(warmup_cosine(0.0), "prodigy"),
}


class Entry(NamedTuple):
    """A row of the table.

    Attributes:
        name: What it is called.
        training: A key of `TRAININGS`.
        weights: ``"last"``, or an average that the training keeps.
        shift: Added to all seeds.
        is_candidate: Whether it is a change of 1cycle's numbers that might be a better default.
        is_tuned: Whether its peak is tuned; else it is 1.
    """

    name: str
    training: str
    weights: str = "last"
    shift: int = 0
    is_candidate: bool = False
    is_tuned: bool = True


REFERENCE = Entry("1cycle (default)", "1cycle")
CONTROL = Entry("1cycle again, other seeds", "1cycle", shift=10)
ENTRIES = (
    REFERENCE,
    CONTROL,
    Entry("1cycle, torch's numbers", "1cycle, torch"),
    Entry("1cycle, momentum .9", "1cycle, momentum .9", is_candidate=True),
    Entry("1cycle, momentum .85", "1cycle, momentum .85", is_candidate=True),
    Entry("1cycle, climb .25, momentum .9", "1cycle, climb .25, momentum .9", is_candidate=True),
    Entry("1cycle, annihilation .25", "1cycle, annihilation .25", is_candidate=True),
    Entry("1cycle, EMA", "1cycle", "ema", is_candidate=True),
    Entry("1cycle, SWA of the annihilation", "1cycle", "swa", is_candidate=True),
    Entry("climb .25, fall to .25, averaged", "averaged end", "tail", is_candidate=True),
    Entry("cosine, warm-up 5 %", "cosine, warm-up 5 %"),
    Entry("cosine, warm-up 20 %", "cosine, warm-up 20 %"),
    Entry("linear to 0, warm-up 5 %", "linear to 0, warm-up 5 %"),
    Entry("trapezoid, cool-down .2", "trapezoid"),
    Entry("step decay", "step decay"),
    Entry("constant", "constant"),
    Entry("constant, EMA", "constant", "ema"),
    Entry("schedule-free", "schedule-free"),
    Entry("Prodigy, cosine, untuned", "Prodigy", is_tuned=False),
)


def make_optimizer(
    task: Task, training: Training, groups: list[dict[str, Any]], steps: int
) -> Optimizer:
    """Return the task's optimizer, or the one that the training brings.

    Args:
        task: What is trained.
        training: How.
        groups: Parameters and the learning rate of each group.
        steps: Optimizer steps in the run.

    Raises:
        ModuleNotFoundError: A package that only benchmarks need is missing.
    """
    decay = {"weight_decay": task.weight_decay}
    if training.optimizer == "schedulefree":
        name = {"sgd": "SGDScheduleFree", "adamw": "AdamWScheduleFree"}[task.optimizer]
        make = _class("schedulefree", "schedulefree", name)
        return make(groups, **decay, warmup_steps=round(WARMUP * steps))
    if training.optimizer == "prodigy":  # it refuses groups of several rates
        parameters = [p for group in groups for p in group["params"]]
        return _class("prodigyopt", "prodigyopt", "Prodigy")(parameters, lr=1.0, **decay)
    return OPTIMIZERS[task.optimizer](groups, lr=groups[0]["lr"], **decay)


def _class(module: str, distribution: str, name: str) -> Callable[..., Optimizer]:
    import importlib

    try:
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        message = f"this benchmark needs {distribution}: pip install {distribution}"
        raise ModuleNotFoundError(message) from error
