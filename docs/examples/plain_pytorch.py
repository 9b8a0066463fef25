"""1cycle in a loop of plain PyTorch; and the same run, interrupted and resumed from a checkpoint.

``python plain_pytorch.py`` finds the same weights both ways.
"""

from __future__ import annotations

import io

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_onecycle import ScheduleLR, one_cycle

STEPS = 200
inputs = torch.randn(512, 20, generator=torch.Generator().manual_seed(0))
labels = inputs[:, :4].argmax(1)


def build() -> tuple[nn.Module, torch.optim.Optimizer, ScheduleLR]:
    """Return a network, its optimizer, and the schedule, whose peak is the optimizer's ``lr``."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    return net, optimizer, ScheduleLR(optimizer, one_cycle(), total_steps=STEPS)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Take these steps; the schedule counts them by itself."""
    for step in steps:
        batch = torch.arange(step * 64, (step + 1) * 64) % len(inputs)
        optimizer.zero_grad()
        cross_entropy(net(inputs[batch]), labels[batch]).backward()
        optimizer.step()


# The whole run.
net, optimizer, scheduler = build()
train(net, optimizer, range(STEPS))
accuracy = (net(inputs).argmax(1) == labels).float().mean().item()
print(f"{scheduler.last_epoch} steps, training accuracy {accuracy:.1%}")
whole = net.state_dict()

# The run is interrupted after 80 steps; all that it needs is in a checkpoint.
net, optimizer, scheduler = build()
train(net, optimizer, range(80))
parts = {"net": net, "optimizer": optimizer, "scheduler": scheduler}
checkpoint = io.BytesIO()
torch.save({name: part.state_dict() for name, part in parts.items()}, checkpoint)

# And goes on where it was.
checkpoint.seek(0)
net, optimizer, scheduler = build()
parts = {"net": net, "optimizer": optimizer, "scheduler": scheduler}
for name, state in torch.load(checkpoint, weights_only=True).items():
    parts[name].load_state_dict(state)
train(net, optimizer, range(scheduler.last_epoch, STEPS))
same = all(torch.equal(value, whole[name]) for name, value in net.state_dict().items())
print(f"{scheduler.last_epoch} steps, the same weights: {same}")
