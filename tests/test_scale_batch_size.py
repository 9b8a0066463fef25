"""The largest batch size: Lightning's search, without what it leaves behind."""

import functools

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, seed_everything
from torch.utils.data import DataLoader, TensorDataset

from conftest import quiet_trainer
from lightning_onecycle import OneCycle, Tuner


class Data(LightningDataModule):
    def __init__(self, batch_size=4):
        super().__init__()
        self.save_hyperparameters()
        self.batch_size = batch_size
        self.sizes = []

    def train_dataloader(self):
        self.sizes.append(self.batch_size)
        return DataLoader(TensorDataset(torch.randn(512, 4)), self.batch_size, shuffle=True)

    val_dataloader = train_dataloader


class Net(LightningModule):
    """Runs out of memory above a batch size; its hparams hold what no checkpoint can load."""

    def __init__(self, most=10**6):
        super().__init__()
        self.save_hyperparameters({"loss": functools.partial(torch.square), "most": most})
        self.net = torch.nn.Linear(4, 1)
        self.losses = []

    def training_step(self, batch, batch_idx):
        if len(batch[0]) > self.hparams.most:
            raise RuntimeError("CUDA out of memory.")
        loss = self.hparams.loss(self.net(batch[0])).mean()
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.net(batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Counts(Callback):
    calls = 0

    def setup(self, trainer, pl_module, stage):
        Counts.calls += 1


# Recent releases of Lightning take a margin off what a binary search has found.
@pytest.mark.parametrize(("mode", "sizes"), [("power", {32}), ("binsearch", {47, 49, 50})])
def test_the_largest_batch_size_is_found_and_set(mode, sizes, tmp_path):
    module, data = Net(most=50), Data()
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path)
    found = Tuner(trainer).scale_batch_size(module, datamodule=data, mode=mode)
    assert found in sizes
    assert found == data.batch_size == data.hparams.batch_size
    assert list(tmp_path.iterdir()) == []


def test_training_after_it_is_number_for_number_what_it_is_without_it(tmp_path):
    losses, found = [], 8
    for scales in (True, False):
        seed_everything(1, verbose=False)
        module, data = Net(), Data(found)
        trainer = quiet_trainer(OneCycle(), Counts(), max_epochs=2, default_root_dir=tmp_path)
        if scales:
            calls, callbacks = Counts.calls, list(trainer.callbacks)
            found = Tuner(trainer).scale_batch_size(module, datamodule=data, max_trials=3)
            assert found in (8, 16)  # Lightning before 2.6 finds the second
            assert (Counts.calls, trainer.callbacks) == (calls, callbacks)
            assert (data.sizes, module.losses, trainer.global_step) == ([], [], 0)
        trainer.fit(module, data)
        losses.append(module.losses)
    assert len(losses[0]) == 1024 // found
    assert losses[0] == losses[1]


def test_validation_has_a_batch_size_of_its_own():
    module, data = Net(), Data()
    found = Tuner(quiet_trainer()).scale_batch_size(
        module, datamodule=data, method="validate", max_trials=4
    )
    assert found == data.batch_size
    assert found in (16, 32)  # Lightning before 2.6 finds the second


def test_what_cannot_be_scaled_is_refused():
    tuner = Tuner(quiet_trainer(max_epochs=1))
    with pytest.raises(MisconfigurationException, match="dataloaders passed directly"):
        tuner.scale_batch_size(Net(), Data().train_dataloader())
    with pytest.raises(MisconfigurationException, match="Field size not found"):
        tuner.scale_batch_size(Net(), datamodule=Data(), batch_arg_name="size")
    with pytest.raises(TypeError, match="scale_batch_size has no argument trials"):
        tuner.scale_batch_size(Net(), datamodule=Data(), trials=3)
    with pytest.raises(TypeError, match="model must be a LightningModule"):
        tuner.scale_batch_size(torch.nn.Linear(1, 1))
