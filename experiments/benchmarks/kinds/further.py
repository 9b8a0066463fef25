"""Further problems: tables, tags and neighbours in text, masks, angles, diffusion, a flow."""

from __future__ import annotations

import inspect
import io
import math
import tokenize
from collections import Counter
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.benchmarks.kinds import nets
from experiments.benchmarks.kinds.data import digits, fashion, prior, split, standardized, table
from experiments.benchmarks.kinds.losses import Batch, accuracy, cross_entropy, squared_error
from experiments.benchmarks.kinds.problems import Problem, classify

# ---- tables -------------------------------------------------------------------------------------


def wine() -> Problem:
    """Tell three wines apart by thirteen measurements, of 128 bottles."""
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    data = split(standardized(x), torch.tensor(y, dtype=torch.int64), val=50)
    return classify(partial(nets.mlp, 13, 32, 3), data)


def voters() -> Problem:
    """Guess which of seven shades of party a voter is of; little of it can be known."""
    inputs, party = table("anes96")
    data = split(standardized(inputs), torch.tensor(party, dtype=torch.int64), val=250)
    return classify(partial(nets.mlp, inputs.shape[1], 64, 7), data)


# ---- text ---------------------------------------------------------------------------------------

_KINDS = (tokenize.NAME, tokenize.NUMBER, tokenize.STRING, tokenize.OP, tokenize.COMMENT)


@lru_cache
def _tagged(length: int = 48) -> tuple[Tensor, Tensor]:
    """Return windows of Python's code, and for each character the kind of its token."""
    import ast
    import difflib
    import optparse

    characters, kinds = [], []
    for module in (ast, difflib, optparse):
        source = inspect.getsource(module)
        of_lines = [[0] * len(line) for line in source.splitlines(keepends=True)]
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type in _KINDS and token.start[0] == token.end[0]:
                row, columns = of_lines[token.start[0] - 1], slice(token.start[1], token.end[1])
                row[columns] = [_KINDS.index(token.type) + 1] * (token.end[1] - token.start[1])
        characters += [min(ord(c), 127) for c in source]
        kinds += [kind for row in of_lines for kind in row]
    n = len(characters) // length
    x, y = (torch.tensor(values[: n * length]).view(n, length) for values in (characters, kinds))
    return x, y


class Tagger(nn.Module):
    """A recurrent net that reads in both directions, a class for each character."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(128, 32)
        self.lstm = nn.LSTM(32, 48, batch_first=True, bidirectional=True)
        self.head = nn.Linear(96, len(_KINDS) + 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, classes second."""
        return self.head(self.lstm(self.embed(x))[0]).transpose(1, 2)


def tags() -> Problem:
    """Tell names, numbers, strings, operators and comments apart, for each character of code."""
    data = split(*_tagged(), val=256)
    return classify(Tagger, data)


@lru_cache
def _neighbours() -> tuple[Tensor, Tensor]:
    """Return pairs of words of Python's help, at most two words apart."""
    from pydoc_data.topics import topics

    words = "".join(topics[name] for name in sorted(topics)).lower().split()
    known = {word: i for i, (word, _) in enumerate(Counter(words).most_common(500))}
    codes = torch.tensor([known[word] for word in words if word in known])
    pairs = [(codes[apart:], codes[:-apart]) for apart in (1, 2)]
    return torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs])


def neighbours() -> Problem:
    """Guess a word of Python's help from one beside it, by vectors of 32 numbers."""
    data = split(*_neighbours(), val=4000)
    net = nn.Sequential(nn.Embedding(500, 32), nn.Linear(32, 500))
    return Problem(net, cross_entropy, data[:2], data[2:], prior(data[1], data[3]), accuracy)


# ---- images -------------------------------------------------------------------------------------


class UNet(nn.Module):
    """Down, up, and across: a class for each pixel of 14 by 14."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.GroupNorm(3, 12), nn.SiLU())
        self.deep = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.SiLU(),
            nn.ConvTranspose2d(24, 12, 2, stride=2),
        )  # fmt: skip
        self.up = nn.Conv2d(24, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a score for each pixel."""
        across = self.down(x)
        return self.up(torch.cat([across, self.deep(across)], dim=1))


