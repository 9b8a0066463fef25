"""What a fit changes in the trainer and the data: remembered, and put back afterwards."""

from __future__ import annotations

import copy
import functools
import io
import logging
import sys
import threading
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_onecycle import _generators
from lightning_onecycle._lightning import of_either_lightning

_NEVER_ENTERED = (
    Trainer,
    LightningModule,
    Logger,
    Tensor,
    type,
    types.ModuleType,
    types.FunctionType,
    threading.Thread,
    BaseProcess,
    logging.Filterer,
    str,
    bytes,
    int,
    float,
    complex,
    type(None),
)
_CONTAINERS = (list, deque, dict, defaultdict, OrderedDict, Counter, set)
_MOST_OBJECTS, _LONGEST_CONTAINER, _MOST_BYTES = 10_000, 100, 2**27


class Kept:
    """Attributes, contents of plain containers and generators, as they were when first seen."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack  # goes on with the next where one cannot be put back
        self._seen: dict[int, Any] = {}  # the objects, too: an id is not to be given again
        self._bytes_left = _MOST_BYTES

    def attributes(self, owner: Any) -> None:
        """Remember the attributes of ``owner``, and what is in those that are plain containers."""
        attributes = vars(owner)
        was = dict(attributes)
        contents = [
            (value, copy.copy(value)) for value in was.values() if type(value) in _CONTAINERS
        ]

        def put_back() -> None:
            attributes.clear()
            attributes.update(was)
            for value, content in contents:
                _refill(value, content)

        self._stack.callback(put_back)

    def data(self, roots: Iterable[Any]) -> list[Any]:
        """Remember loaders, and what they hold: samplers, datasets, generators, in any depth.

        Returns:
            The iterators among these, of which the place cannot be remembered.
        """
        found, running = deque(roots), []
        never_entered: tuple[type, ...] = of_either_lightning(*_NEVER_ENTERED)
        if "PIL.Image" in sys.modules:  # an image closes its file when it is first used
            never_entered += (sys.modules["PIL.Image"].Image,)
        while found and len(self._seen) < _MOST_OBJECTS:
            item = found.popleft()
            if id(item) in self._seen or isinstance(item, never_entered):
                continue
            self._seen[id(item)] = item
            set_state = _generators.state_of(item)
            if set_state is not None:
                self._stack.callback(set_state)
            elif _is_array(item):
                self._array(item)
            elif isinstance(item, (list, tuple, set, dict, deque)):
                if type(item) in _CONTAINERS:
                    self._stack.callback(_refill, item, copy.copy(item))
                if len(item) <= _LONGEST_CONTAINER:
                    found.extend(item.values() if isinstance(item, dict) else item)
            elif isinstance(item, functools.partial):
                found.extend((*item.args, *item.keywords.values()))
            elif isinstance(item, types.MethodType):
                found.append(item.__self__)
            elif hasattr(item, "__dict__"):
                self.attributes(item)
                if isinstance(item, nn.Module):  # such as a transform that is fitted to the data
                    for buffer in item.buffers(recurse=False):
                        self._stack.callback(buffer.detach().copy_, buffer.detach().clone())
                if isinstance(item, DataLoader):
                    # Workers that persist have a state of their own: these start others.
                    vars(item)["_iterator"] = None
                found.extend(vars(item).values())
            elif isinstance(item, Iterator) and not isinstance(item, io.IOBase):
                running.append(item)
        return running

    def _array(self, array: Any) -> None:
        """Remember what an array contains, such as an order that is shuffled in place."""
        if array.flags.writeable and array.nbytes <= self._bytes_left:
            self._bytes_left -= array.nbytes
            self._stack.callback(array.__setitem__, ..., array.copy())


def _is_array(item: Any) -> bool:
    numpy = sys.modules.get("numpy")
    # What a memmap contains is a file's.
    return numpy is not None and type(item) is numpy.ndarray


def _refill(container: Any, content: Any) -> None:
    """Give a container the content that it had."""
    container.clear()
    if isinstance(container, (list, deque)):
        container.extend(content)
    else:
        container.update(content)
