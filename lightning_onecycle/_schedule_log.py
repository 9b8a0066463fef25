"""What is logged of a schedule: its values at about 100 steps, and a picture."""

from __future__ import annotations

from importlib.util import find_spec

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only

from lightning_onecycle._figures import log_figure, shows_figures
from lightning_onecycle.plots import plot_schedule
from lightning_onecycle.scheduler import ScheduleLR

_POINTS_LOGGED = 100


class ScheduleLog:
    """Logs the values of the optimizers, not the planned ones."""

    def __init__(self) -> None:
        self._logged = -1

    def values(self, trainer: Trainer, schedulers: list[ScheduleLR]) -> None:
        """Log the values for the step to come, at the turning points and between them.

        Args:
            trainer: Whose loggers are used.
            schedulers: Of all optimizers. The second one's tags end in ``-1``, and so on.
        """
        first = schedulers[0]
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
        for index, scheduler in enumerate(schedulers):
            suffix = f"-{index}" if index else ""
            for tag, value in scheduler.values().items():
                name, slash, group = tag.partition("/")
                metrics[f"{name}{suffix}{slash}{group}"] = value
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)

    @rank_zero_only
    def figure(self, trainer: Trainer, scheduler: ScheduleLR) -> None:
        """Draw the plan for loggers that show pictures, where matplotlib is installed."""
        loggers = list(filter(shows_figures, trainer.loggers))
        peak = max(scheduler.max_lrs)
        if not loggers or find_spec("matplotlib") is None or peak == 0:
            return
        axes = plot_schedule(scheduler.schedule, scheduler.total_steps, max_lr=peak)
        log_figure(loggers, "schedule", axes.figure, trainer.global_step)
