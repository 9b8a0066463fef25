"""The gradient noise scale: its formula, its estimate, and what is logged of it."""

import math

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from conftest import quiet_trainer
from lightning_onecycle import GradientNoiseScale, NoiseScale, OneCycle, simple_noise_scale
from lightning_onecycle.measure import noise_factor


@pytest.mark.parametrize(
    ("trace", "grad_sq", "small", "big"),
    [(8.0, 2.0, 2, 8), (8.0, 0.0, 1, 2), (0.0, 3.0, 16, 1024), (5.5, 0.25, 3, 7)],
)
def test_what_the_norms_are_made_of_is_found_again(trace, grad_sq, small, big):
    norms = (grad_sq + trace / small, grad_sq + trace / big)
    assert simple_noise_scale(*norms, small, big) == pytest.approx((trace, grad_sq))


def test_value_is_the_ratio_and_infinite_without_a_gradient():
    assert NoiseScale(trace=6.0, grad_sq=1.5).value == 4.0
    assert NoiseScale(trace=6.0, grad_sq=0.0).value == math.inf
    assert NoiseScale(trace=6.0, grad_sq=-0.1).value == math.inf


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0, 1.0, 2, 4), "small_sq must be >= 0, got -1.0"),
        ((1.0, math.nan, 2, 4), "big_sq must be >= 0, got nan"),
        ((1.0, 1.0, 0, 4), "small_batch must be > 0, got 0"),
        ((1.0, 1.0, 4, 4), "big_batch must be > small_batch=4, got 4"),
    ],
)
def test_bad_norms_and_batches_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simple_noise_scale(*arguments)


def test_noise_factor():
    assert noise_factor(0.4, 128) == 0.003125
    assert noise_factor(0.4, 128, momentum=0.9) == pytest.approx(0.03125)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1.0"):
        noise_factor(0.4, 128, momentum=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps must be a whole number >= 1, got 0"),
        ({"num_parts": 1}, "num_parts must be a whole number >= 2, got 1"),
        ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GradientNoiseScale(**arguments)


# ---- in a trainer --------------------------------------------------------------------------------


class Linear(LightningModule):
    """Its loss is the mean of x . w, so the gradient of an example is x, whatever the weights."""

    def __init__(self, lr=0.1, momentum=0.5):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(64))
        self.lr, self.momentum = lr, momentum

    def training_step(self, batch, batch_idx):
        (x,) = batch
        return (x @ self.weight).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum)


