"""End a run whose loss is not finite."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_onecycle._lightning import Callback


class Diverged(RuntimeError):
    """The loss is not finite."""


class StopOnDivergence(Callback):
    """End the run with `Diverged` when the loss is no longer finite.

    On a GPU, where reading the loss waits for the device, it is checked every
    ``log_every_n_steps`` batches.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=StopOnDivergence(), logger=False)
    """

    takes_part_in_range_test = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Raise `Diverged` if the loss is not finite."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        every = 1 if pl_module.device.type == "cpu" else trainer.log_every_n_steps  # type: ignore[attr-defined]
        if loss is not None and batch_idx % every == 0 and not torch.isfinite(loss).all():
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            raise Diverged(
                f"the loss is {float(loss.mean())} after {trainer.global_step} optimizer steps, at"
                f" a learning rate of {float(lr):.3g}; try a lower optimizer.lr"
            )
