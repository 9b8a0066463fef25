"""The range test, a fit in which the learning rate rises and the loss is recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning.fabric.utilities import rank_zero_info
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from lightning_onecycle._writer import writer_of
from lightning_onecycle.phases import Schedule
from lightning_onecycle.range_test.conditions import Conditions
from lightning_onecycle.range_test.curve import LRCurve
from lightning_onecycle.range_test.live_conditions import conditions_of
from lightning_onecycle.range_test.losses import mean_over_ranks, validation_losses
from lightning_onecycle.range_test.short_fit import ShortFit
from lightning_onecycle.range_test.stopping import Divergence
from lightning_onecycle.schedules import lr_range

_VALIDATIONS = 20


class RangeTest(ShortFit):
    """Raise the learning rate step by step, and record the loss of each step.

    Its schedule has one exponential or linear phase. After the fit it also holds ``val_lrs``,
    ``val_losses``, ``conditions``, and as ``schedule`` that of the training, if it has one.

    Args:
        min_lr: The largest group's learning rate at the first step.
        max_lr: The same at the last.
        num_training: Optimizer steps.
        mode: ``"exponential"`` or ``"linear"``.
        early_stop_threshold: See `Divergence`.
        schedule: Whose momentum at the peak is to be used. None: that of the trainer.
        val_batches: Batches of each validation. 0: none.
        most_steps: Optimizer steps with those that a gradient scaler skips. None: any number.
        bar: See `ShortFit`.
    """

    def __init__(
        self,
        *,
        min_lr: float,
        max_lr: float,
        num_training: int,
        mode: str,
        early_stop_threshold: float | None,
        schedule: Schedule | None,
        val_batches: int = 0,
        most_steps: int | None = None,
        bar: Any = None,
    ) -> None:
        super().__init__(num_training, bar)
        self.mode = mode
        self.span = (min_lr, max_lr)
        self.schedule = schedule
        self.val_batches = val_batches
        self.most_steps = most_steps
        self.val_lrs: list[float] = []
        self.val_losses: list[float] = []
        self.conditions: Conditions | None = None
        self._validate_at = {
            math.ceil(i * num_training / _VALIDATIONS) for i in range(1, _VALIDATIONS + 1)
        }
        self._diverged = Divergence(early_stop_threshold, num_training)
        self._told_epochs = False

    def prepare(self, trainer: Trainer) -> None:
        """Give the trainer loops that end with the test, and validation as the test wants it.

        Without validation the loaders are there all the same, for code that looks at them.
        """
        super().prepare(trainer)
        if self.val_batches:
            trainer.limit_val_batches = self.val_batches

    def curve(self) -> LRCurve:
        """Return what was measured."""
        return LRCurve(
            lrs=tuple(self.lrs),
            losses=tuple(self.losses),
            conditions=self.conditions,
            stopped=self.stopped,
            mode=self.mode,  # type: ignore[arg-type]
            val_lrs=tuple(self.val_lrs),
            val_losses=tuple(self.val_losses),
            diverged=self.diverged,
        )

    # ---- installing -------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be tested or trained, and take over the optimizer."""
        if self.val_batches and not trainer.enable_validation:
            raise MisconfigurationException(
                f"val_batches={self.val_batches} needs a validation loader and a validation_step."
            )
        super().on_fit_start(trainer, pl_module)

    def lay(self, trainer: Trainer, optimizer: Optimizer) -> tuple[Schedule, Any]:
        """Return a schedule with one phase; the largest group's peak is 1.

        So it has exactly the learning rates of the test at the ends.
        """
        anneal: Any = "linear" if self.mode == "linear" else "exp"
        low, high = self.span
        momentum = self._momentum_at_the_peak(trainer, optimizer)
        return lr_range(low, high, anneal, momentum=momentum), self.peaks(1.0)

    def _momentum_at_the_peak(self, trainer: Trainer, optimizer: Optimizer) -> float | None:
        if self.schedule is None:
            writer = writer_of(optimizer)
            if self.schedule_callbacks:
                self.schedule = self.schedule_callbacks[0].schedule
            elif writer is not None:
                self.schedule = writer.schedule
        if self.schedule is not None:
            return self.schedule.peak_momentum
        # What OneCycleLR and CyclicLR of torch have at their peak.
        return (
            optimizer.param_groups[0].get("base_momentum") if trainer.lr_scheduler_configs else None
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write down the conditions: loaders are set up, and nothing is trained yet."""
        with self.callbacks_of_the_training(trainer):
            for callback in self.schedule_callbacks:
                callback.check_length(trainer)
        self.conditions = conditions_of(trainer, pl_module, self.schedule)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell, once, that the test sees epochs which the training will not."""
        last = trainer.max_epochs
        if last is not None and 0 <= last <= trainer.current_epoch and not self._told_epochs:
            self._told_epochs = True
            if self.bar is not None:
                self.bar.clear()  # the message gets a line of its own
            rank_zero_info(
                f"The LR range test takes more epochs than the training, which has {last}. That"
                " matters only to code that reads current_epoch."
            )

    # ---- recording --------------------------------------------------------------------------

    def recorded(self, trainer: Trainer, taken: int, loss: float) -> None:
        """End the test where the loss diverges, and have it validate at about 20 steps."""
        self.validation_due = bool(self.val_batches) and taken in self._validate_at
        if self._diverged(loss):
            self.diverge(trainer, "diverged", self.lrs[-1])

    def end(self, taken: int) -> str:
        """Return why there are to be no more steps, or nothing."""
        if taken >= self.num_training:
            return "range completed"
        if self.most_steps is not None and self.attempted >= self.most_steps:
            return f"{self.attempted - taken} of {self.attempted} steps were skipped"
        return ""

    def validated(self, trainer: Trainer, logged: list[Mapping[str, Any]]) -> None:
        """Record the validation loss."""
        if self.failed:
            return
        returned, self.val_window = self.val_window, []
        self.validation_due = False
        loss = mean_over_ranks(trainer, validation_losses(returned, logged))
        if loss is None:
            raise MisconfigurationException(
                f"val_batches={self.val_batches} needs a loss: let validation_step return it, or"
                " log it under a name with 'loss' in it."
            )
        self.val_lrs.append(self.lrs[-1])
        self.val_losses.append(loss)
