"""Random number generators (Python, NumPy, torch): saving and restoring their state."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch


def state_of(item: Any) -> Callable[[], Any] | None:
    """Return a function that restores the generator's present state, or None for other objects."""
    if isinstance(item, torch.Generator):
        return functools.partial(item.set_state, item.get_state())
    if isinstance(item, random.Random):
        return functools.partial(item.setstate, item.getstate())
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(item, numpy.random.RandomState):
        return functools.partial(item.set_state, item.get_state())
    if numpy is not None and isinstance(item, numpy.random.Generator):
        return functools.partial(setattr, item.bit_generator, "state", item.bit_generator.state)
    return None


def global_state(device: torch.device) -> Callable[[], None]:
    """Return a function that restores the present state of the global and device generators."""
    states: Sequence[Callable[[], None]] = [
        functools.partial(random.setstate, random.getstate()),
        functools.partial(torch.set_rng_state, torch.get_rng_state()),
    ]
    if "numpy" in sys.modules:
        numpy_random = sys.modules["numpy"].random
        states = [*states, functools.partial(numpy_random.set_state, numpy_random.get_state())]
    if device.type in ("cuda", "mps"):
        accelerator = getattr(torch, device.type)
        where = (device,) if device.type == "cuda" else ()
        state = accelerator.get_rng_state(*where)
        states = [*states, functools.partial(accelerator.set_rng_state, state, *where)]

    def put_back() -> None:
        for set_state in states:
            set_state()

    return put_back
