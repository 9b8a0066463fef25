"""What is trained on what: nets, data and losses of many kinds.

The text and the tables ship with Python, scikit-learn and statsmodels, Fashion-MNIST with Debian.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.benchmarks.kinds import nets
from experiments.benchmarks.kinds.data import (
    digits,
    fashion,
    prior,
    series,
    split,
    standardized,
    table,
    text,
)
from experiments.benchmarks.kinds.losses import (
    LEVELS,
    Loss,
    absolute_error,
    accuracy,
    contrastive,
    cross_entropy,
    evidence_bound,
    gaussian_nll,
    masked_characters,
    multi_margin,
    next_character,
    pinball,
    poisson_nll,
    squared_error,
    triplet,
)


class Problem(NamedTuple):
    """What is trained, on what.

    Attributes:
        net: The net.
        loss: Of a batch, the mean over what is predicted.
        train: Tensors with one entry for each example.
        val: The same for validation.
        trivial: The validation loss of a predictor that does not look at its input.
        accuracy: Of a batch, where there is one.
        slow: Modules of the net that are trained at a tenth of the rate: pretrained ones.
    """

    net: nn.Module
    loss: Loss
    train: tuple[Tensor, ...]
    val: tuple[Tensor, ...]
    trivial: float
    accuracy: Loss | None = None
    slow: tuple[str, ...] = ()


def characters(net: Callable[[], nn.Module], source: str = "help", length: int = 32) -> Problem:
    """Predict the next character."""
    train, val = text(source, length)
    return Problem(net(), next_character, (train,), (val,), prior(train[:, 1:], val[:, 1:]))


def classify(net: Callable[[], nn.Module], data: Iterable[Tensor]) -> Problem:
    """Tell classes apart."""
    x, y, x_val, y_val = data
    return Problem(net(), cross_entropy, (x, y), (x_val, y_val), prior(y, y_val), accuracy)


def fashion_vit() -> Problem:
    """A small vision transformer."""
    return classify(partial(nets.ViT, 28, 7, 10), fashion())


def digits_muon() -> Problem:
    """A perceptron of matrices alone, for Muon takes no other parameters."""
    return classify(partial(nets.mlp, 64, 128, 10, bias=False), digits())


def cancer() -> Problem:
    """Tell tumours apart by thirty measurements."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    data = split(standardized(x), torch.tensor(y, dtype=torch.int64), val=150)
    return classify(partial(nets.mlp, 30, 64, 2), data)


def diabetes() -> Problem:
    """Regression on 342 patients: over-fitting begins soon."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    x, y, x_val, y_val = split(standardized(x), standardized(y), val=100)
    trivial = float(((y_val - y.mean()) ** 2).mean())
    return Problem(nets.mlp(10, 64, 1), squared_error, (x, y), (x_val, y_val), trivial)


def forecast(net: Callable[[], nn.Module], name: str, window: int) -> Problem:
    """Predict the next value of a series."""
    x, y, x_val, y_val = series(name, window)
    trivial = float(((y_val - y.mean()) ** 2).mean())
    return Problem(net(), squared_error, (x, y), (x_val, y_val), trivial)


def forecast_density() -> Problem:
    """Predict the mean and the deviation of the next temperature of the sea."""
    x, y, x_val, y_val = series("elnino", 24)
    trivial = y.std().log() + 0.5 * (((y_val - y.mean()) / y.std()) ** 2).mean()
    return Problem(nets.mlp(24, 64, 2), gaussian_nll, (x, y), (x_val, y_val), float(trivial))


def autoencoder() -> Problem:
    """Clothes through a bottleneck of 16 numbers."""
    x, _, x_val, _ = fashion()
    net = nn.Sequential(nn.Flatten(), nets.mlp(784, 128, 16), nn.GELU(), nets.mlp(16, 128, 784))
    train, val = x.flatten(1), x_val.flatten(1)
    trivial = float(((val - train.mean(0)) ** 2).mean())
    return Problem(net, squared_error, (train, train), (val, val), trivial)


def variational() -> Problem:
    """A variational autoencoder of digits."""
    x, _, x_val, _ = digits()
    mean = x.mean(0).clamp(1e-3, 1 - 1e-3)
    trivial = float(F.binary_cross_entropy(mean.expand_as(x_val), x_val))
    return Problem(nets.VAE(), evidence_bound, (x,), (x_val,), trivial)


@lru_cache
def _entries() -> tuple[Tensor, ...]:
    x, *_ = fashion()
    values = x[:1000].flatten(1)
    chosen = torch.randperm(values.numel(), generator=torch.Generator().manual_seed(0))[:80_000]
    rows, columns = chosen // 784, chosen % 784
    return split(rows, columns, values[rows, columns], val=4000)


def factors() -> Problem:
    """Factorize a matrix of images and pixels, of which a tenth is known."""
    data = _entries()
    trivial = float(((data[5] - data[2].mean()) ** 2).mean())
    return Problem(nets.Factors(1000, 784, 8), squared_error, data[:3], data[3:], trivial)


def views() -> Problem:
    """Learn to recognize an image of a digit when it is moved and noisy."""
    x, _, x_val, _ = digits()
    return Problem(nets.convolutions(1, 32), contrastive, (x,), (x_val[:448],), math.log(64))


def pretrained(make: Callable[[], Problem], steps: int, net_at: str) -> nn.Module:
    """Return a part of a net after some training with Adam; the seed of torch stays as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        problem = make()
        optimizer = torch.optim.Adam(problem.net.parameters(), 2e-3)
        for _ in range(steps):
            chosen = torch.randint(len(problem.train[0]), (64,))
            loss = problem.loss(problem.net, [x[chosen] for x in problem.train])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return problem.net.get_submodule(net_at)


