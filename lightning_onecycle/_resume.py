"""The position after a resume, for checkpoints of other schedulers or batch sizes."""

from __future__ import annotations

from typing import Any

from lightning.fabric.utilities import rank_zero_info
from lightning.pytorch import Trainer

from lightning_onecycle import budget as budgets
from lightning_onecycle.scheduler import ScheduleLR


def is_of_other_schedulers(checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint was written in the middle of a run without one of these schedules."""
    states = checkpoint.get("lr_schedulers") or [{}]
    ours = all("groups_when_built" in state for state in states)
    return checkpoint.get("global_step", 0) > 0 and not ours


def steps_taken(checkpoint: dict[str, Any]) -> list[int]:
    """Return how many steps each optimizer has taken in the run that wrote a checkpoint.

    One optimizer has taken all of them. Several share them equally, unless their states have the
    numbers.
    """
    states = checkpoint.get("optimizer_states", [])
    taken = []
    for state in states:
        own = [int(of["step"]) for of in state.get("state", {}).values() if "step" in of]
        several = len(states) > 1 and own
        taken.append(max(own) if several else checkpoint["global_step"] // len(states))
    return taken


def go_on_after(steps: list[int], schedulers: list[ScheduleLR], owner: str) -> None:
    """Move each scheduler to the steps that its optimizer has taken, and say so."""
    for scheduler, step in zip(schedulers, steps, strict=False):
        scheduler.move_to(step)
        states = scheduler.optimizer.state.values()
        known = len(schedulers) == 1 or any("step" in state for state in states)
        rank_zero_info(
            f"The checkpoint was written without {owner}: the schedule continues after the"
            f" {step} steps that {type(scheduler.optimizer).__name__} has taken"
            f"{'' if known else ', if each optimizer has taken as many'}."
        )


def keep_fraction(trainer: Trainer, scheduler: ScheduleLR, saved: dict[str, int]) -> None:
    r"""Move the scheduler where the batch size has changed since the checkpoint.

    Each step taken counts as :math:`\text{steps in an epoch now} / \text{steps in one then}`, so
    that the schedule continues at the same fraction of the run. If the run ends by ``max_steps``, a
    step stays a step.

    Args:
        trainer: A resumed trainer whose loaders are set up.
        scheduler: At the position of the checkpoint.
        saved: What `lightning_onecycle.budget.epoch_size` returned when it was saved.
    """
    now, in_epochs = budgets.epoch_size(trainer, saved["epoch"]), budgets.steps_in_epochs(trainer)
    if now is None or in_epochs is None or now["batch_size"] == saved["batch_size"]:
        return
    if trainer.max_steps != -1 and trainer.max_steps < in_epochs:
        return
    before = scheduler.last_epoch
    scheduler.move_to(round(before * now["steps"] / saved["steps"]))
    rank_zero_info(
        f"The effective batch size is {now['batch_size']}, and the checkpoint's is"
        f" {saved['batch_size']}: the {before} steps taken count as {scheduler.last_epoch}, so that"
        " the schedule continues at the same fraction of the run."
    )
