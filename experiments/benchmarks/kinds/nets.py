"""The nets of `tasks`: small ones of many kinds."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mlp(inputs: int, width: int, outputs: int, bias: bool = True) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, width, bias=bias),
        nn.ReLU(),
        nn.Linear(width, width, bias=bias),
        nn.ReLU(),
        nn.Linear(width, outputs, bias=bias),
    )


def convolutions(channels: int, outputs: int) -> nn.Sequential:
    """Two convolutions with batch norm, over images of 8 by 8 pixels."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, outputs),
    )


def forecaster() -> nn.Sequential:
    """Dilated convolutions over a series, one value out."""
    return nn.Sequential(
        nn.Unflatten(1, (1, -1)),
        nn.Conv1d(1, 16, 5, dilation=1),
        nn.ReLU(),
        nn.Conv1d(16, 16, 5, dilation=4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 32, 1),
    )


def denoiser() -> nn.Sequential:
    """Three convolutions, an image in and one out."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 1, 3, padding=1),
    )


class Headed(nn.Module):
    """A body and a linear head."""

    def __init__(self, body: nn.Module, features: int, outputs: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Sequential(nn.ReLU(), nn.Linear(features, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.body(x))


class Transformer(nn.Module):
    """A transformer over characters, normalized before each layer."""

    def __init__(
        self, layers: int = 2, width: int = 48, longest: int = 48, causal: bool = True
    ) -> None:
        super().__init__()
        self.causal = causal
        self.embed = nn.Embedding(128, width)
        self.place = nn.Parameter(0.02 * torch.randn(longest, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 128))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of each place, shape (batch, length, 128)."""
        n = x.shape[1]
        h = self.embed(x) + self.place[:n]
        mask = nn.Transformer.generate_square_subsequent_mask(n) if self.causal else None
        for layer in self.layers:
            h = layer(h, src_mask=mask, is_causal=self.causal)
        return self.out(h)


class LSTM(nn.Module):
    """A recurrent net over characters."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, 32)
        self.recurrent = nn.LSTM(32, width, batch_first=True)
        self.out = nn.Linear(width, 128)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of each place, shape (batch, length, 128)."""
        return self.out(self.recurrent(self.embed(x))[0])


class CausalConv(nn.Module):
    """Dilated convolutions over characters that look back alone."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, width)
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, 3, dilation=dilation) for dilation in (1, 2, 4)
        )
        self.out = nn.Linear(width, 128)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of each place, shape (batch, length, 128)."""
        h = self.embed(x).transpose(1, 2)
        for conv in self.convs:
            back = 2 * conv.dilation[0]
            h = h + torch.relu(conv(nn.functional.pad(h, (back, 0))))
        return self.out(h.transpose(1, 2))


class GRU(nn.Module):
    """A recurrent net over a series, one value out."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.recurrent = nn.GRU(1, width, batch_first=True)
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the next value, shape (batch, 1)."""
        return self.out(self.recurrent(x[..., None])[0][:, -1])


class ViT(nn.Module):
    """A vision transformer with one mean over its patches."""

    def __init__(self, size: int, patch: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.place = nn.Parameter(0.02 * torch.randn((size // patch) ** 2, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(2)
        )
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        h = self.patches(x).flatten(2).transpose(1, 2) + self.place
        for layer in self.layers:
            h = layer(h)
        return self.out(h.mean(1))


class VAE(nn.Module):
    """A variational autoencoder of images of 8 by 8 pixels; returns logits, mean, log variance."""

    def __init__(self, code: int = 8) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(64, 128, 2 * code), mlp(code, 128, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of the image, mean and log variance of its code."""
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        code = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        return self.decoder(code).view_as(x), mean, log_var


class Factors(nn.Module):
    """The product of two embeddings, and two biases."""

    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.rows, self.columns = nn.Embedding(rows, rank + 1), nn.Embedding(columns, rank + 1)
        for embedding in (self.rows, self.columns):
            nn.init.normal_(embedding.weight, std=0.1)

    def forward(self, row: Tensor, column: Tensor) -> Tensor:
        """Return the value at each row and column."""
        a, b = self.rows(row), self.columns(column)
        return (a[:, 1:] * b[:, 1:]).sum(1) + a[:, 0] + b[:, 0]


class PointNet(nn.Module):
    """The largest of the features of points, in no order."""

    def __init__(self, width: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.each = nn.Sequential(
            nn.Conv1d(3, width, 1), nn.ReLU(), nn.Conv1d(width, 2 * width, 1), nn.ReLU()
        )
        self.out = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of sets of points, shape (batch, 3, points)."""
        return self.out(self.each(x).amax(2))


class Bag(nn.Module):
    """The mean of the embeddings of pairs of characters."""

    def __init__(self, width: int = 16, buckets: int = 4096) -> None:
        super().__init__()
        self.buckets = buckets
        self.embed = nn.EmbeddingBag(buckets, width, mode="mean")
        self.out = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a window of characters."""
        return self.out(self.embed((x[:, 1:] * 128 + x[:, :-1]) % self.buckets))


class CharGRU(nn.Module):
    """Two recurrent layers over characters."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, 32)
        self.recurrent = nn.GRU(32, width, num_layers=2, batch_first=True)
        self.out = nn.Linear(width, 128)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of each place, shape (batch, length, 128)."""
        return self.out(self.recurrent(self.embed(x))[0])


class Mixer(nn.Module):
    """Perceptrons over patches and over channels, in turn."""

    def __init__(self, size: int, patch: int, classes: int, width: int = 48) -> None:
        super().__init__()
        count = (size // patch) ** 2
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.over_patches, self.over_channels, self.norms = (nn.ModuleList() for _ in range(3))
        for _ in range(2):
            self.over_patches.append(self._perceptron(count))
            self.over_channels.append(self._perceptron(width))
            self.norms.extend([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.out = nn.Linear(width, classes)

    @staticmethod
    def _perceptron(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        h = self.patches(x).flatten(2).transpose(1, 2)
        for i, (mix, think) in enumerate(zip(self.over_patches, self.over_channels, strict=True)):
            h = h + mix(self.norms[2 * i](h).transpose(1, 2)).transpose(1, 2)
            h = h + think(self.norms[2 * i + 1](h))
        return self.out(h.mean(1))


class RowReader(nn.Module):
    """A recurrent net over the rows of an image."""

    def __init__(self, width: int = 48, classes: int = 10) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(8, width, batch_first=True)
        self.out = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.out(self.recurrent(x[:, 0])[0][:, -1])
