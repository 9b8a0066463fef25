"""A schedule for any Lightning trainer: the callback plans and logs, `ScheduleLR` acts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal

from lightning.fabric.utilities import rank_zero_info
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.types import LRSchedulerConfig

from lightning_onecycle import budget as budgets
from lightning_onecycle._checks import choice, known, number, whole
from lightning_onecycle._lightning import Callback, both
from lightning_onecycle.phases import Schedule
from lightning_onecycle.plots import plot_schedule
from lightning_onecycle.scheduler import ScheduleLR
from lightning_onecycle.schedules import one_cycle

_POINTS_LOGGED = 200
# Stands until the loaders are known; no step is taken under it.
_PROVISIONAL_STEPS = 1000


class ScheduleCallback(Callback):
    """Train with a `Schedule`, whatever the module's ``configure_optimizers`` returns.

    The schedule is laid over the optimizer steps that the fit will really take: accumulation, its
    schedulers, limits, several devices and ``max_steps`` are counted in, and the plan is looked at
    again at each epoch's start and where the optimizer skips steps. A second ``fit`` is a new
    cycle over the steps that are left to it. A resumed run goes on at its position, under the
    present configuration.

    With a logger, ``lr``, ``momentum`` and ``weight_decay`` are logged for about 200 optimizer
    steps, the first, the turning points and the last among them, and the plan is drawn as the
    figure ``schedule`` (TensorBoard with matplotlib installed).

    Args:
        schedule: What to train with.
        total_steps: Optimizer steps in the run, for each optimizer. None: found out. Needed for
            manual optimization, and for a loader without a length if there is no ``max_steps``.
        max_lr: None: the ``lr`` that each optimizer was given is the peak. A number: the peak of
            the optimizer's largest group; the others keep their ratio to it. A sequence: one peak
            for each parameter group of the one optimizer.
        budget: ``"steps"``, or ``"time"``: the schedule ends when the trainer's ``max_time`` does,
            at whatever pace the steps are taken.

    Raises:
        ValueError: If an argument is out of range.
        MisconfigurationException: At fit start, if the module brings a scheduler of its own, or the
            length of the run cannot be known.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_onecycle import triangular
        >>> trainer = Trainer(callbacks=ScheduleCallback(triangular(cycles=3)), logger=False)
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        total_steps: int | None = None,
        max_lr: float | Sequence[float] | None = None,
        budget: Literal["steps", "time"] = "steps",
    ) -> None:
        super().__init__()
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a Schedule, got {type(schedule).__name__}")
        self.schedule = schedule
        self.total_steps = None if total_steps is None else whole("total_steps", total_steps, 1)
        max_lr = getattr(max_lr, "tolist", lambda: max_lr)()  # of an array or a tensor
        if isinstance(max_lr, Sequence) and not isinstance(max_lr, str):
            max_lr = [
                number(f"max_lr[{i}]", lr, "> 0", lambda v: v > 0) for i, lr in enumerate(max_lr)
            ]
        elif max_lr is not None:
            max_lr = number("max_lr", max_lr, "> 0", lambda v: v > 0)
        self.max_lr = max_lr
        self.budget = choice("budget", budget, ("steps", "time"))
        if self.budget == "time" and self.total_steps is not None:
            raise ValueError(f"total_steps must be None with budget='time', got {total_steps}")
        self._configs: list[LRSchedulerConfig] = []
        self._last_global_step: int | None = None
        self._logged = -1

    @property
    def schedulers(self) -> list[ScheduleLR]:
        """The scheduler of each optimizer, during a fit."""
        return [config.scheduler for config in self._configs]  # type: ignore[misc]

    # ---- installing -------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot go right, and install a `ScheduleLR` on each optimizer."""
        self.check(trainer, pl_module)
        # The checkpoint of a resumed run is restored after this hook, into these schedulers too.
        # Lightning never calls step() at this frequency, nor a module's own lr_scheduler_step.
        self._configs = [
            LRSchedulerConfig(
                ScheduleLR(
                    optimizer,
                    self.schedule,
                    self.total_steps or _PROVISIONAL_STEPS,
                    max_lr=self.max_lr,
                ),
                interval="step",
                frequency=sys.maxsize,
            )
            for optimizer in trainer.optimizers
        ]
        trainer.strategy.lr_scheduler_configs.extend(self._configs)
        self._last_global_step = None
        self._logged = -1

    def check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what is known to go wrong at fit start.

        Raises:
            MisconfigurationException: If the schedule cannot be laid over this fit.
        """
        name = type(self).__name__
        if trainer.lr_scheduler_configs:
            other = type(trainer.lr_scheduler_configs[0].scheduler).__name__
            raise MisconfigurationException(
                f"{name} found a scheduler on the optimizer already: {other}. Two of them would"
                " write the same learning rate. Let configure_optimizers return only the optimizer,"
                f" or leave {name} out."
            )
        # Lightning puts an optimizer without groups where the module has none.
        if not any(optimizer.param_groups for optimizer in trainer.optimizers):
            raise MisconfigurationException(f"{name} needs an optimizer; the module has none.")
        if not pl_module.automatic_optimization and self.total_steps is None:
            raise MisconfigurationException(
                "Under manual optimization nobody can tell how often the optimizer will step: give"
                f" {name}(total_steps=...), counted for each optimizer."
            )
        if isinstance(self.max_lr, Sequence) and len(trainer.optimizers) > 1:
            raise MisconfigurationException(
                f"max_lr must be None or a number with several optimizers, got {self.max_lr!r}:"
                " give each optimizer its own lr instead, which is its peak."
            )
        if self.budget == "time" and budgets.time_limit(trainer) is None:
            raise MisconfigurationException(
                f"{name}(budget='time') needs Trainer(max_time=...), which says when the time ends."
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the optimizers; their last values stay."""
        for scheduler in self.schedulers:
            scheduler.detach()
        self._configs = []

    # ---- planning ---------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plan the run: the loaders are final, and a checkpoint is restored."""
        self._plan(trainer, epoch_starts=False)
        if self.total_steps is not None and pl_module.automatic_optimization:
            left = budgets.steps_left(trainer, epoch_starts=False)
            end = None if left is None else self.schedulers[0].last_epoch + left
            if end is not None and end != self.total_steps:
                rank_zero_info(
                    f"total_steps={self.total_steps} is given, and this fit ends after {end} steps:"
                    f" the schedule {'is cut off' if end < self.total_steps else 'holds its end'}."
                )
        if self.budget == "steps":
            self._log_figure(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plan again: an epoch may have been cut short, or the data may have grown."""
        before = self.schedulers[0].total_steps
        self._plan(trainer, epoch_starts=True)
        now = self.schedulers[0].total_steps
        if now != before and self.budget == "steps" and trainer.current_epoch > 0:
            rank_zero_info(f"The schedule is laid over {now} optimizer steps now, not {before}.")

    def _plan(self, trainer: Trainer, *, epoch_starts: bool) -> None:
        self.check_length(trainer)
        if self.total_steps is not None:
            return
        left = budgets.steps_left(trainer, epoch_starts=epoch_starts)
        self._last_global_step = None if left is None else trainer.global_step + left
        self._adjust(trainer)

    def check_length(self, trainer: Trainer) -> None:
        """Refuse a fit of which the optimizer steps cannot be known; its loaders are set up.

        Raises:
            MisconfigurationException: If there is no end of it.
        """
        if self.total_steps is not None or self.budget == "time":
            return
        if budgets.steps_left(trainer, epoch_starts=False) is None:
            name = type(self).__name__
            raise MisconfigurationException(
                f"{name} cannot know how many optimizer steps this fit will take: its training"
                " loader has no length, or there is no end of it. Give one of"
                f" {name}(total_steps=...), Trainer(max_steps=...), or Trainer(max_time=...) with"
                f" {name}(budget='time')."
            )

    def _adjust(self, trainer: Trainer) -> None:
        """Set the total of what the optimizer has taken and what it is still to take."""
        (scheduler,) = self.schedulers  # automatic optimization has one optimizer
        totals = []
        if self._last_global_step is not None:
            # A step that GradScaler skips moves global_step, but not the schedule.
            left = self._last_global_step - trainer.global_step
            totals.append(max(scheduler.last_epoch + left, 1))
        if self.budget == "time":
            timer = budgets.time_limit(trainer)
            in_time = None if timer is None else budgets.steps_in_time(timer, scheduler.last_epoch)
            if trainer.world_size > 1:
                # Each process has a clock of its own, and all must have the same learning rate.
                in_time = trainer.strategy.broadcast(in_time)
            if in_time is not None:
                totals.append(in_time)
        if totals:
            scheduler.total_steps = min(totals)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the plan in line with the steps taken, and log the values of the step to come."""
        for config, scheduler in zip(self._configs, self.schedulers, strict=True):
            if not any(config is installed for installed in trainer.lr_scheduler_configs):
                scheduler.detach()
        if self.total_steps is None and self.schedulers[0].attached:
            self._adjust(trainer)
        self._log_values(trainer)

    # ---- logging ----------------------------------------------------------------------------

    def _log_values(self, trainer: Trainer) -> None:
        first = self.schedulers[0]
        position = first.last_epoch
        if not trainer.loggers or position == self._logged:
            return
        stride = max(first.total_steps // _POINTS_LOGGED, 1)
        if position % stride and not first.turns_at(position):
            return
        self._logged = position
        # The axis that Lightning has for what a module logs during this step.
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        metrics = {}
        for index, scheduler in enumerate(self.schedulers):
            suffix = f"-{index}" if index else ""
            for tag, value in scheduler.values().items():
                metrics[tag.replace("/", f"{suffix}/") if "/" in tag else tag + suffix] = value
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)

    @rank_zero_only
    def _log_figure(self, trainer: Trainer) -> None:
        loggers = [log for log in trainer.loggers if isinstance(log, both(TensorBoardLogger))]
        if not loggers or find_spec("matplotlib") is None:
            return
        scheduler = self.schedulers[0]
        peak = max(scheduler.max_lrs)
        axes = plot_schedule(self.schedule, scheduler.total_steps, max_lr=peak)
        for logger in loggers:
            logger.experiment.add_figure("schedule", axes.figure, trainer.global_step)


class OneCycle(ScheduleCallback):
    """Train with Smith's 1cycle policy: one callback, and nothing else to change.

    Args:
        max_lr: The peak. None: the ``lr`` that the optimizer was given. See `ScheduleCallback`.
        total_steps: Optimizer steps in the run. None: found out.
        budget: ``"steps"`` or ``"time"``.
        **one_cycle_arguments: ``pct_start``, ``pct_final``, ``div_factor``, ``final_div_factor``,
            ``anneal``, ``cycle_momentum``, ``base_momentum`` and ``max_momentum``, as `one_cycle`
            takes them.

    Raises:
        TypeError: If there is no such argument.
        ValueError: If an argument is out of range.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(max_epochs=5, callbacks=OneCycle(max_lr=0.4), logger=False)
    """

    def __init__(
        self,
        max_lr: float | Sequence[float] | None = None,
        *,
        total_steps: int | None = None,
        budget: Literal["steps", "time"] = "steps",
        **one_cycle_arguments: Any,
    ) -> None:
        known("OneCycle", one_cycle_arguments, one_cycle)
        super().__init__(
            one_cycle(**one_cycle_arguments), total_steps=total_steps, max_lr=max_lr, budget=budget
        )