def overlap(net: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of pixels, and how little the masks overlap (soft Dice loss)."""
    x, mask = batch
    scores = net(x)
    p = scores.sigmoid()
    dice = 1.0 - (2.0 * (p * mask).sum((1, 2, 3)) + 1.0) / ((p + mask).sum((1, 2, 3)) + 1.0)
    return F.binary_cross_entropy_with_logits(scores, mask) + dice.mean()


def masks() -> Problem:
    """Find clothes in noise."""
    x, _, x_val, _ = fashion()
    x, x_val = F.avg_pool2d(x, 2), F.avg_pool2d(x_val, 2)
    generator = torch.Generator().manual_seed(0)
    mask, mask_val = ((i > x.mean()).float() for i in (x, x_val))
    noisy, noisy_val = (i + torch.randn(i.shape, generator=generator) for i in (x, x_val))
    always = mask.mean(0).clamp(1e-3, 1 - 1e-3).logit()
    trivial = float(overlap(lambda x: always.expand(len(x), 1, 14, 14), [noisy_val, mask_val]))
    return Problem(UNet(), overlap, (noisy, mask), (noisy_val, mask_val), trivial)


def _rotated(x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    angle = torch.rand(len(x), generator=torch.Generator().manual_seed(seed)) * 2 * math.pi
    cos, sin = angle.cos(), angle.sin()
    rows = torch.stack([cos, -sin, 0 * cos, sin, cos, 0 * cos], 1).view(-1, 2, 3)
    grid = F.affine_grid(rows, [len(x), 1, 14, 14], align_corners=False)
    return F.grid_sample(x, grid, align_corners=False), torch.stack([cos, sin], 1)


def angles() -> Problem:
    """Tell by how much clothes are turned."""
    x, _, x_val, _ = fashion()
    train = _rotated(F.avg_pool2d(x, 2), 0)
    val = _rotated(F.avg_pool2d(x_val, 2), 1)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 16, 2),
    )  # fmt: skip
    trivial = float(((val[1] - train[1].mean(0)) ** 2).mean())
    return Problem(net, squared_error, train, val, trivial)


def noise_error(net: nn.Module, batch: Batch) -> Tensor:
    """Squared error of the noise that is found in a noisy image (Ho et al., arXiv:2006.11239)."""
    (x,) = batch
    x = x.flatten(1) * 2.0 - 1.0
    time, noise = torch.rand(len(x), 1), torch.randn_like(x)
    angle = time * math.pi / 2
    noisy = angle.cos() * x + angle.sin() * noise
    return F.mse_loss(net(torch.cat([noisy, angle.cos(), angle.sin()], 1)), noise)


def diffusion() -> Problem:
    """Learn to draw digits by taking noise away; zeros lose 1."""
    x, _, x_val, _ = digits()
    return Problem(nets.mlp(66, 192, 64), noise_error, (x,), (x_val,), 1.0)


class Flow(nn.Module):
    """Affine couplings over 64 numbers (Dinh et al., arXiv:1605.08803)."""

    def __init__(self, layers: int = 4) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets.mlp(32, 96, 64) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Return the log of the density, by dimension."""
        a, b = x[:, ::2], x[:, 1::2]
        volume = torch.zeros(len(x))
        for net in self.nets:
            scale, shift = net(a).chunk(2, dim=1)
            scale = scale.tanh()
            a, b = b * scale.exp() + shift, a
            volume = volume + scale.sum(1)
        z = torch.cat([a, b], 1)
        return (volume - 0.5 * (z**2 + math.log(2 * math.pi)).sum(1)) / z.shape[1]


def density(net: nn.Module, batch: Batch) -> Tensor:
    """The negative log of the density."""
    (x,) = batch
    return -net(x).mean()


def flow() -> Problem:
    """Learn the density of digits with a little noise."""
    x, _, x_val, _ = digits()
    generator = torch.Generator().manual_seed(0)
    x, x_val = (
        standardized(i.flatten(1) + 0.1 * torch.randn(i.flatten(1).shape, generator=generator))
        for i in (x, x_val)
    )
    trivial = 0.5 * (1.0 + math.log(2 * math.pi))  # of independent Gaussians
    return Problem(Flow(), density, (x,), (x_val,), trivial)
