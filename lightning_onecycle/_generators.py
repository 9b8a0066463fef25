"""Random number generators (Python, NumPy, torch): saving and restoring their state."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def state_of(item: Any) -> Callable[[], Any] | None:
    """Return a function that restores the generator's present state, or None for other objects."""
    if isinstance(item, torch.Generator):
        return functools.partial(item.set_state, item.get_state())
    if isinstance(item, random.Random) and not isinstance(item, random.SystemRandom):
        return functools.partial(item.setstate, item.getstate())
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(item, numpy.random.RandomState):
        return functools.partial(item.set_state, item.get_state())
    if numpy is not None and isinstance(item, numpy.random.Generator):
        return functools.partial(setattr, item.bit_generator, "state", item.bit_generator.state)
    return None


def global_state(device: torch.device) -> Callable[[], None]:
    """Return a function that restores the present state of the global and device generators.

    Lightning's ``isolate_rng`` does so once, at the end of a context, and not on MPS.
    """
    restore: list[Callable[[], Any]] = [
        functools.partial(random.setstate, random.getstate()),
        functools.partial(torch.set_rng_state, torch.get_rng_state()),
    ]
    if "numpy" in sys.modules:
        legacy = sys.modules["numpy"].random
        restore.append(functools.partial(legacy.set_state, legacy.get_state()))
    if device.type == "cuda":
        state = torch.cuda.get_rng_state(device)
        restore.append(functools.partial(torch.cuda.set_rng_state, state, device))
    if device.type == "mps":
        restore.append(functools.partial(torch.mps.set_rng_state, torch.mps.get_rng_state()))

    def restore_all() -> None:
        """Restore the state of each generator."""
        for restore_one in restore:
            restore_one()

    return restore_all


@contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """Leave the global and device generators at the end as they are at the beginning."""
    restore_all = global_state(device)
    try:
        yield
    finally:
        restore_all()
