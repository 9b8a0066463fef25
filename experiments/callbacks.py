"""Callbacks of ``train.py``: they keep the state of a run, and show what it does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_onecycle import GeneralizationGap, ScheduleCallback
from lightning_onecycle.measure._measurement import Measurement
from lightning_onecycle.plots import plot_schedule

log = logging.getLogger(__name__)

# The custom-scalars tab: what belongs together in one chart.
CHARTS = {
    "learning rate": ["Multiline", ["^lr$"]],
    "momentum": ["Multiline", ["^momentum$"]],
    "learning rate and momentum": ["Multiline", ["^lr$", "^momentum$"]],
    "loss: training and validation": ["Multiline", ["^train/loss$", "^val/loss$"]],
    "accuracy: training and validation": ["Multiline", ["^train/acc$", "^val/acc$"]],
}
GAP = {"generalization gap": ["Multiline", ["^gap/loss$", "^gap/acc$"]]}
MEASURED = {
    "noise and sharpness": {
        "gradient noise scale": ["Multiline", ["^measure/noise_scale$"]],
        "noise factors": [
            "Multiline",
            ["^measure/noise_factor$", "^measure/noise_factor_momentum$"],
        ],
        "learning rate x covariance / batch size": ["Multiline", ["^measure/sgd_noise$"]],
        "largest eigenvalue of the Hessian": ["Multiline", ["^measure/hessian_eigenvalue$"]],
        "sharpness": ["Multiline", ["^measure/sharpness$", "^measure/sharpness_subspace$"]],
    },
}


class RandomState(Callback):
    """Keep torch's random state in the checkpoint, so that dropout continues where it was."""

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of torch's generators, on the CPU and each GPU."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts: building the loaders may still draw numbers."""
        self._restored = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the state back."""
        if self._restored is not None:
            torch.set_rng_state(self._restored["cpu"].cpu())
            if len(self._restored["cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all([state.cpu() for state in self._restored["cuda"]])
            self._restored = None


class ShowPlan(Callback):
    """Say what will happen before it does, and draw the schedule.

    List it behind the `ScheduleCallback`.

    Args:
        directory: Where ``schedule.png`` goes.
        schedule: The schedule's name.
        batch_size: Samples a step on one device.
    """

    def __init__(self, directory: str | Path, schedule: str, batch_size: int) -> None:
        self.directory = Path(directory)
        self.schedule = schedule
        self.batch_size = batch_size

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print a few lines, draw the picture, lay out TensorBoard's custom scalars."""
        callbacks = [c for c in trainer.callbacks if isinstance(c, ScheduleCallback)]
        if not callbacks:  # a range test, which is not what was planned
            return
        callback = callbacks[0]
        (scheduler,) = callback.schedulers
        peak, total = max(scheduler.max_lrs), scheduler.total_steps
        curve = callback.schedule.trace(min(total, 10_000))
        accumulated = trainer.accumulate_grad_batches
        if accumulated > trainer.num_training_batches:
            log.info(
                f"trainer.accumulate_grad_batches={accumulated} is more than an epoch has batches:"
                f" a step has the {trainer.num_training_batches} of its epoch"
            )
            accumulated = trainer.num_training_batches
        effective = self.batch_size * trainer.world_size * accumulated
        momenta = [p.momentum for p in curve if p.momentum is not None]
        moves = f", momentum {max(momenta):g} to {min(momenta):g}" if momenta else ""
        in_time = callback.budget == "time"
        steps = "for the given time" if in_time else f"over {total:,} step{'s' * (total > 1)}"
        done = f", {scheduler.last_epoch:,} of them taken" if scheduler.last_epoch else ""
        parameters = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
        net = type(getattr(pl_module, "net", pl_module)).__name__
        log.info(
            f"{self.schedule} {steps}{done}: lr {curve[0].lr * peak:.3g}, peak {peak:.3g},"
            f" end {curve[-1].lr * peak:.3g}{moves}"
        )
        log.info(
            f"{net} with {parameters:,} parameters on {type(trainer.datamodule).__name__},"
            f" {trainer.world_size} x {str(pl_module.device).upper()}, effective batch size"
            f" {effective} ({self.batch_size} a device)"
        )
        if callback.budget == "steps":
            self._draw(callback)
        # A chart of what nobody measures would be empty.
        measures, has_gap = (
            any(isinstance(c, kind) for c in trainer.callbacks)
            for kind in (Measurement, GeneralizationGap)
        )
        layout = {"1cycle": CHARTS | (GAP if has_gap else {})} | (MEASURED if measures else {})
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(layout)

    @rank_zero_only
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what was planned for a time, whose steps are only known now."""
        for callback in trainer.callbacks:
            if isinstance(callback, ScheduleCallback) and callback.budget == "time":
                self._draw(callback)

    def _draw(self, callback: ScheduleCallback) -> None:
        (scheduler,) = callback.schedulers
        peak = max(scheduler.max_lrs)
        axes = plot_schedule(callback.schedule, scheduler.total_steps, max_lr=peak)
        axes.figure.savefig(self.directory / "schedule.png", dpi=120)
