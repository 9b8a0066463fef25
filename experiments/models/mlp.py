"""A multilayer perceptron: the smallest model that batch norm and depth can be tried on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from lightning_onecycle._checks import whole


class MLP(nn.Module):
    """Fully connected layers with ReLU, and batch norm (Ioffe & Szegedy 2015) before each ReLU.

    With the defaults 51,210 parameters on 8x8 pixels, 235,530 on 28x28.

    Args:
        shape: Channels, height and width of an image.
        num_classes: Number of outputs.
        hidden: Units of each hidden layer; none makes it a linear model.
        batch_norm: Whether hidden layers have batch norm.

    Example:
        >>> import torch
        >>> model = MLP((1, 8, 8), 10)
        >>> sum(p.numel() for p in model.parameters())
        51210
        >>> model(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        hidden: Sequence[int] = (256, 128),
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(hidden, Sequence) or isinstance(hidden, str):
            raise ValueError(f"hidden must be a list of whole numbers, got {hidden!r}")
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = math.prod(shape)
        for units in hidden:
            units = whole("hidden", units, 1)
            # The shift of the batch norm is the bias.
            layers.append(nn.Linear(inputs, units, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm1d(units))
            layers.append(nn.ReLU(inplace=True))
            inputs = units
        layers.append(nn.Linear(inputs, whole("num_classes", num_classes, 1)))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape (N, C, H, W) to logits of shape (N, num_classes)."""
        return self.layers(x)
