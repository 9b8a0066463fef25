"""The trainers of short trainings, many of them in a row."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


def quiet_trainer(*callbacks: Callback, **options: Any) -> Trainer:
    """Return a trainer for one CPU that writes nothing and prints nothing.

    Args:
        *callbacks: The trainer's.
        **options: Arguments of the trainer; they take precedence.
    """
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(callbacks=list(callbacks), **defaults | options)


class EndAtNaN(Callback):
    """End a training whose loss is no number any more, without an error."""

    diverged = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Stop where the loss is not finite."""
        if not math.isfinite(float(outputs["loss"])):
            self.diverged = trainer.should_stop = True
