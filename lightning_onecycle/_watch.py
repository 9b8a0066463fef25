"""Warnings about a schedule that does not move, or that the fit ends early."""

from __future__ import annotations

from lightning.fabric.utilities import rank_zero_info, rank_zero_warn

from lightning_onecycle.scheduler import ScheduleLR


class Watch:
    """Compares what was counted with what was trained."""

    def __init__(self) -> None:
        self._batches = 0  # in the present epoch
        self._began_at: list[int] = []
        self._told = False

    def epoch_starts(self, schedulers: list[ScheduleLR]) -> None:
        """Remember where the schedulers are."""
        self._began_at, self._batches = _positions(schedulers), 0

    def batch_starts(self) -> None:
        """Count a batch that is trained on."""
        self._batches += 1

    def epoch_ends(self, epoch: int, schedulers: list[ScheduleLR]) -> None:
        """Warn once if batches were trained on and no optimizer step was counted."""
        first = schedulers[0]
        stands = first.attached and _positions(schedulers) == self._began_at
        if stands and self._batches and not self._told:
            self._told = True
            rank_zero_warn(
                f"No optimizer step was counted in epoch {epoch}: the schedule stands at step"
                f" {first.last_epoch} of {first.total_steps}. Either the optimizer took none, or it"
                " is stepped in a way that runs no hooks."
            )

    def fit_ends(self, schedulers: list[ScheduleLR]) -> None:
        """Say if the fit ends before the schedule."""
        for scheduler in schedulers:
            if scheduler.attached and scheduler.last_epoch < scheduler.total_steps:
                rank_zero_info(
                    f"The fit ends at step {scheduler.last_epoch} of {scheduler.total_steps} of the"
                    f" schedule of {type(scheduler.optimizer).__name__}, at a learning rate of"
                    f" {max(scheduler.get_last_lr()):.3g}."
                )


def _positions(schedulers: list[ScheduleLR]) -> list[int]:
    return [scheduler.last_epoch for scheduler in schedulers]
