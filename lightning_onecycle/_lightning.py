"""The two names of Lightning, ``lightning.pytorch`` and ``pytorch_lightning``: two sets of classes.

This package imports the first, and works with a trainer of either. The second is only looked for
among what has been imported: an object of a class that nobody has imported does not exist.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any, TypeVar

from lightning.pytorch import Callback as _Callback
from lightning.pytorch import Trainer

T = TypeVar("T")


def both(*classes: type[T]) -> tuple[type[T], ...]:
    """Return ``classes``, and those of the same names in ``pytorch_lightning`` if it is loaded.

    For ``isinstance``; to be called anew each time, as it may be loaded later.
    """
    return (*classes, *filter(None, map(_twin, classes)))


def own(cls: type[T], trainer: Trainer) -> type[T]:
    """Return ``cls``, or the class of the same name in the Lightning that the trainer is of."""
    twin = _twin(Trainer)
    return (twin and isinstance(trainer, twin) and _twin(cls)) or cls


def package(trainer: Trainer) -> Any:
    """Return the Lightning that the trainer is of, ``lightning.pytorch`` or the other."""
    return sys.modules[own(Trainer, trainer).__module__.removesuffix(".trainer.trainer")]


def own_with(methods: type, cls: type[T], trainer: Trainer) -> type[T]:
    """Return a subclass of what `own` returns, with ``methods`` in front of those it has."""
    return type(methods.__name__, (methods, own(cls, trainer)), {})


def _twin(cls: type[T]) -> type[T] | None:
    ours, theirs = "lightning.pytorch.", "pytorch_lightning."
    if not cls.__module__.startswith(ours):
        return None
    module = sys.modules.get(cls.__module__.replace(ours, theirs, 1))
    twin = getattr(module, cls.__name__, None)
    return twin if isinstance(twin, type) else None


class Callback(_Callback):
    """A callback of Lightning's, by both names as soon as both are loaded.

    Their hooks are the same, so that a trainer of either runs it; but ``Trainer(callbacks=...)``
    and ``LightningCLI`` ask whether it is a ``Callback`` of theirs.
    """

    def __init__(self) -> None:
        _join()  # it may have been imported behind this package


def _join() -> None:
    bases = both(_Callback)
    if Callback.__bases__ != bases:
        # Not where a class of the user's has the other Callback in front of one of ours.
        with contextlib.suppress(TypeError):
            Callback.__bases__ = bases


_join()
