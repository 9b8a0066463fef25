"""The residual network for small images of He et al. 2015, with a width and a depth to choose."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_onecycle._checks import choice, whole


class ResNet(nn.Module):
    """Basic-block batch-norm residual network for small images (He et al. 2015, section 4.2).

    A 3x3 convolution to ``width`` channels, then one stage for each entry of ``blocks``: each stage
    but the first halves the image and doubles the channels. Then the mean over all pixels, and one
    linear layer. ResNet-56 is ``blocks=(9, 9, 9), width=16``: 855,770 parameters for
    CIFAR-10 with projections, 853,018 with the paper's padded shortcuts.

    Args:
        shape: Channels, height and width of an image.
        num_classes: Number of outputs.
        blocks: Residual blocks of each stage, each of two 3x3 convolutions.
        width: Channels of the first stage.
        stem_stride: Stride of the first convolution; 2 costs a quarter of the time.
        shortcut: What a shortcut does where the shape changes: ``"projection"`` is a 1x1
            convolution with batch norm (the paper's option B), ``"pad"`` takes every second pixel
            and pads the channels with zeros (option A, no parameters).
        zero_init_residual: Whether each block begins as the identity: the scale of its last batch
            norm starts at 0 (Goyal et al. 2017, section 5.1).

    Example:
        >>> model = ResNet((3, 32, 32), 10, blocks=(9, 9, 9))
        >>> sum(p.numel() for p in model.parameters())
        855770
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        blocks: Sequence[int] = (1, 1, 1),
        width: int = 16,
        stem_stride: int = 1,
        shortcut: str = "projection",
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        if not blocks:
            raise ValueError(f"blocks must have a number for each stage, got {blocks!r}")
        blocks = [whole("blocks", n, 1) for n in blocks]
        width = whole("width", width, 1)
        stem_stride = whole("stem_stride", stem_stride, 1)
        choice("shortcut", shortcut, ("projection", "pad"))

        layers: list[nn.Module] = [_conv(shape[0], width, 3, stem_stride), nn.BatchNorm2d(width)]
        layers.append(nn.ReLU(inplace=True))
        channels = width
        for stage, depth in enumerate(blocks):
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(BasicBlock(channels, width * 2**stage, stride, shortcut))
                channels = width * 2**stage
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, whole("num_classes", num_classes, 1))

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock) and zero_init_residual:
                nn.init.zeros_(module.norm2.weight)
        # Convolutions of few channels are up to 1.5 times as fast on a CPU with channels last, and
        # mixed precision on a GPU prefers it; the feature maps follow the weights.
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape (N, C, H, W) to logits of shape (N, num_classes)."""
        return self.classifier(self.features(x).mean(dim=(2, 3)))


class BasicBlock(nn.Module):
    """``relu(F(x) + shortcut(x))`` with F two 3x3 convolutions (He et al. 2015, Fig. 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, 3, stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs, 3)
        self.norm2 = nn.BatchNorm2d(outputs)
        if stride == 1 and inputs == outputs:
            self.shortcut: nn.Module = nn.Identity()
        elif shortcut == "projection":
            conv = _conv(inputs, outputs, 1, stride)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))
        else:
            self.shortcut = PadShortcut(outputs - inputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


class PadShortcut(nn.Module):
    """Every ``stride``-th pixel, with ``channels`` new channels of zeros (option A)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (N, C, H, W) to (N, C + channels, H/stride, W/stride)."""
        pixels = x[:, :, :: self.stride, :: self.stride]
        return F.pad(pixels, (0, 0, 0, 0, 0, self.channels))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
