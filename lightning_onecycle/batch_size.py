"""Batch sizes that change over a run, and the learning rate for another batch size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from lightning.fabric.utilities import rank_zero_info
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from lightning_onecycle import _loaders
from lightning_onecycle._checks import choice, number, whole
from lightning_onecycle._lightning import Callback
from lightning_onecycle.batch_norm import BatchNormRecalibration

__all__ = ["BatchNormRecalibration", "BatchSizeSchedule", "scale_lr"]


def scale_lr(
    lr: float,
    batch_size: int,
    base_batch_size: int,
    rule: Literal["linear", "sqrt"] = "linear",
) -> float:
    r"""Return the learning rate for a batch size, given that of another batch size.

    With :math:`k` times the batch, the linear rule has :math:`k` times the rate, and all else
    stays: Goyal et al., arXiv:1706.02677, section 2.1, for SGD, up to batches of about 8,000. The
    square root, :math:`\sqrt k`, keeps the variance of a step: Krizhevsky, arXiv:1404.5997,
    section 5.

    Args:
        lr: The rate for ``base_batch_size``, > 0.
        batch_size: Samples of an optimizer step, all devices and accumulated batches together.
        base_batch_size: The batch size for which ``lr`` is right.
        rule: ``"linear"`` or ``"sqrt"``.

    Returns:
        The rate for ``batch_size``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> scale_lr(0.1, 1024, 256), scale_lr(0.1, 1024, 256, rule="sqrt")
        (0.4, 0.2)
    """
    lr = number("lr", lr, "> 0", lambda v: v > 0)
    factor = whole("batch_size", batch_size, 1) / whole("base_batch_size", base_batch_size, 1)
    choice("rule", rule, ("linear", "sqrt"))
    return lr * (factor if rule == "linear" else math.sqrt(factor))


class BatchSizeSchedule(Callback):
    r"""Change the batch size from epoch to epoch.

    - Large batches after a start with small ones (Keskar et al., arXiv:1609.04836, section 4):
      ``[(0, 64), (0.2, 1024)]``. Few epochs of small batches are not enough there.
    - Larger batches in place of smaller rates (Smith, Kindermans and Le, arXiv:1711.00489), with a
      constant schedule: ``[(0, 128), (0.3, 640), (0.6, 3200)]``.

    An epoch has one batch size. Where it changes, Lightning makes a new training loader: from the
    data module, whose ``batch_size`` is set, or from the loader that ``fit`` was given. Evaluation
    loaders change too if they read the same attribute. After the fit the attribute has its first
    value again. A `ScheduleCallback` counts the steps of the epochs to come, so its schedule still
    covers the run. The learning rate is not scaled with the batch size (`scale_lr`). A resumed run
    continues with the batch size that it had, and takes the next one from the present ``sizes``.

    With a logger, ``batch_size`` is logged at each epoch's start.

    Args:
        sizes: Pairs of a fraction of the run, rising from 0, and a batch size on each device: an
            epoch has the last pair that it has reached. Or a function from the fraction to a batch
            size, the same on each device. The fraction is epochs of ``max_epochs``, or steps of
            ``max_steps``, whichever is larger.
        attribute: Name of the attribute in the data module or module that makes the loader.

    Raises:
        ValueError: If ``sizes`` are out of range.
        MisconfigurationException: In ``fit``, if the batch size cannot be read or set, or the run
            has no end in epochs or steps.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(max_epochs=10, logger=False,
        ...                   callbacks=BatchSizeSchedule([(0, 64), (0.5, 256)]))
    """

    def __init__(
        self,
        sizes: Sequence[tuple[float, int]] | Callable[[float], int],
        attribute: str = "batch_size",
    ) -> None:
        super().__init__()
        self.sizes = sizes if callable(sizes) else _milestones(sizes)
        self.attribute = attribute
        self._holders: list[_loaders.SizeHolder] = []
        self._now = _Position()
        self._resumed: _Position | None = None
        self._reload_every = 0

    def size_at(self, fraction: float) -> int:
        """Return the batch size at a fraction of the run.

        Example:
            >>> schedule = BatchSizeSchedule([(0, 64), (0.5, 256)])
            >>> [schedule.size_at(fraction) for fraction in (0.0, 0.4, 0.5, 1.0)]
            [64, 64, 256, 256]
        """
        if callable(self.sizes):
            return whole(f"sizes({fraction:g})", self.sizes(fraction), 1)
        return [size for start, size in self.sizes if start <= fraction][-1]

    def batches_in(self, trainer: Trainer, epoch: int) -> int | float:
        """Return the batches of an epoch, the present or one to come."""
        if epoch == trainer.current_epoch:
            return trainer.num_training_batches
        return _loaders.batches_with(trainer, self._size_for(trainer, epoch, 0))

    def _size_for(self, trainer: Trainer, epoch: int, step: int) -> int:
        fractions = []
        if trainer.max_epochs not in (None, -1):
            fractions.append(epoch / max(trainer.max_epochs, 1))
        if trainer.max_steps != -1:
            fractions.append(step / max(trainer.max_steps, 1))
        if not fractions:
            raise MisconfigurationException(
                "BatchSizeSchedule cannot know how far the run is: give Trainer(max_epochs=...) or"
                " Trainer(max_steps=...)."
            )
        return self.size_at(min(max(fractions), 1.0))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier run; a checkpoint is restored after this hook."""
        self._resumed = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the size of the first epoch, before its loader is made."""
        self._holders = _loaders.size_holders(trainer, self.attribute)
        self._reload_every = trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
        self._now = self._resumed or _Position(trainer.current_epoch, trainer.global_step)
        if not self._now.begun:
            size = self._size_for(trainer, self._now.epoch, self._now.step)
            self._now = self._now._replace(size=size)
        self._put(self._now.size)
        # Where configure_optimizers has asked for the length of the run, there is one already.
        trainer.fit_loop._combined_loader = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the loader has the size, and that later sizes leave batches to train on."""
        _loaders.check(trainer, self._now.size, self.attribute)
        if trainer.max_epochs in (None, -1):
            return
        for epoch in range(trainer.current_epoch, trainer.max_epochs):
            if not self.batches_in(trainer, epoch):
                raise ValueError(
                    "sizes must be at most the training samples of a device, where the last batch"
                    f" is dropped, got {self._size_for(trainer, epoch, 0)} in epoch {epoch}"
                )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the batch size of the epoch."""
        _loaders.check(trainer, self._now.size, self.attribute)
        trainer.reload_dataloaders_every_n_epochs = self._reload_every  # type: ignore[attr-defined]
        self._now = self._now._replace(begun=True)
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        for logger in trainer.loggers:
            logger.log_metrics({"batch_size": self._now.size}, step=step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the size of the next epoch. If it changes, Lightning makes a new loader."""
        epoch, step = trainer.current_epoch + 1, trainer.global_step
        size = self._size_for(trainer, epoch, step)
        if size != self._now.size:
            self._put(size)
            trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]
            rank_zero_info(f"The batch size is {size} from epoch {epoch} on, not {self._now.size}.")
        self._now = _Position(epoch, step, size)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put back what was set."""
        if self._holders:
            trainer.reload_dataloaders_every_n_epochs = self._reload_every  # type: ignore[attr-defined]
        for holder in self._holders:
            holder.put(holder.was)
        self._holders = []

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Put back what was set."""
        self.teardown(trainer, pl_module, "fit")

    def state_dict(self) -> dict[str, Any]:
        """Return the batch size, and the epoch that it is for."""
        return self._now._asdict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume an epoch with its batch size."""
        self._resumed = _Position(**state_dict)

    def _put(self, size: int) -> None:
        for holder in self._holders:
            holder.put(size)


class _Position(NamedTuple):
    """An epoch, the optimizer steps taken before it, its batch size, and whether it has begun."""

    epoch: int = 0
    step: int = 0
    size: int = 0
    begun: bool = False


def _milestones(sizes: Sequence[tuple[float, int]]) -> tuple[tuple[float, int], ...]:
    pairs = []
    for i, pair in enumerate(sizes):
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise ValueError(f"sizes[{i}] must be a fraction and a batch size, got {pair!r}")
        start = number(f"sizes[{i}][0]", pair[0], "in [0, 1]", lambda v: 0 <= v <= 1)
        pairs.append((start, whole(f"sizes[{i}][1]", pair[1], 1)))
    starts = [start for start, _ in pairs]
    if not starts or starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
        raise ValueError(f"sizes must be at fractions that rise from 0, got {starts}")
    return tuple(pairs)
