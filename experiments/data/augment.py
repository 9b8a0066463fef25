"""Random shifts, flips and cutout of a whole batch, drawn from a generator that is given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_onecycle._checks import whole


@dataclass(frozen=True)
class Augment:
    """Shift, flip and cut out each image of a batch at random.

    Images are expected to be standardized: what a shift uncovers and what cutout removes is zero,
    the mean of the data set. ``shift=4, flip=True`` is the standard for CIFAR-10
    (He et al. 2015, section 4.2); cutout is from DeVries & Taylor 2017.

    The random numbers come from ``generator`` alone and are drawn where it lives, so a generator
    on the CPU gives the same images on every device.

    Args:
        shift: Largest shift in pixels, up or down and left or right; each whole number in
            [-shift, shift] is equally likely.
        flip: Whether each image is mirrored left to right with probability 1/2.
        cutout: Side in pixels of a square that is set to zero. Its centre is anywhere in the
            image, so it may reach over the edge.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> Augment(shift=2, flip=True)(torch.zeros(8, 3, 32, 32), generator).shape
        torch.Size([8, 3, 32, 32])
    """

    shift: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "shift", whole("shift", self.shift, 0))
        object.__setattr__(self, "cutout", whole("cutout", self.cutout, 0))
        if not isinstance(self.flip, bool):
            raise ValueError(f"flip must be true or false, got {self.flip!r}")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the augmented images; ``x`` of shape (N, C, H, W) is left as it is."""
        if self.shift:
            x = _shift(x, self.shift, generator)
        if self.flip:
            x = _flip(x, generator)
        if self.cutout:
            x = _cutout(x, self.cutout, generator)
        return x


def _shift(x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Crop each image at an offset of its own from the batch with a border of ``most`` zeros."""
    images, channels, height, width = (torch.arange(n, device=x.device) for n in x.shape)
    down, right = _integers(2 * most + 1, (2, len(x)), generator).to(x.device)
    padded = F.pad(x, (most, most, most, most))
    return padded[
        images[:, None, None, None],
        channels[:, None, None],
        (down[:, None] + height)[:, None, :, None],
        (right[:, None] + width)[:, None, None, :],
    ]


def _flip(x: Tensor, generator: torch.Generator) -> Tensor:
    chosen = _integers(2, (len(x), 1, 1, 1), generator).to(x.device)
    return torch.where(chosen.bool(), x.flip(3), x)


def _cutout(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    height, width = x.shape[2:]
    top = (_integers(height, (len(x), 1), generator) - side // 2).to(x.device)
    left = (_integers(width, (len(x), 1), generator) - side // 2).to(x.device)
    row, column = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    rows = (row >= top) & (row < top + side)
    columns = (column >= left) & (column < left + side)
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _integers(below: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(below, shape, generator=generator, device=generator.device)
