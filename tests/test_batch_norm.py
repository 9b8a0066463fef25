import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_onecycle import BatchNormRecalibration

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "accelerator": "cpu",
}


class Net(LightningModule):
    """A network with batch normalization and dropout, which draws random numbers in training."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)
        )
        self.losses = []
        self.means_at_validation = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        self.means_at_validation.append(self.net[1].running_mean.clone())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def samples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, generator=generator) + 3
    return TensorDataset(x, (x.sum(1) > 12).long())


def fit(callbacks, loader=None):
    seed_everything(1, verbose=False)
    net = Net()
    if loader is None:
        loader = DataLoader(samples(), batch_size=8, shuffle=True)
    validation = DataLoader(samples(), batch_size=64)
    Trainer(max_epochs=2, callbacks=callbacks, **QUIET).fit(net, loader, validation)
    return net


def test_statistics_are_those_of_the_training_data_under_the_present_weights():
    net = fit([BatchNormRecalibration(num_batches=8)])
    with torch.no_grad():
        before_norm = net.net[0](samples().tensors[0])
    # Eight batches of eight are the whole of the data, so the mean of their means is its mean.
    torch.testing.assert_close(net.net[1].running_mean, before_norm.mean(0))
    assert not torch.allclose(fit([]).net[1].running_mean, before_norm.mean(0), rtol=0.05)


def test_training_is_the_same_with_it_and_without_it():
    without, recalibrated = fit([]), fit([BatchNormRecalibration(3)])
    assert recalibrated.losses == without.losses
    for ours, theirs in zip(recalibrated.parameters(), without.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_same_data_is_used_each_time():
    first, second = fit([BatchNormRecalibration(2)]), fit([BatchNormRecalibration(2)])
    for ours, theirs in zip(first.means_at_validation, second.means_at_validation, strict=True):
        assert torch.equal(ours, theirs)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(samples())


def test_a_stream_is_left_alone_and_that_is_said(said):
    net = fit([BatchNormRecalibration()], DataLoader(Stream(), batch_size=8))
    assert torch.equal(net.net[1].running_mean, net.means_at_validation[-1])
    assert " ".join(said()).count("BatchNormRecalibration does nothing") == 1


def test_bad_number_of_batches():
    with pytest.raises(ValueError, match="num_batches must be a whole number >= 1, got 0"):
        BatchNormRecalibration(0)


class Frozen(Net):
    """Trains with fixed statistics, as one does when finetuning."""

    def on_train_batch_start(self, batch, batch_idx):
        self.net[1].eval()


def test_a_layer_with_fixed_statistics_keeps_them():
    seed_everything(1, verbose=False)
    net = Frozen()
    torch.nn.init.constant_(net.net[1].running_mean, 7.0)
    loader = DataLoader(samples(), batch_size=8)
    Trainer(max_epochs=2, callbacks=BatchNormRecalibration(), **QUIET).fit(net, loader, loader)
    assert (net.net[1].running_mean == 7.0).all()


def test_only_the_samples_of_the_sampler_are_used():
    chosen = list(range(0, 32, 2))
    sampler = SubsetRandomSampler(chosen)
    net = fit([BatchNormRecalibration(99)], DataLoader(samples(), batch_size=8, sampler=sampler))
    with torch.no_grad():
        expected = net.net[0](samples().tensors[0][chosen]).mean(0)
    torch.testing.assert_close(net.net[1].running_mean, expected)


def test_a_sampler_that_is_not_known_is_left_alone():
    sampler = WeightedRandomSampler([1.0] * 64, 64)
    loader = DataLoader(samples(), batch_size=8, sampler=sampler)
    net = fit([BatchNormRecalibration()], loader)
    assert net.net[1].num_batches_tracked == 16  # of training, and not anew


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "bf16-mixed"])
def test_in_the_precision_of_the_training(precision):
    net = Net()
    loader = DataLoader(samples(), batch_size=8)
    callback = BatchNormRecalibration(8)
    Trainer(max_epochs=1, callbacks=callback, precision=precision, **QUIET).fit(net, loader, loader)
    assert net.net[1].running_mean.isfinite().all()


class NoForward(Net):
    forward = LightningModule.forward

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        pass


def test_a_module_without_forward_is_left_alone():
    loader = DataLoader(samples(), batch_size=8)
    net = NoForward()
    Trainer(max_epochs=1, callbacks=BatchNormRecalibration(), **QUIET).fit(net, loader, loader)
    assert net.net[1].num_batches_tracked == 8
