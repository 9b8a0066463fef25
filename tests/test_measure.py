import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from lightning_onecycle import GeneralizationGap
from lightning_onecycle.measure.generalization import generalization_gap, onset


@pytest.mark.parametrize(
    ("metrics", "gaps"),
    [
        ({"train/loss": 0.25, "val/loss": 0.5}, {"gap/loss": 0.25}),
        ({"train/acc": 0.75, "val/acc": 0.5}, {"gap/acc": 0.25}),
        ({"train/loss": 1.0, "val/acc": 0.5}, {}),
        (
            {"train/loss": 1.0, "val/loss": 0.5, "train/acc": 0.5, "val/acc": 1.0},
            {"gap/loss": -0.5, "gap/acc": -0.5},
        ),
    ],
)
def test_generalization_gap(metrics, gaps):
    assert generalization_gap(metrics) == gaps


@pytest.mark.parametrize(
    ("train", "val", "rise", "epoch"),
    [
        ([5.0, 4.0, 3.0, 2.0, 1.0], [5.0, 4.0, 3.0, 3.5, 4.0], 0.01, 2),
        ([5.0, 4.0, 3.0, 2.0, 1.0], [5.0, 4.0, 3.0, 3.5, 4.0], 0.34, None),  # it rose by a third
        ([5.0, 4.0, 3.0, 2.0, 1.0], [5.0, 4.0, 3.0, 3.5, 4.0], 0.33, 2),
        ([5.0, 4.0, 3.0, 2.0, 1.0], [5.0, 3.0, 6.0, 3.0, 4.0], 0.01, 3),  # the last of two
        ([3.0, 2.0, 1.0], [3.0, 2.0, 1.0], 0.0, None),  # it is lowest at the end
        ([3.0, 1.0, 2.0], [3.0, 1.0, 2.0], 0.0, None),  # the training loss rises too
        ([1.0], [1.0], 0.0, None),
    ],
)
def test_onset_of_over_fitting(train, val, rise, epoch):
    assert onset(train, val, rise) == epoch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [1.0, 2.0]), "train and val must have a loss for each epoch, got 1 and 2"),
        (([], []), "train and val must have a loss for each epoch, got 0 and 0"),
        (([1.0], [1.0], -0.5), "rise must be >= 0, got -0.5"),
    ],
)
def test_onset_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        onset(*arguments)


class Fixed(LightningModule):
    """Its training loss is 1, 2, ... by epoch, and its validation loss always 5."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        loss = self.weight * 0 + self.current_epoch + 1
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", 5.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_callback_logs_the_gap_of_the_epoch_that_ends():
    loader = DataLoader(torch.zeros(4, 1), batch_size=2)
    trainer = Trainer(
        max_epochs=3,
        callbacks=GeneralizationGap(),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(Fixed(), loader, loader)
    assert trainer.callback_metrics["gap/loss"] == 2.0


def test_an_epoch_without_validation_has_no_gap():
    seen = []

    class Seen(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(float(trainer.callback_metrics.get("gap/loss", float("nan"))))

    loader = DataLoader(torch.zeros(4, 1), batch_size=2)
    trainer = Trainer(
        max_epochs=4,
        check_val_every_n_epoch=2,
        callbacks=[GeneralizationGap(), Seen()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(Fixed(), loader, loader)
    assert seen[1:] == [3.0, 3.0, 1.0]  # of epochs 2 and 4, not of 3
