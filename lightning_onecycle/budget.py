"""The number of optimizer steps of a fit, from its loaders and loops, or from its time limit.

Lightning's ``Trainer.estimated_stepping_batches`` knows neither ``GradientAccumulationScheduler``,
nor a time limit, nor what has really happened since the run began.
"""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, Timer
from lightning.pytorch.utilities.combined_loader import CombinedLoader

from lightning_onecycle._lightning import of_either_lightning
from lightning_onecycle._loaders import batch_size_of
from lightning_onecycle.batch_size import BatchSizeSchedule


def steps_in_epochs(trainer: Trainer, first_epoch: int = 0) -> int | None:
    r"""Return the optimizer steps from ``first_epoch`` to ``max_epochs``, or None if unknown.

    :math:`\sum_e \lceil \text{batches}_e / \text{accumulation}_e \rceil`. Unknown without a
    length or without ``max_epochs``.
    """
    if math.isinf(trainer.num_training_batches) or trainer.max_epochs in (None, -1):
        return None
    accumulation = accumulation_plan(trainer)
    return sum(
        math.ceil(batches_in(trainer, epoch) / accumulation.get_accumulate_grad_batches(epoch))
        for epoch in range(first_epoch, trainer.max_epochs)
    )


def batches_in(trainer: Trainer, epoch: int) -> int | float:
    """Return the batches of an epoch: those of the present loader, or as its batch size will be."""
    callback = _changes_batch_size(trainer)
    return callback.batches_in(trainer, epoch) if callback else trainer.num_training_batches


def _changes_batch_size(trainer: Trainer) -> BatchSizeSchedule | None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, BatchSizeSchedule):
            return callback
    return None


def accumulation_plan(trainer: Trainer) -> GradientAccumulationScheduler:
    """Return the trainer's ``GradientAccumulationScheduler``, or one that does what it does now."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, of_either_lightning(GradientAccumulationScheduler)):
            return callback
    return GradientAccumulationScheduler({0: trainer.accumulate_grad_batches})


def steps_left(trainer: Trainer, *, epoch_starts: bool) -> int | None:
    """Return the optimizer steps between now and the end of the fit, or None if unknown.

    Args:
        trainer: A trainer whose loaders are set up.
        epoch_starts: Whether an epoch is just starting. If not, as on resuming in the middle of
            one, the steps that are done in it are left out. What earlier epochs really took does
            not matter.
    """
    limits = []
    in_epochs = _left_in_epochs(trainer, epoch_starts=epoch_starts)
    if in_epochs is not None:
        limits.append(in_epochs)
    if trainer.max_steps != -1:
        limits.append(trainer.max_steps - trainer.global_step)
    return max(min(limits), 0) if limits else None


def _left_in_epochs(trainer: Trainer, *, epoch_starts: bool) -> int | None:
    if epoch_starts:
        return steps_in_epochs(trainer, trainer.current_epoch)
    epoch, begun = _place_in_epochs(trainer)
    later = steps_in_epochs(trainer, epoch + 1)
    if later is None or epoch >= trainer.max_epochs:  # type: ignore[operator]
        return later
    accumulation = accumulation_plan(trainer).get_accumulate_grad_batches(epoch)
    if getattr(trainer.fit_loop, "restarted_mid_epoch", False):
        # Lightning leaves out the hook in which GradientAccumulationScheduler sets its number.
        accumulation = trainer.accumulate_grad_batches
    return math.ceil(batches_in(trainer, epoch) / accumulation) - begun // accumulation + later


def _place_in_epochs(trainer: Trainer) -> tuple[int, int]:
    """Return the epoch and the batch with which a fit begins.

    A batch that raised is begun, but not done: a resumed run goes on with it. The epoch may have
    become shorter or longer since the checkpoint.
    """
    epoch = trainer.current_epoch
    of_epoch: Any = trainer.fit_loop.epoch_progress.current
    batches = trainer.fit_loop.epoch_loop.batch_progress
    current: Any = batches.current
    done: int = current.completed
    at_batch_end = done == current.processed - 1 == current.ready - 1
    if at_batch_end:
        done += 1  # Lightning does not repeat this batch
    is_between = of_epoch.ready == of_epoch.processed
    if is_between or (batches.is_last_batch and done == current.ready):
        epoch += not is_between
        # Behind as many batches as the epoch before had, if there are more of them.
        return epoch, done if at_batch_end and done < batches_in(trainer, epoch) else 0
    if done >= batches_in(trainer, epoch):
        return (epoch, 0) if at_batch_end else (epoch + 1, 0)
    return epoch, done


def epoch_size(trainer: Trainer, epoch: int) -> dict[str, int] | None:
    """Return the optimizer steps of an epoch and the effective batch size, or None if unknown.

    Both are those of the present loader, over all devices and accumulated batches.
    """
    loaders = CombinedLoader(trainer.train_dataloader).flattened
    sizes = {batch_size_of(loader) for loader in loaders}
    batches = trainer.num_training_batches
    if len(sizes) != 1 or None in sizes or math.isinf(batches) or _changes_batch_size(trainer):
        return None
    accumulation = accumulation_plan(trainer).get_accumulate_grad_batches(epoch)
    return {
        "epoch": epoch,
        "steps": math.ceil(batches / accumulation),
        "batch_size": sizes.pop() * trainer.world_size * accumulation,  # type: ignore[operator]
    }


def time_limit(trainer: Trainer) -> Timer | None:
    """Return the ``Timer`` that ends the fit (``max_time`` makes one), or None."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if (
            isinstance(callback, of_either_lightning(Timer))
            and callback.time_remaining() is not None
        ):
            return callback
    return None


def steps_in_time(timer: Timer, taken: int) -> int | None:
    r"""Return the optimizer steps in the time limit at the pace so far, or None before any.

    :math:`T = k \cdot \text{duration} / \text{elapsed}` for :math:`k` steps taken.
    """
    elapsed = timer.time_elapsed()
    remaining = timer.time_remaining()
    if taken == 0 or elapsed <= 0 or remaining is None:
        return None
    return max(round(taken * (elapsed + remaining) / elapsed), taken + 1)
