import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import nn

from conftest import loader, quiet_trainer
from lightning_onecycle import LRFinder, OneCycle

RANGE = {"min_lr": 1e-4, "max_lr": 10.0, "num_training": 60}


class Line(LightningModule):
    """Fits a line; its loss falls and then blows up as the learning rate rises."""

    def __init__(self, activation=nn.Identity, scale=1.0, lr=0.05):
        super().__init__()
        self.save_hyperparameters("scale")
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 4), activation(), nn.Linear(4, 1))
        self.lr = lr

    def training_step(self, batch, batch_idx):
        generator = torch.Generator().manual_seed(batch_idx)
        x = torch.randn(64, 4, generator=generator)
        return (self.net(x) - x.sum(1, keepdim=True)).square().mean() * self.hparams.scale

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def fit(finder, module=None, **arguments):
    schedule = OneCycle()
    trainer = quiet_trainer(finder, schedule, max_epochs=1, **arguments)
    trainer.fit(module or Line(), loader(20))
    return schedule


def test_the_peak_goes_to_the_schedule_of_every_trainer():
    finder = LRFinder(**RANGE)
    first = fit(finder)
    assert first.max_lr == finder.max_lr == finder.curve.suggestion()
    second = fit(finder, Line(lr=0.9))
    assert second.max_lr == finder.max_lr


@pytest.mark.parametrize(
    ("module", "arguments", "line"),
    [
        (Line(activation=nn.Tanh), {}, "architecture: "),
        (Line(scale=2.0), {}, "hparams.scale: 1.0, now 2.0"),
        (Line(), {"limit_train_batches": 1}, "limit_train_batches: 1.0, now 1"),
    ],
    ids=["another activation", "another scale", "one batch, not all"],
)
def test_a_curve_of_another_task_is_refused(module, arguments, line):
    finder = LRFinder(**RANGE)
    fit(finder)
    fit(LRFinder(finder.curve))
    with pytest.raises(MisconfigurationException, match=line):
        fit(LRFinder(finder.curve), module, **arguments)


def test_bad_arguments_are_refused_where_they_are_given():
    with pytest.raises(ValueError, match=r"method must be one of 'max_lr', .*, got 'best'"):
        LRFinder(method="best")
    with pytest.raises(TypeError, match="curve must be an LRCurve or a path, got int"):
        LRFinder(5)
