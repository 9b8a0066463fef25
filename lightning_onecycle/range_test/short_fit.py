"""A fit of a few steps: it lays a schedule, records the losses, and says when to stop."""

# Longer than other modules: one class has all hooks of such a fit.

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_onecycle import _groups
from lightning_onecycle._lightning import Callback
from lightning_onecycle.callback import ScheduleCallback
from lightning_onecycle.measure._measurement import Measurement
from lightning_onecycle.phases import Schedule
from lightning_onecycle.range_test.logged import Logged
from lightning_onecycle.range_test.loops import loop_for
from lightning_onecycle.range_test.losses import loss_in, mean_over_ranks, training_loss
from lightning_onecycle.range_test.step_errors import excused, guarded
from lightning_onecycle.scheduler import ScheduleLR

_MOST_EPOCHS_WITHOUT_A_STEP = 100
_MOST_STEPS_WITHOUT_A_LOSS = 10


class _Quiet(ScheduleLR):
    """Says nothing: what there is to say, the schedule of the training says."""

    _tells = False


class ShortFit(Callback):
    """Take a few steps of a training under a schedule, and record the loss of each.

    It installs a `ScheduleLR` on the one optimizer. After the fit it holds ``lrs``, ``losses``,
    ``attempted`` and ``stopped``.

    Args:
        num_training: Optimizer steps.
        bar: A progress bar of ``tqdm``'s, to be moved by each step. None: none.

    Attributes:
        weight_decay: That of the group with the largest; the others keep their ratio to it. None:
            the optimizer's own.
        left_out: Callbacks of the training that take no part.
        told: What there was a warning about, in this short fit or in one before it.
        original: What the trained module is a copy of.
        attempted: Optimizer steps, with those that a gradient scaler skipped.
        stopped: Why the fit ended, and empty until then.
        diverged: Whether that is because it diverged.
        validation_due: Whether a validation comes next.
        failed: The error of a step by which the fit has diverged, and empty until then.
    """

    what = "LR range test"

    def __init__(self, num_training: int, bar: Any = None) -> None:
        super().__init__()
        self.num_training, self.bar = num_training, bar
        self.weight_decay: float | None = None
        self.left_out: list[Any] = []
        self.told: set[Any] = set()
        self.original: LightningModule | None = None
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self.attempted = 0
        self.stopped = ""
        self.diverged = False
        self.exception: BaseException | None = None
        self.validation_due = False
        self.failed = ""
        self.val_window: list[Tensor] = []
        self._window: list[Tensor] = []
        self._taken = self._taken_before_epoch = self._idle_epochs = 0
        self._scheduler: ScheduleLR | None = None
        self._logged: Logged | None = None
        self._went_back = self._reached_optimizer = False

    @abstractmethod
    def lay(self, trainer: Trainer, optimizer: Optimizer) -> tuple[Schedule, Any]:
        """Return the schedule, and the peaks as `ScheduleLR` takes them."""

    @abstractmethod
    def validated(self, trainer: Trainer, logged: list[Mapping[str, Any]]) -> None:
        """Take what a validation has logged; what it returned is in ``val_window``."""

    def recorded(self, trainer: Trainer, taken: int, loss: float) -> None:
        """Take the finite loss of a step, after ``taken`` steps."""

    def end(self, taken: int) -> str:
        """Return why there are to be no more steps, or nothing, after ``taken`` steps."""
        return "completed" if taken >= self.num_training else ""

    def prepare(self, trainer: Trainer) -> None:
        """Give the trainer loops that end with this fit, and validate when it says so."""
        trainer.fit_loop = loop_for(trainer, self)
        trainer.num_sanity_val_steps = 0

    @property
    def scheduler(self) -> ScheduleLR:
        """What writes the learning rate."""
        assert self._scheduler is not None
        return self._scheduler

    @property
    def logged(self) -> Logged:
        """What the steps log."""
        assert self._logged is not None
        return self._logged

    @property
    def schedule_callbacks(self) -> list[ScheduleCallback]:
        """The callbacks that the training will take its schedule from: one, or none."""
        return [callback for callback in self.left_out if isinstance(callback, ScheduleCallback)]

    # ---- installing -------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be tested or trained, and take over the optimizer."""
        optimizers = trainer.optimizers
        kinds = [type(optimizer).__name__ for optimizer in optimizers if optimizer.param_groups]
        if len(optimizers) != 1 or not kinds:
            which = f"{len(kinds)}: {', '.join(kinds)}" if kinds else "none"
            raise MisconfigurationException(
                f"An LR range test needs one optimizer, and {type(pl_module).__name__}."
                f"configure_optimizers returned {which}. Test a module that has one optimizer."
            )
        with self.callbacks_of_the_training(trainer):
            for callback in self.left_out:
                if isinstance(callback, (ScheduleCallback, Measurement)):
                    callback.check(trainer, pl_module)
        (optimizer,) = optimizers
        _groups.check_lrs(optimizer)
        _groups.unshare(optimizer.param_groups, "lr", optimizer.defaults.get("lr"))
        if self.weight_decay is not None:
            _groups.set_weight_decay(optimizer.param_groups, self.weight_decay)
        schedule, peaks = self.lay(trainer, optimizer)
        found = [config.scheduler for config in trainer.lr_scheduler_configs]
        foreign = [scheduler for scheduler in found if not isinstance(scheduler, ScheduleLR)]
        if foreign:
            # Ratios are those of the peaks, and some schedulers start low.
            _groups.undo_schedulers(optimizer, foreign)
        # A module may look at them, but Lightning must not step them.
        trainer.strategy.lr_scheduler_configs = [
            replace(config, interval="step", frequency=sys.maxsize, reduce_on_plateau=False)
            for config in trainer.lr_scheduler_configs
        ]
        # Before the scheduler's own hook, which writes the values of the next step.
        _groups.with_hooks(optimizer).register_step_post_hook(self._check_step)
        self._scheduler = _Quiet(optimizer, schedule, self.num_training, max_lr=peaks)
        for name in ("training_step", "validation_step"):
            step = guarded(
                getattr(pl_module, name),
                pl_module,
                self.original,
                # One rank alone: the others would go on.
                may_diverge=lambda: self._taken > 0 and trainer.world_size == 1,
                diverged=partial(self._step_failed, trainer, name),
            )
            setattr(pl_module, name, step)
        self._logged = Logged(pl_module)
        for owner in (pl_module, *trainer.callbacks):  # type: ignore[attr-defined]
            for name in ("on_train_epoch_end", "on_train_end"):
                setattr(owner, name, excused(getattr(owner, name), self.told))

    @contextmanager
    def callbacks_of_the_training(self, trainer: Any) -> Iterator[None]:
        """Give the trainer all callbacks of the training, for code that looks at them."""
        callbacks = trainer.callbacks
        trainer.callbacks = [*callbacks, *self.left_out]
        try:
            yield
        finally:
            trainer.callbacks = callbacks

    def peaks(self, largest: float) -> float | list[float]:
        """Return the peak of the largest group, or of each group where the training gives each."""
        for callback in self.schedule_callbacks:
            if isinstance(callback.max_lr, Sequence):
                return [largest * (peak / max(callback.max_lr)) for peak in callback.max_lr]
        return largest

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remember what went wrong: Lightning turns a Ctrl+C into an exit."""
        self.exception = exception

    # ---- is it the copy that is trained, and at the planned rates? ----------------------------

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

    def _step_failed(self, trainer: Trainer, name: str, error: Exception) -> None:
        self.failed = f"{name} raised {type(error).__name__}"
        if not trainer.training:
            self.diverge(trainer, self.failed, self.lrs[-1])

    # ---- recording --------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Hear what a step logs that may return nothing."""
        self.logged.is_open = not pl_module.automatic_optimization

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collect the loss, and where the optimizer has stepped, record its mean."""
        loss = loss_in(outputs)
        if self.logged.is_open:
            self.logged.is_open, logged = False, self.logged.take()
            loss = training_loss(logged) if loss is None else loss
        if self.failed:
            loss = torch.tensor(math.nan, device=pl_module.device)
        if loss is not None:
            if pl_module.automatic_optimization:  # Lightning has divided it already
                loss = loss * trainer.accumulate_grad_batches
            self._window.append(loss)
        # The gradient scaler skips steps: these are attempted, not taken.
        taken, attempted = self.scheduler.last_epoch, trainer.global_step
        if taken > self._taken or attempted > self.attempted:
            steps, self.attempted = taken - self._taken, attempted
            self._end_of_window(trainer, pl_module, steps)
            self._taken = taken

    def _end_of_window(self, trainer: Trainer, pl_module: LightningModule, steps: int) -> None:
        if steps > 1 and not self.failed:
            raise MisconfigurationException(
                f"An LR range test needs at most one optimizer step in a training_step, and"
                f" {type(pl_module).__name__}'s took {steps}: one loss cannot stand for them all."
            )
        loss = mean_over_ranks(trainer, self._window)
        self._window = []
        taken = self._taken + steps
        largest = max(self.scheduler.max_lrs)
        lr = largest * self.scheduler.schedule.at(self._taken, self.scheduler.total_steps).lr
        finite = loss is None or math.isfinite(loss)
        if loss is not None and (steps or not finite):
            self.lrs.append(lr)
            self.losses.append(loss)
        if not self.lrs and taken >= min(_MOST_STEPS_WITHOUT_A_LOSS, self.num_training):
            raise MisconfigurationException(
                f"An LR range test needs losses, and there is none after {taken} steps: let"
                f" {type(pl_module).__name__}'s training_step return the loss, or log it as"
                " train_loss."
            )
        if self.bar is not None:
            text = "" if loss is None else f", loss {loss:.3g}"
            self.bar.set_postfix_str(f"lr {lr:.2e}{text}", refresh=False)
            self.bar.update()
        if not finite:
            self.diverge(trainer, self.failed or "loss not finite", lr)
        elif steps and loss is not None:
            self.recorded(trainer, taken, loss)
        if not self.stopped and (why := self.end(taken)):
            self.stop(trainer, why)

    def stop(self, trainer: Trainer, why: str) -> None:
        """End the fit."""
        self.stopped = why
        trainer.should_stop = True

    def diverge(self, trainer: Trainer, how: str, lr: float) -> None:
        """End the fit as one that has diverged."""
        self.diverged = True
        self.stop(trainer, f"{how} at lr {lr:.3g}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give up where no steps are taken, or the fit would never end."""
        self._idle_epochs = 0 if self._taken > self._taken_before_epoch else self._idle_epochs + 1
        self._taken_before_epoch = self._taken
        stepped = self._taken or self.attempted
        if not stepped or self._idle_epochs > _MOST_EPOCHS_WITHOUT_A_STEP:
            raise MisconfigurationException(
                f"The {self.what} cannot continue: its optimizer takes no step in a whole epoch."
                " Does the training loader have batches, and does the module train with them?"
            )

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
            self.val_window.append(loss)
