"""A run that is interrupted at a certain batch ends as it would have ended; in this process."""

import signal
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from conftest import quiet_trainer
from experiments.data import Digits
from experiments.interrupt import SaveOnInterrupt, signals_taken
from experiments.models import MLP
from experiments.task import Classifier
from lightning_onecycle import BatchNormRecalibration, GeneralizationGap, OneCycle
from lightning_onecycle.sweep.processes import signals_of_the_end

EPOCHS, BATCHES = 2, 4


class TermAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)


def train(*callbacks, checkpoint=None):
    """Fit and test; return the metrics of both."""
    seed_everything(0, verbose=False)
    module = Classifier(MLP((1, 8, 8), 10), partial(torch.optim.SGD, lr=0.1, momentum=0.9), 10)
    trainer = quiet_trainer(
        OneCycle(),
        BatchNormRecalibration(num_batches=2),
        GeneralizationGap(),
        *callbacks,
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
        max_epochs=EPOCHS,
        limit_train_batches=BATCHES,
        limit_val_batches=1,
        limit_test_batches=1,
        num_sanity_val_steps=0,
    )
    data = Digits(batch_size=64, num_val=300, shape=(1, 8, 8), num_classes=10)
    trainer.fit(module, data, ckpt_path=checkpoint)
    metrics = dict(trainer.callback_metrics)
    trainer.test(module, data, verbose=False)
    return metrics | trainer.callback_metrics


@pytest.fixture(scope="module")
def uninterrupted():
    return train()


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    raises = TermAt(1)
    raises.on_train_batch_start = lambda *_: signal.raise_signal(signal.SIGINT)
    try:
        train(raises, SaveOnInterrupt(tmp_path / "last.ckpt"))
        assert signals_of_the_end() == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGINT, previous)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", [1, BATCHES - 1, BATCHES, EPOCHS * BATCHES - 2])
def test_a_signal_at_any_batch_costs_nothing(tmp_path, uninterrupted, step):
    path = tmp_path / "last.ckpt"
    with signals_taken(), pytest.raises(SIGTERMException):
        train(TermAt(step), SaveOnInterrupt(path))
    assert torch.load(path, weights_only=True)["global_step"] == step + 1
    assert train(checkpoint=path) == uninterrupted


def test_a_signal_at_the_last_batch_of_all_waits_for_its_validation(tmp_path, uninterrupted):
    path = tmp_path / "last.ckpt"
    validated = []

    class Validated(Callback):
        def on_validation_end(self, trainer, pl_module):
            validated.append(trainer.global_step)

    with signals_taken(), pytest.raises(SIGTERMException):
        train(Validated(), TermAt(EPOCHS * BATCHES - 1), SaveOnInterrupt(path))
    assert validated == [BATCHES, EPOCHS * BATCHES]
    # Only the test is left; its weights are those that were recalibrated for the validation.
    metrics = train(checkpoint=path)
    assert {name: metrics[name] for name in ("test/loss", "test/acc")} == {
        name: uninterrupted[name] for name in ("test/loss", "test/acc")
    }


def test_an_epoch_behind_a_checkpoint_reports_its_own_training_loss(tmp_path, uninterrupted):
    checkpoints = ModelCheckpoint(tmp_path, save_top_k=-1, save_on_train_epoch_end=True)
    train(checkpoints)
    (first,) = tmp_path.glob("epoch=0*.ckpt")
    assert train(checkpoint=first) == uninterrupted
