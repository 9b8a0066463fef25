"""1cycle in a loop of Lightning Fabric, with a resume in the middle: ``python fabric.py``."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_onecycle import ScheduleLR, one_cycle

EPOCHS = 5

fabric = Fabric(accelerator="cpu", devices=1)
fabric.seed_everything(0, verbose=False)
inputs = torch.randn(512, 20)
dataset = TensorDataset(inputs, inputs[:, :4].argmax(1))
loader = fabric.setup_dataloaders(DataLoader(dataset, batch_size=32, shuffle=True))


def build() -> dict[str, Any]:
    """Return what trains and what a checkpoint keeps: network, optimizer and schedule."""
    net = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    net, optimizer = fabric.setup(net, optimizer)
    scheduler = ScheduleLR(optimizer, one_cycle(), total_steps=EPOCHS * len(loader))
    return {"net": net, "optimizer": optimizer, "scheduler": scheduler}


def train(state: dict[str, Any], epochs: range) -> None:
    """Train; the schedule counts the optimizer's steps by itself."""
    for _ in epochs:
        for batch, labels in loader:
            state["optimizer"].zero_grad()
            fabric.backward(cross_entropy(state["net"](batch), labels))
            state["optimizer"].step()
        scheduler = state["scheduler"]
        print(f"step {scheduler.last_epoch}: learning rate {scheduler.get_last_lr()[0]:.3g}")


with tempfile.TemporaryDirectory() as folder:
    state = build()
    train(state, range(3))
    fabric.save(f"{folder}/last.ckpt", state)

    state = build()
    fabric.load(f"{folder}/last.ckpt", state)
    train(state, range(3, EPOCHS))
