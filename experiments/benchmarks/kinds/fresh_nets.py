"""The nets of `fresh`."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.benchmarks.kinds import nets

PAST, PATCH, FUTURE = 36, 6, 6
"""Of a series: what `Forecaster` reads, in how large patches, and what it predicts."""


class TextCNN(nn.Module):
    """The largest features of convolutions over characters (Kim, arXiv:1408.5882)."""

    def __init__(self, classes: int, filters: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, 32)
        self.convs = nn.ModuleList(nn.Conv1d(32, filters, size) for size in (3, 4, 5))
        self.out = nn.Sequential(nn.Dropout(0.3), nn.Linear(3 * filters, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        h = self.embed(x).transpose(1, 2)
        return self.out(torch.cat([conv(h).relu().amax(2) for conv in self.convs], 1))


class Seq2Seq(nn.Module):
    """A recurrent net that reads a word, and one that writes another (Cho, arXiv:1406.1078)."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.embed = nn.Embedding(28, 24)
        self.reader = nn.GRU(24, width, batch_first=True)
        self.writer = nn.GRU(24, width, batch_first=True)
        self.out = nn.Linear(width, 28)

    def forward(self, word: Tensor, written: Tensor) -> Tensor:
        """Return scores of the next letters, classes second."""
        state = self.reader(self.embed(word))[1]
        return self.out(self.writer(self.embed(written), state)[0]).transpose(1, 2)


class GatedConv(nn.Module):
    """Gated convolutions over words, an adaptive softmax (Dauphin et al., arXiv:1612.08083)."""

    def __init__(self, words: int, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.convs = nn.ModuleList(nn.Conv1d(width, 2 * width, 3) for _ in range(3))
        self.out = nn.AdaptiveLogSoftmaxWithLoss(width, words, [100, 500])

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        h = self.embed(x).transpose(1, 2)
        for conv in self.convs:
            h = h + F.glu(conv(F.pad(h, (2, 0))), dim=1)
        return self.out(h.transpose(1, 2).flatten(0, 1), target.flatten()).loss


class GraphNet(nn.Module):
    """Messages along the edges of trees, up and down (Schlichtkrull et al., arXiv:1703.06103)."""

    def __init__(self, kinds: int, width: int = 48, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(kinds + 1, width)
        self.own, self.down, self.up, self.norms = (nn.ModuleList() for _ in range(4))
        for _ in range(layers):
            for linears in (self.own, self.down, self.up):
                linears.append(nn.Linear(width, width))
            self.norms.append(nn.LayerNorm(width))
        self.out = nn.Linear(width, kinds)

    def forward(self, nodes: Tensor, is_parent: Tensor) -> Tensor:
        """Return scores of the kinds of the nodes, classes second."""
        h = self.embed(nodes)
        children = is_parent.transpose(1, 2)
        children = children / children.sum(2, keepdim=True).clamp(min=1.0)
        for own, down, up, norm in zip(self.own, self.down, self.up, self.norms, strict=True):
            h = norm(h + F.relu(own(h) + is_parent @ down(h) + children @ up(h)))
        return self.out(h).transpose(1, 2)


def block(inputs: int, outputs: int, size: int = 3, **options: Any) -> nn.Sequential:
    """A convolution, batch norm and ReLU."""
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def teacher_net() -> nn.Module:
    """Two convolutions, over images of 14 by 14 pixels."""
    return nn.Sequential(
        block(1, 32), nn.MaxPool2d(2), block(32, 64), nn.Flatten(), nn.Linear(64 * 49, 10)
    )


def student_net() -> nn.Module:
    """Convolutions by channel, then over channels (Howard et al., arXiv:1704.04861)."""
    return nn.Sequential(
        block(1, 16), block(16, 16, groups=16, stride=2), block(16, 32, 1),
        block(32, 32, groups=32, stride=2), block(32, 64, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


class Residual(nn.Module):
    """Two convolutions around which the input goes, too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(block(width, width), block(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return an image of the same shape."""
        return x + self.inner(x)


def resnet() -> nn.Module:
    """Two residual blocks, 32 features out."""
    return nn.Sequential(
        block(1, 16, stride=2), Residual(16), block(16, 32, stride=2), Residual(32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


class Field(nn.Module):
    """Waves of places, then a perceptron (Tancik et al., arXiv:2006.10739)."""

    def __init__(self, waves: int = 64, scale: float = 4.0) -> None:
        super().__init__()
        self.waves = nn.Buffer(scale * torch.randn(2, waves))
        self.mlp = nets.mlp(2 * waves, 128, 3)

    def forward(self, place: Tensor) -> Tensor:
        """Return a colour."""
        angle = math.pi * place @ self.waves
        return self.mlp(torch.cat([angle.sin(), angle.cos()], 1))


class Forecaster(nn.Module):
    """A transformer over patches of a series (Nie et al., arXiv:2211.14730)."""

    def __init__(self, width: int = 32, parts: int = 3) -> None:
        super().__init__()
        patches = PAST // PATCH
        self.embed = nn.Linear(PATCH, width)
        self.place = nn.Parameter(0.02 * torch.randn(patches, width))
        layer = partial(nn.TransformerEncoderLayer, width, 4, 2 * width, batch_first=True)
        self.layers = nn.Sequential(layer(), layer())
        self.out = nn.Linear(patches * width, FUTURE * parts * 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return weight, mean and log of the deviation of the parts of each value, last."""
        h = self.embed(x.unflatten(1, (-1, PATCH))) + self.place
        return self.out(self.layers(h).flatten(1)).view(len(x), FUTURE, -1, 3)
