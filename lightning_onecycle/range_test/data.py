"""The data that a range test accepts: the training must find them unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader

from lightning_onecycle._lightning import of_either_lightning


def check_data(name: str, given: Any) -> None:
    """Refuse data that one pass uses up, alone or among others, and a loader without batches.

    No batch is taken, and ``iter`` is not called, because it may change the data.

    Args:
        name: The argument that the data were given as.
        given: The data, as ``Trainer.fit`` takes them.

    Raises:
        MisconfigurationException: If the data cannot be used.
    """
    for loader in _each(given):
        if _is_used_up_by_one_pass(loader):
            raise MisconfigurationException(
                f"{name} must be iterable more than once, got a {type(loader).__name__}: the test"
                " would leave nothing in it for the training."
            )
    if isinstance(given, DataLoader):
        try:
            length = len(given)
        except TypeError:  # of a stream
            return
        if length == 0:
            raise MisconfigurationException(f"{name} has no batches.")


def _each(given: Any) -> Iterator[Any]:
    for loader in CombinedLoader(given).flattened:
        if isinstance(loader, of_either_lightning(CombinedLoader)):
            yield from _each(loader.flattened)
        else:
            yield loader


def _is_used_up_by_one_pass(loader: Any) -> bool:
    """Whether ``iter`` does no more than return the iterator as it stands."""
    if not hasattr(loader, "__next__"):
        return False
    iterate = getattr(type(loader), "__iter__", None)
    code = getattr(iterate, "__code__", None)  # a generator's, or that of zip, is written in C
    # What starts again calls or sets something; a bare `return self` names nothing.
    return code is None or not code.co_names