@lru_cache
def _of_digits() -> nn.Module:
    def low() -> Problem:
        data = digits()
        low, low_val = data[1] < 6, data[3] < 6
        chosen = data[0][low], data[1][low], data[2][low_val], data[3][low_val]
        return classify(partial(nets.Headed, nets.convolutions(1, 64), 64, 6), chosen)

    return pretrained(low, 300, "body")


def fine_tuned() -> Problem:
    """Digits from 6 to 9, with features that were learnt from 0 to 5."""
    x, y, x_val, y_val = digits()
    high, high_val = y >= 6, y_val >= 6
    data = x[high], y[high] - 6, x_val[high_val], y_val[high_val] - 6
    problem = classify(partial(nets.Headed, copy.deepcopy(_of_digits()), 64, 4), data)
    return problem._replace(slow=("body",))


@lru_cache
def _of_help() -> nn.Module:
    return pretrained(partial(characters, nets.Transformer), 300, "")


def fine_tuned_text() -> Problem:
    """Python's code, with a transformer that has learnt to write Python's help."""
    problem = characters(lambda: copy.deepcopy(_of_help()), "code")
    return problem._replace(slow=("embed", "layers"))


def visits() -> Problem:
    """Count visits to a doctor by what is known of a patient."""
    inputs, counts = table("randhie")
    counts = torch.tensor(counts, dtype=torch.float32)
    x, y, x_val, y_val = split(standardized(inputs), counts, val=2000)
    trivial = float(F.poisson_nll_loss(y.mean().log().expand_as(y_val), y_val))
    return Problem(nets.mlp(x.shape[1], 64, 1), poisson_nll, (x, y), (x_val, y_val), trivial)


def denoising() -> Problem:
    """Take noise away from clothes."""
    x, _, x_val, _ = fashion()
    generator = torch.Generator().manual_seed(0)
    noisy, noisy_val = (i + torch.randn(i.shape, generator=generator) for i in (x, x_val[:400]))
    trivial = float(((x_val[:400] - x.mean(0)) ** 2).mean())
    return Problem(nets.denoiser(), squared_error, (noisy, x), (noisy_val, x_val[:400]), trivial)


def triplets() -> Problem:
    """Embed digits so that those of one class are close together."""
    return Problem(nets.convolutions(1, 16), triplet, *_triplets_of_digits(), 1.0)


@lru_cache
def _triplets_of_digits() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    x, y, x_val, y_val = digits()
    return _triplets(x, y, 4000), _triplets(x_val, y_val, 500)


