"""The range test as a callback: it installs itself, records, and says when to stop."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lightning.fabric.utilities import rank_zero_info
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.optim import Optimizer

from lightning_onecycle import _groups
from lightning_onecycle._lightning import Callback
from lightning_onecycle._writer import writer_of
from lightning_onecycle.callback import ScheduleCallback
from lightning_onecycle.measure._measurement import Measurement
from lightning_onecycle.phases import Schedule
from lightning_onecycle.range_test.collect import conditions_of
from lightning_onecycle.range_test.conditions import Conditions
from lightning_onecycle.range_test.curve import LRCurve
from lightning_onecycle.range_test.loops import loop_for
from lightning_onecycle.range_test.losses import logged_losses, loss_in, mean_over_ranks
from lightning_onecycle.range_test.stopping import Divergence
from lightning_onecycle.scheduler import ScheduleLR
from lightning_onecycle.schedules import lr_range

_VALIDATIONS = 20
_MOST_EPOCHS_WITHOUT_A_STEP = 100
_MOST_STEPS_WITHOUT_A_LOSS = 10


class RangeTest(Callback):
    """Raise the learning rate step by step, and record the loss of each step.

    It installs a `ScheduleLR` on the one optimizer, with one exponential or linear phase. After the
    fit it holds ``lrs``, ``losses``, ``val_lrs``, ``val_losses``, ``conditions`` and ``stopped``.

    Args:
        min_lr: The largest group's learning rate at the first step.
        max_lr: The same at the last.
        num_training: Optimizer steps.
        mode: ``"exponential"`` or ``"linear"``.
        threshold: See `Divergence`.
        schedule: Whose momentum at the peak is to be used. None: found out.
        val_batches: Batches of each validation. 0: none.
        show: Whether to draw a progress bar.
    """

    def __init__(
        self,
        *,
        min_lr: float,
        max_lr: float,
        num_training: int,
        mode: str,
        threshold: float | None,
        schedule: Schedule | None,
        val_batches: int = 0,
        show: bool = False,
    ) -> None:
        super().__init__()
        self.num_training, self.mode = num_training, mode
        self.span = (min_lr, max_lr)
        self.schedule = schedule
        self.left_out: list[Any] = []  # callbacks of the training that take no part in the test
        self.original: LightningModule | None = None  # what the tested module is a copy of
        self.val_batches, self.show = val_batches, show
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self.val_lrs: list[float] = []
        self.val_losses: list[float] = []
        self.conditions: Conditions | None = None
        self.stopped = ""
        self.exception: BaseException | None = None
        self.validation_due = False
        self._validate_at = {
            math.ceil(i * num_training / _VALIDATIONS) for i in range(1, _VALIDATIONS + 1)
        }
        self._diverged = Divergence(threshold, num_training)
        self._window: list[Tensor] = []
        self._val_window: list[Tensor] = []
        self._taken = self._attempted = self._taken_before_epoch = self._idle_epochs = 0
        self._scheduler: ScheduleLR | None = None
        self._bar: Any = None
        self._went_back = self._reached_optimizer = self._told_epochs = False

    def prepare(self, trainer: Trainer) -> None:
        """Give the trainer loops that end with the test, and validation as the test wants it."""
        trainer.fit_loop = loop_for(trainer, self)
        trainer.limit_val_batches = self.val_batches
        trainer.num_sanity_val_steps = 0

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
        )

    @property
    def scheduler(self) -> ScheduleLR:
        """What writes the learning rate."""
        assert self._scheduler is not None
        return self._scheduler

    # ---- installing -------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be tested or trained, and take over the optimizer."""
        optimizers = trainer.optimizers
        if len(optimizers) != 1 or not optimizers[0].param_groups:
            raise MisconfigurationException(
                f"An LR range test needs one optimizer, and {type(pl_module).__name__}."
                f"configure_optimizers returned {_named(optimizers)}. Test a module that has only"
                " the one whose learning rate you want to know."
            )
        if self.val_batches and not trainer.enable_validation:
            raise MisconfigurationException(
                f"val_batches={self.val_batches} needs a validation loader and a validation_step."
            )
        with self._callbacks_of_the_training(trainer):
            for callback in self.left_out:
                if isinstance(callback, (ScheduleCallback, Measurement)):
                    callback.check(trainer, pl_module)
        (optimizer,) = optimizers
        _groups.check_lrs(optimizer)
        _groups.unshare(optimizer.param_groups, "lr", optimizer.defaults.get("lr"))
        momentum = self._momentum_at_the_peak(trainer, optimizer)
        found = [config.scheduler for config in trainer.lr_scheduler_configs]
        foreign = [scheduler for scheduler in found if not isinstance(scheduler, ScheduleLR)]
        if foreign:
            # Ratios are those of the peaks, and some schedulers start low.
            _groups.undo_schedulers(optimizer, foreign)
        # A module may ask them for things; they are not to be stepped.
        trainer.strategy.lr_scheduler_configs = [
            replace(config, interval="step", frequency=sys.maxsize, reduce_on_plateau=False)
            for config in trainer.lr_scheduler_configs
        ]
        # Before the scheduler's own hook, which writes the values of the next step.
        _groups.with_hooks(optimizer).register_step_post_hook(self._check_step)
        anneal: Any = "linear" if self.mode == "linear" else "exp"
        low, high = self.span
        self._scheduler = ScheduleLR(
            optimizer,
            # The largest group's peak is 1, so that it has exactly these values at the ends.
            lr_range(low, high, anneal, momentum=momentum),
            self.num_training,
            max_lr=self._ratios(),
        )

    @property
    def _schedule_callbacks(self) -> list[ScheduleCallback]:
        return [callback for callback in self.left_out if isinstance(callback, ScheduleCallback)]

    @contextmanager
    def _callbacks_of_the_training(self, trainer: Any) -> Iterator[None]:
        """Show the trainer as the training will, where those that are left out look at it."""
        callbacks = trainer.callbacks
        trainer.callbacks = [*callbacks, *self.left_out]
        try:
            yield
        finally:
            trainer.callbacks = callbacks

    def _ratios(self) -> float | list[float]:
        """Return 1 for the largest group, or what each group's peak is to that of the largest."""
        for callback in self._schedule_callbacks:
            if isinstance(callback.max_lr, Sequence):
                return [peak / max(callback.max_lr) for peak in callback.max_lr]
        return 1.0

    def _momentum_at_the_peak(self, trainer: Trainer, optimizer: Optimizer) -> float | None:
        if self.schedule is None:
            writer = writer_of(optimizer)
            if self._schedule_callbacks:
                self.schedule = self._schedule_callbacks[0].schedule
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
        with self._callbacks_of_the_training(trainer):
            for callback in self._schedule_callbacks:
                callback.check_length(trainer)
        self.conditions = conditions_of(trainer, pl_module, self.schedule)
        self._open_bar()

    @rank_zero_only
    def _open_bar(self) -> None:
        if self.show:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self.num_training, desc="LR range test", leave=False)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the progress bar away."""
        self._close_bar()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remember what went wrong: Lightning turns a Ctrl+C into an exit."""
        self.exception = exception
        self._close_bar()

    # ---- is it the copy that is trained, and at the rates of the test? ------------------------

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See whether gradients reach what the optimizer trains."""
        self._went_back = True
        if not self._reached_optimizer:
            self._reached_optimizer = any(
                parameter.grad is not None
                for group in self.scheduler.optimizer.param_groups
                for parameter in group["params"]
            )

    def _check_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        original = () if self.original is None else self.original.parameters()
        astray = any(parameter.grad is not None for parameter in original)
        if astray or (self._went_back and not self._reached_optimizer):
            raise MisconfigurationException(
                "The LR range test trains a copy of the module, and its gradients do not reach the"
                f" copy: {type(self.original).__name__} holds a function that is bound to itself"
                " and cannot be copied, such as a compiled or captured method. Build it in"
                " configure_model or setup, or make it a method."
            )
        for group, planned in zip(optimizer.param_groups, self.scheduler.get_lr(), strict=False):
            used = float(group["lr"])
            if not math.isclose(used, planned, rel_tol=1e-5):
                raise MisconfigurationException(
                    f"An LR range test sets the learning rate, to {planned:g} at step"
                    f" {self.scheduler.last_epoch}, and other code has set it to {used:g}."
                )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell, once, that the test sees epochs which the training will not."""
        last = trainer.max_epochs
        if last is not None and 0 <= last <= trainer.current_epoch and not self._told_epochs:
            self._told_epochs = True
            rank_zero_info(
                f"The LR range test is longer than the {last} epochs of the training: what depends"
                " on current_epoch sees epochs that the training never reaches."
            )

    # ---- recording --------------------------------------------------------------------------

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Collect the loss, and where the optimizer has stepped, record its mean."""
        loss = loss_in(outputs)
        if loss is not None:
            if pl_module.automatic_optimization:  # Lightning has divided it already
                loss = loss * trainer.accumulate_grad_batches
            self._window.append(loss)
        # The gradient scaler skips steps: these are attempted, not taken.
        taken, attempted = self.scheduler.last_epoch, trainer.global_step
        if taken > self._taken or attempted > self._attempted:
            self._end_of_window(trainer, pl_module, taken - self._taken)
            self._taken, self._attempted = taken, attempted

    def _end_of_window(self, trainer: Trainer, pl_module: LightningModule, steps: int) -> None:
        if steps > 1:
            raise MisconfigurationException(
                f"An LR range test needs at most one optimizer step in a training_step, and"
                f" {type(pl_module).__name__}'s took {steps}: one loss cannot stand for them all."
            )
        loss = mean_over_ranks(trainer, self._window)
        self._window = []
        taken = self._taken + steps
        lr = self.scheduler.schedule.at(self._taken, self.num_training).lr
        finite = loss is None or math.isfinite(loss)
        if loss is not None and (steps or not finite):
            self.lrs.append(lr)
            self.losses.append(loss)
        if not self.lrs and taken >= min(_MOST_STEPS_WITHOUT_A_LOSS, self.num_training):
            raise MisconfigurationException(
                f"An LR range test needs losses, and there is none after {taken} steps: let"
                f" {type(pl_module).__name__}'s training_step return the loss."
            )
        if not finite:
            self._stop(trainer, f"loss not finite at lr {lr:.3g}")
        elif steps and loss is not None:
            if self._bar is not None:
                self._bar.set_postfix_str(f"lr {lr:.2e}, loss {loss:.3g}", refresh=False)
                self._bar.update()
            self.validation_due = bool(self.val_batches) and taken in self._validate_at
            if self._diverged(loss):
                self._stop(trainer, f"diverged at lr {lr:.3g}")
        if not self.stopped and taken >= self.num_training:
            self._stop(trainer, "range completed")

    def _stop(self, trainer: Trainer, why: str) -> None:
        self.stopped = why
        trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give up where no steps are taken, or the test would never end."""
        self._idle_epochs = 0 if self._taken > self._taken_before_epoch else self._idle_epochs + 1
        self._taken_before_epoch = self._taken
        stepped = self._taken or self._attempted
        if not stepped or self._idle_epochs > _MOST_EPOCHS_WITHOUT_A_STEP:
            raise MisconfigurationException(
                "The LR range test cannot go on: its optimizer takes no step in a whole epoch."
                " Does the training loader have batches, and does the module train with them?"
            )

    # ---- validation -------------------------------------------------------------------------

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the loss that ``validation_step`` returns, if it does."""
        loss = loss_in(outputs)
        if loss is not None:
            self._val_window.append(loss)

    def validated(self, trainer: Trainer, logged: list[Mapping[str, Any]]) -> None:
        """Record the validation loss: what was returned, or else what was logged."""
        losses, self._val_window = self._val_window, []
        self.validation_due = False
        if not losses:
            losses = logged_losses(logged)
        loss = mean_over_ranks(trainer, losses)
        if loss is None:
            raise MisconfigurationException(
                f"val_batches={self.val_batches} needs a loss: let validation_step return it, or"
                " log it under a name with 'loss' in it."
            )
        self.val_lrs.append(self.lrs[-1])
        self.val_losses.append(loss)


def _named(optimizers: Sequence[Optimizer]) -> str:
    kinds = [type(optimizer).__name__ for optimizer in optimizers if optimizer.param_groups]
    return f"{len(kinds)}: {', '.join(kinds)}" if kinds else "none"
