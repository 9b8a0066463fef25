"""The task of ``train.py``: its metrics are those of whole epochs, also of an interrupted one."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import SGD

from experiments.data import Digits
from experiments.models import MLP
from experiments.task import Classifier

STEPS = 5  # of an epoch
METRICS = ("train/loss", "train/acc", "val/loss", "val/acc")


class Losses(Callback):
    """Keeps the loss of each batch and the metrics of each epoch; saves a checkpoint at a step."""

    def __init__(self, save_at=None, path=None):
        self.of_batches, self.of_epochs = [], []
        self.save_at, self.path = save_at, path

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        self.of_batches.append(float(outputs["loss"]))
        if trainer.global_step == self.save_at:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer, pl_module):
        found = trainer.callback_metrics
        self.of_epochs.append({name: float(found[name]) for name in METRICS})


def fit(epochs, losses, path=None):
    torch.manual_seed(0)
    data = Digits(batch_size=40, num_val=40, train_size=40 * STEPS, seed=1)
    task = Classifier(MLP((1, 8, 8), 10), partial(SGD, lr=0.1), 10)
    trainer = Trainer(
        max_epochs=epochs,
        callbacks=losses,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(task, data, ckpt_path=path)
    return losses


def test_the_metrics_of_an_epoch_are_means_over_its_batches():
    losses = fit(3, Losses())
    for epoch, metrics in enumerate(losses.of_epochs):
        batches = losses.of_batches[epoch * STEPS : (epoch + 1) * STEPS]
        assert metrics["train/loss"] == pytest.approx(sum(batches) / STEPS, rel=1e-5)
    first, _, last = losses.of_epochs
    assert last["train/acc"] > first["train/acc"]


@pytest.mark.parametrize("steps", [1, STEPS - 1, STEPS + 2])
def test_an_epoch_resumed_in_its_middle_reports_all_of_its_batches(steps, tmp_path):
    path = tmp_path / "middle.ckpt"
    whole = fit(2, Losses(steps, path)).of_epochs
    rest = fit(2, Losses(), path).of_epochs
    assert len(rest) == 2 - steps // STEPS
    for metrics, expected in zip(rest, whole[-len(rest) :], strict=True):
        assert metrics == pytest.approx(expected, rel=1e-5)
