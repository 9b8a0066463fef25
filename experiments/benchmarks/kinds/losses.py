"""The losses of `tasks`: of a net and a batch, the mean over what is predicted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batch = list[Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]

LEVELS = torch.tensor([0.1, 0.5, 0.9])
"""The quantiles that `pinball` is for."""


def cross_entropy(net: nn.Module, batch: Batch) -> Tensor:
    """Of classes; the last tensor has the targets."""
    *inputs, target = batch
    return F.cross_entropy(net(*inputs), target)


def accuracy(net: nn.Module, batch: Batch) -> Tensor:
    """The part of the targets that is predicted."""
    *inputs, target = batch
    return (net(*inputs).argmax(1) == target).float().mean()


def squared_error(net: nn.Module, batch: Batch) -> Tensor:
    """Of the last tensor, predicted from the others."""
    *inputs, target = batch
    return F.mse_loss(net(*inputs).view_as(target), target)


def gaussian_nll(net: nn.Module, batch: Batch) -> Tensor:
    """The density of the target under a predicted mean and log of the deviation; it is negative."""
    *inputs, target = batch
    mean, log_std = net(*inputs).unbind(1)
    return (log_std + 0.5 * ((target - mean) / log_std.exp()) ** 2).mean()


def poisson_nll(net: nn.Module, batch: Batch) -> Tensor:
    """Of counts, under the log of a predicted rate; without the term that no net changes."""
    *inputs, target = batch
    return F.poisson_nll_loss(net(*inputs).view_as(target), target)


def pinball(net: nn.Module, batch: Batch) -> Tensor:
    """Of the quantiles 0.1, 0.5 and 0.9."""
    *inputs, target = batch
    error = target[:, None] - net(*inputs)
    return torch.maximum(LEVELS * error, (LEVELS - 1) * error).mean()


def next_character(net: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of each character of a window, given those before it."""
    (window,) = batch
    return F.cross_entropy(net(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())


def evidence_bound(net: nn.Module, batch: Batch) -> Tensor:
    """The negative evidence lower bound of an image, by pixel."""
    (x,) = batch
    output, mean, log_var = net(x)
    code = 0.5 * (mean**2 + log_var.exp() - 1.0 - log_var).sum(1).mean()
    return F.binary_cross_entropy_with_logits(output, x) + code / x[0].numel()


def contrastive(net: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of the other view of an image among those of the batch (InfoNCE)."""
    (x,) = batch
    first, second = (F.normalize(net(_view(x)), dim=1) for _ in range(2))
    return F.cross_entropy(first @ second.T / 0.1, torch.arange(len(x)))


def _view(x: Tensor) -> Tensor:
    """Shift an image by up to one pixel and add noise."""
    shift = torch.randint(-1, 2, (2,)).tolist()
    return torch.roll(x, shift, dims=(-2, -1)) + 0.3 * torch.randn_like(x)


def triplet(net: nn.Module, batch: Batch) -> Tensor:
    """How far an image is from being closer to one of its class; 1 if all are at one place."""
    anchor, same, other = (F.normalize(net(x), dim=1) for x in batch)
    return F.triplet_margin_loss(anchor, same, other, margin=1.0)


def absolute_error(net: nn.Module, batch: Batch) -> Tensor:
    """Of the last tensor, predicted from the others."""
    *inputs, target = batch
    return F.l1_loss(net(*inputs).view_as(target), target)


def masked_characters(net: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of a fifth of the characters, which are hidden, given all others."""
    (window,) = batch
    hidden = torch.rand(window.shape) < 0.2
    return F.cross_entropy(net(window.masked_fill(hidden, 0))[hidden], window[hidden])


def multi_margin(net: nn.Module, batch: Batch) -> Tensor:
    """How far the score of another class comes within 1 of that of the right one."""
    x, y = batch
    return F.multi_margin_loss(net(x), y)
