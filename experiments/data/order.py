"""Orders that can be repeated: of the split, and of the training images in each epoch."""

from __future__ import annotations

import numpy as np
from lightning.pytorch import Trainer
from torch.utils.data import DistributedSampler

from experiments.data.loader import Batch


def balanced_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return a random order of the samples in which every prefix has the classes in proportion.

    So all parts cut from it, one after the other, are stratified. The i-th of the n samples of a
    class has its place at (i + 1/2) / n; places that are equal come in random order.

    Args:
        labels: The class of each sample, shape (N,).
        seed: Seed of the order.

    Returns:
        Indices, shape (N,).

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
        >>> order = balanced_order(labels, seed=0)
        >>> [int(labels[order[:n]].sum()) for n in (2, 4, 6, 8)]
        [1, 2, 3, 4]
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels[order] == label)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(place, kind="stable")]


class TrainingOrder(DistributedSampler[Batch]):
    """A random order that follows from the seed and the epoch, shared out among the devices.

    Within a trainer the epoch is ``trainer.current_epoch``. Lightning passes ``set_epoch`` another
    count, which is one too many once a run with ``max_steps`` was resumed from an epoch's end.
    """

    trainer: Trainer | None = None

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch: to the trainer's, if there is one, else to ``epoch``."""
        super().set_epoch(self.trainer.current_epoch if self.trainer else epoch)


def mix_seeds(*numbers: int) -> int:
    """Turn whole numbers into one seed, so that neighbours have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
