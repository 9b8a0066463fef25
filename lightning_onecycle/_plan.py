"""The plan of a fit: how many optimizer steps its schedule covers."""

from __future__ import annotations

from lightning.fabric.utilities import rank_zero_info, rank_zero_warn
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from lightning_onecycle import budget as budgets
from lightning_onecycle.scheduler import ScheduleLR

# With fewer, a phase has one step or none.
_FEWEST_STEPS = 10


class Plan:
    """Sets the total of a scheduler: the steps that its optimizer has taken, plus those left.

    Args:
        owner: Whose schedule it is, for the messages.
        total_steps: A total that is given, and left alone.
        budget: ``"steps"`` or ``"time"``, see `ScheduleCallback`.

    Attributes:
        is_known: Whether the total of the scheduler is that of this fit.
    """

    def __init__(self, owner: str, total_steps: int | None, budget: str) -> None:
        self._owner, self._given, self._budget = owner, total_steps, budget
        self._last_global_step: int | None = None
        self.is_known = total_steps is not None
        self._told = False

    def check(self, trainer: Trainer) -> None:
        """Refuse a fit whose number of optimizer steps cannot be known.

        Raises:
            MisconfigurationException: With what to give.
        """
        if self._given is not None or self._budget == "time":
            return
        if budgets.steps_left(trainer, epoch_starts=False) is None:
            raise MisconfigurationException(
                f"{self._owner} cannot know how many optimizer steps this fit will take: its"
                " training loader has no length, or the fit has no end. Give one of"
                " Trainer(limit_train_batches=...) with a number of batches for each epoch,"
                f" {self._owner}(total_steps=...), Trainer(max_steps=...), or"
                f" Trainer(max_time=...) with {self._owner}(budget='time')."
            )

    def start(self, trainer: Trainer, scheduler: ScheduleLR) -> None:
        """Plan a fit whose loaders are set up and whose checkpoint is restored."""
        if self._given is None:
            self._look(trainer, scheduler, epoch_starts=False)
        elif trainer.lightning_module.automatic_optimization:
            left = budgets.steps_left(trainer, epoch_starts=False)
            end = None if left is None else scheduler.last_epoch + left
            if end is not None and end != self._given:
                rank_zero_info(
                    f"total_steps={self._given} is given, and this fit ends at step {end}:"
                    f" the schedule {'is cut off' if end < self._given else 'holds its end'}."
                )
        total = scheduler.total_steps
        few = total < _FEWEST_STEPS and len(scheduler.schedule.phases) > 1
        if few and self._budget == "steps" and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            rank_zero_warn(
                f"{self._owner} has {total} optimizer step{'s' * (total > 1)} for its schedule:"
                f" with fewer than {_FEWEST_STEPS} it may miss its peak or its end."
            )

    def epoch_starts(self, trainer: Trainer, scheduler: ScheduleLR) -> None:
        """Plan again: an epoch may have been cut short, or the data may have grown."""
        if self._given is None:
            before = scheduler.total_steps
            self._look(trainer, scheduler, epoch_starts=True)
            now = scheduler.total_steps
            is_new = now != before and self._budget == "steps" and trainer.current_epoch > 0
            if is_new and not self._told:  # some samplers change the length in every epoch
                self._told = True
                rank_zero_info(
                    f"The schedule has {now} optimizer steps, not {before}: an epoch has another"
                    " length than planned."
                )

    def _look(self, trainer: Trainer, scheduler: ScheduleLR, *, epoch_starts: bool) -> None:
        self.check(trainer)
        left = budgets.steps_left(trainer, epoch_starts=epoch_starts)
        self._last_global_step = None if left is None else trainer.global_step + left
        self.adjust(trainer, scheduler)

    def adjust(self, trainer: Trainer, scheduler: ScheduleLR) -> None:
        """Keep the total in line with the steps that are really taken, and with the time."""
        if self._given is not None or not scheduler.attached:
            return
        totals = []
        if self._last_global_step is not None:
            # A step that GradScaler skips moves global_step, but not the schedule.
            left = self._last_global_step - trainer.global_step
            totals.append(max(scheduler.last_epoch + left, 1))
        if self._budget == "time":
            timer = budgets.time_limit(trainer)
            in_time = None if timer is None else budgets.steps_in_time(timer, scheduler.last_epoch)
            if trainer.world_size > 1:
                # Each process has its own clock, and all must have the same learning rate.
                in_time = trainer.strategy.broadcast(in_time)
            if in_time is not None:
                totals.append(in_time)
        if totals:
            scheduler.total_steps = min(totals)
            self.is_known = True
