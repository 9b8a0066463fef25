"""The data of `tasks`, which come with Python, scikit-learn, statsmodels and Debian."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def prior(train: Tensor, val: Tensor) -> float:
    """Return the cross-entropy of classes that are predicted by their frequency in training."""
    counts = torch.bincount(train.flatten(), minlength=int(val.max()) + 1) + 1.0
    return float(F.nll_loss((counts / counts.sum()).log().expand(val.numel(), -1), val.flatten()))


@lru_cache
def text(source: str, length: int = 32) -> tuple[Tensor, Tensor]:
    """Return windows of characters, of Python's help texts or of its own code."""
    if source == "help":
        from pydoc_data.topics import topics

        content = "".join(topics[name] for name in sorted(topics))
    else:
        import argparse
        import asyncio.base_events
        import decimal
        import doctest
        import tarfile
        import typing

        modules = (argparse, asyncio.base_events, doctest, tarfile, typing, decimal)
        content = "".join(inspect.getsource(module) for module in modules)
    codes = [min(ord(c), 127) for c in content]
    windows = torch.tensor(codes[: len(codes) // (length + 1) * (length + 1)]).view(-1, length + 1)
    windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))]
    return windows[256:], windows[:256]


@lru_cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images of 8 by 8 pixels and classes, to train on and to validate on."""
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16.0
    return split(x, torch.tensor(classes, dtype=torch.int64), val=500)


@lru_cache
def fashion(num_train: int = 4000, num_val: int = 1000) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images of 28 by 28 pixels and classes."""
    from experiments.data import FashionMNIST

    data = FashionMNIST(num_val=num_val, train_size=num_train, batch_size=num_train)
    data.prepare_data()
    data.setup("fit")
    (train,), (val,) = (
        [data.on_after_batch_transfer(batch, 0) for batch in _all(loader)]
        for loader in (data.train_dataloader(), data.val_dataloader())
    )
    return train[0], train[1], val[0], val[1]


def _all(loader: Any) -> list[Any]:
    batches = list(loader)
    return [[torch.cat(parts) for parts in zip(*batches, strict=True)]]


def split(*tensors: Tensor, val: int, in_order: bool = False) -> tuple[Tensor, ...]:
    """Return the training part of each tensor, then the validation part of each.

    Args:
        *tensors: With one entry for each example.
        val: Examples to validate on.
        in_order: Whether those are the last ones, as for series.
    """
    n = len(tensors[0])
    order = torch.arange(n)
    if not in_order:
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return tuple(x[order[:-val]] for x in tensors) + tuple(x[order[-val:]] for x in tensors)


def standardized(x: Any) -> Tensor:
    """Return columns of mean 0 and deviation 1."""
    x = torch.as_tensor(x, dtype=torch.float32)
    return (x - x.mean(0)) / x.std(0).clamp(min=1e-6)


@lru_cache
def series(name: str, window: int) -> tuple[Tensor, ...]:
    """Return windows of a series and what comes next, the last fifth for validation."""
    import statsmodels.api as sm

    data = getattr(sm.datasets, name).load_pandas().data
    if name == "elnino":
        values = data.iloc[:, 1:].to_numpy().reshape(-1)
    else:
        values = data.iloc[:, -1].ffill().to_numpy()
    x = standardized(values)
    if name == "co2":  # its differences, for it rises all the time
        x = standardized((x[1:] - x[:-1]).numpy())
    windows = x.unfold(0, window + 1, 1)
    return split(windows[:, :-1], windows[:, -1], val=len(windows) // 5, in_order=True)


def table(name: str) -> tuple[Any, Any]:
    """Return the inputs and targets of a table of statsmodels."""
    import statsmodels.api as sm

    data = getattr(sm.datasets, name).load_pandas()
    return data.exog.to_numpy(), data.endog.to_numpy()
