"""LeNet as Caffe has it: the model of the MNIST rows in Smith's tables."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_onecycle._checks import whole

KERNEL = 5
SMALLEST = 16  # pixels: what two convolutions and two poolings reduce to one


class LeNet(nn.Module):
    """Two convolutions with max pooling, and two linear layers (Caffe's ``examples/mnist/lenet``).

    As there, the only ReLU follows the hidden linear layer, weights are uniform in
    +-sqrt(3 / inputs) (Caffe's "xavier") and biases begin at 0. 431,080 parameters on 28x28
    pixels in grey.

    Args:
        shape: Channels, height and width of an image, at least 16 x 16.
        num_classes: Number of outputs.

    Raises:
        ValueError: The image is too small.

    Example:
        >>> import torch
        >>> model = LeNet((1, 28, 28), 10)
        >>> sum(p.numel() for p in model.parameters())
        431080
        >>> model(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        if min(height, width) < SMALLEST:
            raise ValueError(
                f"shape must be at least {SMALLEST} x {SMALLEST} pixels, got {list(shape)}"
            )
        pixels = _reduced(_reduced(height)) * _reduced(_reduced(width))
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 20, KERNEL),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, KERNEL),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(50 * pixels, 500),
            nn.ReLU(inplace=True),
            nn.Linear(500, whole("num_classes", num_classes, 1)),
        )
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape (N, C, H, W) to logits of shape (N, num_classes)."""
        return self.layers(x)


def _reduced(side: int) -> int:
    """The side of what a convolution and a pooling leave of ``side`` pixels."""
    return (side - KERNEL + 1) // 2
