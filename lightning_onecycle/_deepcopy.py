"""Deep copies of what Python's ``copy.deepcopy`` refuses, or copies in part."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# What deepcopy has copied: the id of an original, and what stands for it.
Memo = dict[int, Any]


def deepcopied(value: Any, memo: Memo) -> Any:
    """Return a deep copy, in which optimizers have all of their attributes."""
    with graphs_cut():
        copied = copy.deepcopy(value, memo)
    for original in memo[id(memo)]:  # where deepcopy keeps alive what it has copied
        if isinstance(original, Optimizer) and _loses_attributes(original):
            other = memo[id(original)]
            for name in vars(original).keys() - vars(other).keys() - {"step"}:
                setattr(other, name, copy.deepcopy(vars(original)[name], memo))
    return copied


@contextmanager
def graphs_cut() -> Iterator[None]:
    """Have deepcopy take tensors without their graphs, wherever they are: it refuses a graph.

    Modules keep losses, hidden states or buffers of their last step. Without gradients, what
    TorchScript copies by itself has no graph either.
    """
    refuses = Tensor.__deepcopy__

    def deepcopy(tensor: Tensor, memo: Memo) -> Tensor:
        return refuses(tensor, memo) if tensor.is_leaf else tensor.detach().clone()

    Tensor.__deepcopy__ = deepcopy  # type: ignore[method-assign]
    try:
        with torch.no_grad():
            yield
    finally:
        Tensor.__deepcopy__ = refuses  # type: ignore[method-assign]


def _loses_attributes(optimizer: Optimizer) -> bool:
    # torch's leaves out what a subclass has of its own, such as the optimizer that it wraps.
    return type(optimizer).__getstate__ is Optimizer.__getstate__
