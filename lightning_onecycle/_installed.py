"""The schedulers of a trainer: a `ScheduleLR` for each optimizer, in place of the module's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest

from lightning.fabric.utilities import rank_zero_info
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer

from lightning_onecycle import _groups
from lightning_onecycle.scheduler import ScheduleLR

# With this frequency Lightning never calls step(), nor a module's own lr_scheduler_step.
_NEVER = sys.maxsize


class Installed:
    """A `ScheduleLR` on each optimizer of a trainer, which the trainer saves and restores.

    A module that brings schedulers of its own finds ours in their places: ``lr_schedulers()`` has
    as many, and ``LearningRateMonitor`` logs them under the same names, at the same intervals.

    Args:
        trainer: A trainer whose optimizers are set up.
        make: Makes the scheduler of an optimizer.
        owner: Who replaces the module's schedulers, for the line that says so.
        peak_is_given: Whether ``make`` gives peaks, so that they are not the optimizer's.

    Attributes:
        schedulers: One for each optimizer.
    """

    def __init__(
        self,
        trainer: Trainer,
        make: Callable[[Optimizer], ScheduleLR],
        owner: str,
        *,
        peak_is_given: bool,
    ) -> None:
        self._make, self._owner, self._peak_is_given = make, owner, peak_is_given
        self.schedulers: list[ScheduleLR] = []
        self._install(trainer)

    def _install(self, trainer: Trainer) -> None:
        strategy, earlier = trainer.strategy, self.schedulers
        theirs = [c for c in strategy.lr_scheduler_configs if c.scheduler not in earlier]
        kept = {id(scheduler.optimizer): scheduler for scheduler in earlier}
        self.schedulers = [
            kept.get(id(optimizer)) or self._replace(optimizer, theirs)
            for optimizer in trainer.optimizers
        ]
        # By the innermost: other code may have wrapped the optimizers since.
        ours = {_innermost(scheduler.optimizer): scheduler for scheduler in self.schedulers}
        strategy.lr_scheduler_configs = [
            replace(
                config,
                scheduler=ours[_innermost(config.scheduler.optimizer)],
                frequency=_NEVER,
                reduce_on_plateau=False,
                monitor=None,
            )
            for config in theirs
        ] or [
            LRSchedulerConfig(scheduler, interval="step", frequency=_NEVER)
            for scheduler in self.schedulers
        ]
        listed = {id(config.scheduler) for config in strategy.lr_scheduler_configs}
        self._listed = [scheduler for scheduler in self.schedulers if id(scheduler) in listed]
        self._optimizers = [scheduler.optimizer for scheduler in self.schedulers]

    def _replace(self, optimizer: Optimizer, theirs: list[LRSchedulerConfig]) -> ScheduleLR:
        innermost = _innermost(optimizer)
        found = [c.scheduler for c in theirs if _innermost(c.scheduler.optimizer) == innermost]
        foreign = [scheduler for scheduler in found if not isinstance(scheduler, ScheduleLR)]
        source = _groups.undo_schedulers(optimizer, foreign) if foreign else "its peak"
        scheduler = self._make(optimizer)
        if found:
            names = " and ".join(type(scheduler).__name__ for scheduler in found)
            rank_zero_info(
                f"{self._owner} replaces the {names} of {type(optimizer).__name__}: the peak is"
                f" {max(scheduler.max_lrs):g},"
                f" {f'the max_lr of {self._owner}' if self._peak_is_given else source}."
            )
        return scheduler

    def follow(self, trainer: Trainer) -> list[ScheduleLR]:
        """Follow changes of the trainer's optimizers and schedulers by other code.

        An optimizer that is new gets a scheduler, which goes on where that of its place was. One
        whose scheduler was replaced (``StochasticWeightAveraging`` does it) is left alone.

        Returns:
            The schedulers that are new.
        """
        before = self.schedulers
        if trainer.optimizers != self._optimizers:
            self._install(trainer)
            new = [scheduler for scheduler in self.schedulers if scheduler not in before]
            for scheduler, earlier in zip_longest(self.schedulers, before):
                if scheduler in new:
                    earlier = earlier or before[-1]
                    scheduler.total_steps = earlier.total_steps
                    scheduler.move_to(earlier.last_epoch)
                    rank_zero_info(
                        f"{self._owner} continues with another optimizer,"
                        f" {type(scheduler.optimizer).__name__}, after {earlier.last_epoch} of"
                        f" {earlier.total_steps} steps: its peak is {max(scheduler.max_lrs):g}."
                    )
            for scheduler in before:
                if scheduler not in self.schedulers:
                    scheduler.detach()
            return new
        installed = [config.scheduler for config in trainer.lr_scheduler_configs]
        for scheduler in self._listed:
            if scheduler.attached and scheduler not in installed:
                scheduler.detach()
                rank_zero_info(
                    f"Another scheduler took the place of {self._owner}'s: the schedule stops after"
                    f" {scheduler.last_epoch} of {scheduler.total_steps} steps."
                )
        return []


def _innermost(optimizer: Optimizer) -> int:
    return id(_groups.with_hooks(optimizer))
