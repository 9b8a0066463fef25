"""The fits of a search: a look at the training to come, and the probes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_onecycle import budget as budgets
from lightning_onecycle.phases import Schedule
from lightning_onecycle.range_test.losses import mean_over_ranks, validation_losses
from lightning_onecycle.range_test.short_fit import ShortFit
from lightning_onecycle.range_test.trial import RangeTest
from lightning_onecycle.schedules import one_cycle
from lightning_onecycle.search.probe import COMPLETED, Probe, is_clearly_larger, last_tenth

BY_VALIDATION, BY_TRAINING = "validation loss", "training loss"


class Survey(RangeTest):
    """A range test that takes no step: it refuses, and holds ``conditions`` and ``schedule``.

    Where the training has no schedule, that is `one_cycle`: what the peak will be for.

    Attributes:
        total_steps: Optimizer steps of the training to come.
    """

    total_steps = 0

    def lay(self, trainer: Trainer, optimizer: Optimizer) -> tuple[Schedule, Any]:
        """Lay that of the test, and have one for the training where it has none."""
        laid = super().lay(trainer, optimizer)
        self.schedule = self.schedule or one_cycle()
        return laid

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the steps of the training to come, and end."""
        super().on_train_start(trainer, pl_module)
        self.total_steps = self._count(trainer, pl_module)
        self.stop(trainer, "surveyed")

    def _count(self, trainer: Trainer, pl_module: LightningModule) -> int:
        for callback in self.schedule_callbacks:
            if callback.total_steps is not None:
                return callback.total_steps
        in_time = any(callback.budget == "time" for callback in self.schedule_callbacks)
        with self.callbacks_of_the_training(trainer):
            steps = budgets.steps_left(trainer, epoch_starts=False)
        if steps is None or in_time or not pl_module.automatic_optimization:
            raise MisconfigurationException(
                "A search needs the number of the training's optimizer steps, because its cost is a"
                " fraction of them. Give OneCycle(total_steps=...), or, under automatic"
                " optimization and without budget='time', Trainer(max_steps=...), or"
                " Trainer(limit_train_batches=...) with a number of batches."
            )
        return steps


class ProbeFit(ShortFit):
    """Train under the schedule of the training, over fewer steps, at one peak.

    After half of the steps and at the end it is judged: by the validation losses of the batches, or
    where there are none by the training losses of the last tenth of its steps. It ends before if a
    loss is not finite, and after half of its steps if it cannot win.

    Args:
        lr: The peak of the largest group.
        num_training: Optimizer steps.
        schedule: That of the training.
        rival: The best probe so far, or None.
        bar: See `ShortFit`.
        weight_decay: See `ShortFit`.
        momentum: At the ends and at the peak. None: that of the schedule.

    Attributes:
        judged_by: ``"validation loss"`` or ``"training loss"``.
    """

    what = "short training"

    def __init__(
        self,
        lr: float,
        num_training: int,
        schedule: Schedule,
        rival: Probe | None = None,
        bar: Any = None,
        *,
        weight_decay: float | None = None,
        momentum: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(num_training, bar)
        self.lr, self.rival = lr, rival
        self.weight_decay, self.momentum = weight_decay, momentum
        self.schedule = schedule if momentum is None else schedule.with_momentum(*momentum)
        self.judged_by = BY_TRAINING
        self.half: list[float] = []
        self.scores: list[float] = []

    def lay(self, trainer: Trainer, optimizer: Optimizer) -> tuple[Schedule, Any]:
        """Return the schedule of the training, and the peak."""
        return self.schedule, self.peaks(self.lr)

    def end(self, taken: int) -> str:
        """Count steps that a gradient scaler skips, too: they cost as much."""
        return COMPLETED if self.attempted >= self.num_training else ""

    def probe(self) -> Probe:
        """Return the probe."""
        judged = self.scores or (self.half if self.stopped != COMPLETED else [])
        is_finite = bool(judged) and all(map(math.isfinite, [*judged, self.losses[-1]]))
        return Probe(
            lr=self.lr,
            loss=sum(judged) / len(judged) if is_finite else math.inf,
            steps=self.attempted,
            stopped=self.stopped if is_finite or self.stopped != COMPLETED else "loss not finite",
            losses=tuple(self.losses),
            half=tuple(self.half),
            scores=tuple(self.scores),
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            length=self.num_training,
        )

    # ---- when it is judged --------------------------------------------------------------------

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Record the loss, and judge after half of the steps and at the end."""
        before = self.attempted
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.attempted == before:
            return
        skipped = self.attempted - self.scheduler.last_epoch
        self.scheduler.total_steps = max(self.num_training - skipped, 1)
        if self.stopped == COMPLETED or self.attempted == self.num_training // 2:
            self.validation_due = trainer.enable_validation
            if not self.validation_due:
                self._judge(trainer, self._last_losses())

    def validated(self, trainer: Trainer, logged: list[Mapping[str, Any]]) -> None:
        """Judge by the validation losses."""
        if self.failed:
            return
        self.validation_due = False
        returned, self.val_window = self.val_window, []
        scores = gathered(trainer, validation_losses(returned, self.logged.take()))
        if not scores:  # logged by something else than validation_step
            loss = mean_over_ranks(trainer, validation_losses([], logged))
            scores = [] if loss is None else [loss]
        if scores:
            self.judged_by = BY_VALIDATION
        self._judge(trainer, scores or self._last_losses())

    def _last_losses(self) -> list[float]:
        return list(last_tenth(self.losses, of=self.num_training))

    def _judge(self, trainer: Trainer, scores: list[float]) -> None:
        if self.stopped:
            self.scores = scores
            return
        self.half = scores
        # The annihilation gains more at a higher peak: a lower peak that is worse stays worse.
        rival = self.rival
        if rival and self.lr < rival.lr and is_clearly_larger(scores, rival.half):
            self.stop(trainer, "behind after half of the steps")

    # ---- what validation_step logs ------------------------------------------------------------

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Hear what the module logs from here on."""
        self.logged.is_open = True

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
        self.logged.is_open = False
        super().on_validation_batch_end(
            trainer, pl_module, outputs, batch, batch_idx, dataloader_idx
        )


def gathered(trainer: Trainer, losses: list[Tensor]) -> list[float]:
    """Return the losses of all ranks, the same list on each of them."""
    own = torch.stack(losses).tolist() if losses else []
    if trainer.world_size == 1:
        return own
    of_ranks: list[list[float]] = [[] for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(of_ranks, own)
    return [loss for of_rank in of_ranks for loss in of_rank]
