"""The handwritten digits that come with scikit-learn: no download."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from experiments.data.base import Images, InMemoryDataModule
from experiments.data.order import balanced_order


class Digits(InMemoryDataModule):
    """Handwritten digits, 8x8 pixels of 17 grey values (scikit-learn's ``load_digits``).

    1,797 images: 300 are for the test, ``num_val`` for validation, the rest for training.
    """

    MEAN = (0.3053,)
    STD = (0.3761,)
    LARGEST = 16.0
    NUM_TEST = 300

    def __init__(
        self,
        *,
        num_val: int = 300,
        shape: tuple[int, ...] = (1, 8, 8),
        num_classes: int = 10,
        **arguments: Any,
    ) -> None:
        super().__init__(num_val=num_val, shape=shape, num_classes=num_classes, **arguments)

    def read(self) -> tuple[Images, Images]:
        """Return the images to train and validate on, and the test images."""
        images, labels = _digits()
        order = torch.from_numpy(balanced_order(labels.numpy(), self.split_seed))
        test, rest = order[: self.NUM_TEST], order[self.NUM_TEST :]
        return (images[rest], labels[rest]), (images[test], labels[test])


@lru_cache(maxsize=1)
def _digits() -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1)
    return images, torch.from_numpy(digits.target.astype(np.int64))
