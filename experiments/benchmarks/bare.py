"""Training in a loop as short as PyTorch allows, which the benchmarks hold trainers against."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from experiments.data.base import InMemoryDataModule
from experiments.data.loader import Batch


def batches(data: InMemoryDataModule) -> Iterator[Batch]:
    """Yield the training batches as a net gets them, epoch after epoch."""
    while True:
        for batch in data.train_dataloader():
            yield data.on_after_batch_transfer(batch, 0)


def train(
    net: nn.Module, optimizer: Optimizer, data: InMemoryDataModule, steps: int
) -> Iterator[Tensor]:
    """Take optimizer steps, and yield the loss after each of them."""
    net.train()
    # The number first: a batch too many would be read otherwise.
    for _, (images, labels) in zip(range(steps), batches(data), strict=False):
        optimizer.zero_grad()
        loss = cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        yield loss