def _triplets(x: Tensor, y: Tensor, n: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    anchors = torch.randint(len(x), (n,), generator=generator)
    others = torch.stack([torch.randperm(len(x), generator=generator)[:80] for _ in range(n)])
    is_same = y[others] == y[anchors][:, None]
    same = others[torch.arange(n), is_same.float().argmax(1)]
    other = others[torch.arange(n), (~is_same).float().argmax(1)]
    return x[anchors], x[same], x[other]


def points() -> Problem:
    """Tell digits apart as sets of points, in no order."""
    x, y, x_val, y_val = digits()
    return classify(nets.PointNet, (_points(x), y, _points(x_val), y_val))


def _points(x: Tensor) -> Tensor:
    """Return the 20 brightest pixels: row, column and brightness."""
    values, places = x.flatten(1).topk(20, dim=1)
    return torch.stack([places // 8 / 4.0 - 1.0, places % 8 / 4.0 - 1.0, values], dim=1)


def quantiles() -> Problem:
    """Predict quantiles of the next number of sunspots."""
    x, y, x_val, y_val = series("sunspots", 12)
    levels = y.quantile(LEVELS)
    error = y_val[:, None] - levels
    trivial = float(torch.maximum(LEVELS * error, (LEVELS - 1) * error).mean())
    return Problem(nets.mlp(12, 64, 3), pinball, (x, y), (x_val, y_val), trivial)


def origins() -> Problem:
    """Tell from the characters of a line whether it is help or code, as a bag of embeddings."""
    (help_, help_val), (code, code_val) = text("help"), text("code")
    n = min(len(help_), len(code))
    x, x_val = torch.cat([help_[:n], code[:n]]), torch.cat([help_val, code_val])
    y, y_val = (torch.arange(len(t)) // (len(t) // 2) for t in (x, x_val))
    return classify(nets.Bag, (x, y, x_val, y_val))


def mixer() -> Problem:
    """A net of perceptrons over patches and over channels."""
    return classify(partial(nets.Mixer, 28, 7, 10), fashion())


def inpainting() -> Problem:
    """Draw the lower half of clothes from the upper half, by absolute errors."""
    x, _, x_val, _ = fashion()
    data = [part.flatten(1) for image in (x, x_val) for part in image.tensor_split(2, dim=2)]
    trivial = float((data[3] - data[1].median(0).values).abs().mean())
    net = nets.mlp(392, 128, 392)
    return Problem(net, absolute_error, (data[0], data[1]), (data[2], data[3]), trivial)


def rows() -> Problem:
    """Read digits row by row with a recurrent net."""
    return classify(nets.RowReader, digits())


def masked() -> Problem:
    """Guess characters that are hidden in Python's help."""
    train, val = text("help")
    net = nets.Transformer(causal=False)
    return Problem(net, masked_characters, (train,), (val,), prior(train, val))


def clothes_views() -> Problem:
    """Learn to recognize an image of clothes when it is moved and noisy."""
    x, _, x_val, _ = fashion()
    x, x_val = (F.avg_pool2d(F.pad(i, (2, 2, 2, 2)), 4) for i in (x, x_val[:960]))
    return Problem(nets.convolutions(1, 32), contrastive, (x,), (x_val,), math.log(64))


def margin() -> Problem:
    """Tell digits apart by margins; scores that are all the same lose 0.9."""
    x, y, x_val, y_val = digits()
    net = nets.convolutions(1, 10)
    return Problem(net, multi_margin, (x, y), (x_val, y_val), 0.9, accuracy)


def visit_quantiles() -> Problem:
    """Predict quantiles of the log of the visits to a doctor."""
    inputs, counts = table("randhie")
    logs = torch.tensor(counts, dtype=torch.float32).log1p()
    x, y, x_val, y_val = split(standardized(inputs), logs, val=2000)
    error = y_val[:, None] - y.quantile(LEVELS)
    trivial = float(torch.maximum(LEVELS * error, (LEVELS - 1) * error).mean())
    return Problem(nets.mlp(x.shape[1], 64, 3), pinball, (x, y), (x_val, y_val), trivial)