class Gaussian(Dataset):
    """Gradients with a known mean and covariance."""

    MEAN = torch.linspace(-0.4, 0.4, 64)
    STD = torch.linspace(0.1, 2.0, 64)

    def __init__(self, samples, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.x = self.MEAN + self.STD * torch.randn(samples, 64, generator=generator)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return (self.x[index],)


class Measured(Callback):
    """What the callback has found at each batch; a copy of ``latest``."""

    def __init__(self, callback):
        self.callback, self.found = callback, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.found.append(dict(self.callback.latest))


def fit(callback, data, module=None, batch_size=32, **arguments):
    """Return what was found at each batch."""
    measured = Measured(callback)
    trainer = quiet_trainer(callback, measured, **({"max_epochs": 1} | arguments))
    loader = DataLoader(data, batch_size=batch_size)
    trainer.fit(Linear() if module is None else module, loader)
    return measured.found


@pytest.mark.parametrize("num_parts", [2, 8])
def test_known_covariance_is_found_within_a_few_per_cent(num_parts):
    data = Gaussian(32 * 1000)
    callback = GradientNoiseScale(every_n_steps=1, num_parts=num_parts, decay=0.999)
    last = fit(callback, data)[-1]
    trace, grad_sq = float((data.STD**2).sum()), float((data.MEAN**2).sum())
    assert last["measure/grad_variance"] == pytest.approx(trace, rel=0.03)
    assert last["measure/grad_sq"] == pytest.approx(grad_sq, rel=0.05)
    assert last["measure/noise_scale"] == pytest.approx(trace / grad_sq, rel=0.05)


def test_one_estimate_is_that_of_the_examples():
    """With a part for each example, it is the unbiased covariance of the batch itself."""
    data = Gaussian(32)
    (found,) = fit(GradientNoiseScale(num_parts=32), data)
    trace = float(data.x.var(0).sum())
    assert found["measure/grad_variance"] == pytest.approx(trace, rel=1e-5)
    grad_sq = float((data.x.mean(0) ** 2).sum()) - trace / 32
    assert found["measure/grad_sq"] == pytest.approx(grad_sq, rel=1e-4)


def test_estimates_are_averaged_with_a_corrected_start():
    data = Gaussian(32 * 3)
    now = fit(GradientNoiseScale(1, decay=0.0), data)
    mean = fit(GradientNoiseScale(1, decay=0.5), data)
    for tag in ("measure/grad_variance", "measure/grad_sq"):
        first, second, third = (found[tag] for found in now)
        assert mean[0][tag] == pytest.approx(first)
        assert mean[1][tag] == pytest.approx((first + 2 * second) / 3)
        assert mean[2][tag] == pytest.approx((first + 2 * second + 4 * third) / 7)
    last = mean[-1]
    ratio = last["measure/grad_variance"] / last["measure/grad_sq"]
    assert last["measure/noise_scale"] == pytest.approx(ratio)


def test_noise_is_lr_times_variance_over_batch():
    module = Linear(lr=0.2, momentum=0.75)
    found = fit(GradientNoiseScale(1), Gaussian(96), module, accumulate_grad_batches=3)[0]
    assert found["measure/noise_factor"] == pytest.approx(0.2 / 96)
    assert found["measure/noise_factor_momentum"] == pytest.approx(0.8 / 96)
    expected = 0.2 / 96 * found["measure/grad_variance"]
    assert found["measure/sgd_noise"] == pytest.approx(expected)


def test_noise_factor_follows_the_schedule():
    callback, schedule = GradientNoiseScale(1), OneCycle(max_lr=0.4, cycle_momentum=False)
    measured = Measured(callback)
    trainer = quiet_trainer(schedule, callback, measured, max_epochs=1)
    trainer.fit(Linear(), DataLoader(Gaussian(32 * 11), batch_size=32))
    factors = [found["measure/noise_factor"] for found in measured.found]
    points = schedule.schedule.trace(11)
    assert factors == pytest.approx([0.4 * point.lr / 32 for point in points])


def test_an_optimizer_without_momentum_has_no_factor_with_it():
    module = Linear()
    module.configure_optimizers = lambda: torch.optim.Adagrad(module.parameters(), lr=0.1)
    (found,) = fit(GradientNoiseScale(), Gaussian(32), module)
    assert "measure/noise_factor_momentum" not in found
    assert found["measure/noise_factor"] == pytest.approx(0.1 / 32)


def test_a_batch_smaller_than_its_parts_is_not_measured():
    found = fit(GradientNoiseScale(1, num_parts=8), Gaussian(32 + 7))
    assert found[0]
    assert not found[1]


class Other(TensorDataset):
    def __getitem__(self, index):
        return {"x": self.tensors[0][index], "name": f"sample {index}"}


def test_a_batch_that_cannot_be_split_is_told_once():
    module = Linear()
    module.training_step = lambda batch, batch_idx: (batch["x"] @ module.weight).mean()
    data = Other(torch.ones(64, 64))
    with pytest.warns(UserWarning, match="GradientNoiseScale measures nothing") as warned:
        found = fit(GradientNoiseScale(1), data, module, batch_size=16)
    assert not any(found)
    assert len([w for w in warned if "measures nothing" in str(w.message)]) == 1


class Nested(TensorDataset):
    def __getitem__(self, index):
        x = self.tensors[0][index]
        return {"views": [x[:2], x[2:]], "label": torch.zeros(())}


def test_a_nested_batch_is_split():
    class Views(Linear):
        def training_step(self, batch):
            assert len(batch["label"]) == len(batch["views"][0])
            return {"loss": (torch.cat(batch["views"], 1) @ self.weight).mean()}

    data = Gaussian(32)
    (plain,) = fit(GradientNoiseScale(), data)
    (nested,) = fit(GradientNoiseScale(), Nested(data.x), Views())
    assert nested == pytest.approx(plain)


class BatchNorm(Linear):
    """A part has statistics of its own, and with dropout its own mask: still an estimate."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, 8),
            nn.BatchNorm1d(8),
            nn.Dropout(),
            nn.Linear(8, 1),
        )

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()


def test_a_part_of_one_sample_has_no_statistics():
    data = Gaussian(8)
    assert not any(fit(GradientNoiseScale(1, num_parts=4), data, BatchNorm(), batch_size=4))
    assert all(fit(GradientNoiseScale(1, num_parts=2), data, BatchNorm(), batch_size=4))


def test_a_frozen_layer_has_no_part_in_it():
    seed_everything(0, verbose=False)
    module = BatchNorm()
    module.net[0].requires_grad_(False)
    (found,) = fit(GradientNoiseScale(), Gaussian(32), module)
    assert found["measure/grad_variance"] > 0


def test_the_logged_point_stands_at_the_step_that_follows(tmp_path):
    logger = CSVLogger(tmp_path)
    # Whatever interval the trainer logs at.
    found = fit(GradientNoiseScale(2), Gaussian(32 * 5), logger=logger, log_every_n_steps=1000)
    logger.save()
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    points = [dict(zip(names, row.split(","), strict=True)) for row in rows[1:]]
    tag = "measure/noise_scale"
    scales = {int(point["step"]): float(point[tag]) for point in points if point[tag]}
    assert list(scales) == [0, 2, 4]
    assert scales == pytest.approx({step: found[step][tag] for step in scales})
