"""In other people's projects: LightningCLI on a command line and in YAML, Fabric."""

import pytest
import torch
from lightning.fabric import Fabric

from conftest import python
from lightning_onecycle import ScheduleLR, one_cycle

MAIN = """
import torch
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning_onecycle import ScheduleCallback


class Model(BoringModel):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def on_train_start(self):
        (callback,) = (c for c in self.trainer.callbacks if isinstance(c, ScheduleCallback))
        (scheduler,) = callback.schedulers
        print("SAYS", scheduler.max_lrs, scheduler.total_steps, callback.schedule.peak_momentum)


if __name__ == "__main__":
    LightningCLI(Model, BoringDataModule)
"""
YAML = """
trainer:
  callbacks:
    - class_path: lightning_onecycle.OneCycle
      init_args:
        max_lr: 0.4
        cycle_momentum: false
    - class_path: lightning_onecycle.BatchNormRecalibration
"""


def fit(folder, *options):
    quiet = ("logger=false", "enable_progress_bar=false", "enable_checkpointing=false")
    always = ("max_epochs=1", "accelerator=cpu", *quiet)
    (line,) = python(folder, MAIN, "fit", *(f"--trainer.{option}" for option in always), *options)
    return line


@pytest.mark.slow
def test_lightning_cli_on_the_command_line(tmp_path):
    pytest.importorskip("jsonargparse")
    line = fit(
        tmp_path,
        "--trainer.callbacks+=lightning_onecycle.OneCycle",
        "--trainer.callbacks.max_lr=0.4",
    )
    assert line == "SAYS [0.4] 64 0.85"  # BoringModel has 64 batches


def test_lightning_cli_in_yaml(tmp_path):
    pytest.importorskip("jsonargparse")
    (tmp_path / "onecycle.yaml").write_text(YAML)
    assert fit(tmp_path, "--config=onecycle.yaml") == "SAYS [0.4] 64 None"


@pytest.mark.parametrize("order", ["before setup", "after setup"])
def test_fabric(order):
    fabric = Fabric(accelerator="cpu", devices=1)
    net = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    if order == "before setup":
        ScheduleLR(optimizer, one_cycle(), total_steps=100)
    net, optimizer = fabric.setup(net, optimizer)
    if order == "after setup":
        ScheduleLR(optimizer, one_cycle(), total_steps=100)
    used = []
    for _ in range(100):
        optimizer.zero_grad()
        fabric.backward(net(torch.randn(16, 8)).square().mean())
        used.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
    for pair, point in zip(used, one_cycle().trace(100), strict=True):
        assert pair == pytest.approx((0.1 * point.lr, point.momentum))
