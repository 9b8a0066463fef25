"""The two names of Lightning, ``lightning.pytorch`` and ``pytorch_lightning``: two sets of classes.

This package uses the first, and imports the second too where it is installed: its callbacks derive
from the ``Callback`` of each, and a trainer of either takes them.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABCMeta
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import lightning_utilities.core.rank_zero as rank_zero

_log = rank_zero.log  # Each Lightning puts a logger of its own there when it is imported.

import lightning.pytorch  # noqa: E402
from lightning.pytorch import Trainer  # noqa: E402

T = TypeVar("T")


def _import_pytorch_lightning() -> ModuleType | None:
    """Return ``pytorch_lightning``, or None where it is not installed or cannot be imported."""
    try:
        if find_spec("pytorch_lightning") is None:
            return None
        module = importlib.import_module("pytorch_lightning")
        _ = module.Callback, module.Trainer  # A mere folder of that name has neither.
        return module
    except Exception as error:
        rank_zero.rank_zero_warn(
            f"pytorch_lightning cannot be imported ({type(error).__name__}: {error})."
            " lightning_onecycle works with lightning.pytorch alone."
        )
        return None


_pytorch_lightning = _import_pytorch_lightning()
if _log.name.startswith(("lightning.pytorch.", "pytorch_lightning.")):
    rank_zero.log = _log  # The messages stay with the Lightning that the user has imported.


def of_either_lightning(*classes: type[T]) -> tuple[type[T], ...]:
    """Return ``classes`` and their counterparts in ``pytorch_lightning``, for ``isinstance``."""
    return (*classes, *filter(None, map(_counterpart, classes)))


def class_for(cls: type[T], trainer: Trainer) -> type[T]:
    """Return ``cls``, or its counterpart where the trainer is of ``pytorch_lightning``."""
    return (lightning_of(trainer) is _pytorch_lightning and _counterpart(cls)) or cls


def lightning_of(trainer: Trainer) -> Any:
    """Return the Lightning that the trainer is of: ``lightning.pytorch``, ``pytorch_lightning``."""
    theirs = _pytorch_lightning
    return theirs if theirs and isinstance(trainer, theirs.Trainer) else lightning.pytorch


def subclass_for(mixin: type, cls: type[T], trainer: Trainer) -> type[T]:
    """Return a subclass of what `class_for` returns, with the methods of ``mixin``."""
    return type(mixin.__name__, (mixin, class_for(cls, trainer)), {})


def _counterpart(cls: type[T]) -> type[T] | None:
    """Return the class of ``pytorch_lightning`` that has the name of ``cls``, if there is one."""
    ours, theirs = "lightning.pytorch.", "pytorch_lightning."
    if _pytorch_lightning is None or not cls.__module__.startswith(ours):
        return None
    module = sys.modules.get(cls.__module__.replace(ours, theirs, 1))
    return getattr(module, cls.__name__, None)


_CALLBACKS = of_either_lightning(lightning.pytorch.Callback)


class _CallbackType(ABCMeta):
    """Allows ``class Mine(pl.Callback, OneCycle)``, by leaving out what `OneCycle` derives from.

    Python refuses a base in front of its subclass. An `ABCMeta`, because bases may be abstract.
    """

    def __new__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **arguments: Any
    ) -> Any:
        inherited = {ancestor for base in bases for ancestor in base.__mro__[1:]}
        kept = (base for base in bases if base not in _CALLBACKS or base not in inherited)
        return super().__new__(cls, name, tuple(kept), namespace, **arguments)


if TYPE_CHECKING:  # Type checkers know no bases that are computed.
    from lightning.pytorch import Callback as _Callback
else:

    class _Callback(*_CALLBACKS, metaclass=_CallbackType):
        pass


class Callback(_Callback):
    """A callback of Lightning's, by both names.

    ``Trainer(callbacks=...)`` and ``LightningCLI`` ask whether it is a ``Callback`` of theirs.

    Attributes:
        takes_part_in_range_test: Whether a range test, and a search, runs with a copy of it. Any
            callback may have it. It is False for what ends, records or measures a run, or sets the
            learning rate, as none of these is a condition of the training.
    """

    takes_part_in_range_test: ClassVar[bool] = True

    def __getstate__(self) -> dict[str, Any]:
        # A fit attaches two methods of its module. A copy would copy the module with them.
        return {k: v for k, v in vars(self).items() if k not in ("log", "log_dict")}
