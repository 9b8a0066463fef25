"""The batch size of a training loader: what holds it, and how long an epoch is with another."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from lightning.fabric.utilities.data import sized_len
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch.utils.data import BatchSampler, DataLoader


class SizeHolder(NamedTuple):
    """What holds a batch size: the size it had, and the function that sets another."""

    was: Any
    put: Callable[[Any], None]


def size_holders(trainer: Trainer, attribute: str) -> list[SizeHolder]:
    """Return what holds the batch size of the next training loader.

    It is an attribute of the module or data module whose ``train_dataloader`` makes the loader, or
    of its ``hparams``, or both. If ``fit`` was given the loader, it is the loader itself.

    Raises:
        MisconfigurationException: If nothing holds it.
    """
    source = trainer.fit_loop._data_source
    owner: Any = source.instance
    if not source.is_module():
        if _size_in(owner) is None:
            raise MisconfigurationException(
                "A batch size that changes needs one training DataLoader with a batch size, or a"
                f" data module that makes it; fit was given {type(owner).__name__}."
            )
        return [SizeHolder(_size_in(owner), partial(_resize, owner))]
    found = []
    if hasattr(owner, attribute):
        found.append(SizeHolder(getattr(owner, attribute), partial(setattr, owner, attribute)))
    if attribute in owner.hparams:
        hparams = owner.hparams
        found.append(SizeHolder(hparams[attribute], partial(hparams.__setitem__, attribute)))
    if not found:
        raise MisconfigurationException(
            f"A batch size that changes needs an attribute {attribute!r} of"
            f" {type(owner).__name__}, which its train_dataloader reads."
        )
    return found


def check(trainer: Trainer, size: int, attribute: str) -> None:
    """Check that the training loader has the batch size that was set.

    Raises:
        MisconfigurationException: If it has another, or is not one DataLoader.
    """
    found = _size_in(trainer.train_dataloader)
    if found != size:
        owner = type(trainer.fit_loop._data_source.instance).__name__
        has = f"a {type(trainer.train_dataloader).__name__} of batch size {found}"
        raise MisconfigurationException(
            f"The batch size was set to {size}, and the training loader is {has}: the"
            f" train_dataloader of {owner} must return one DataLoader, and read {attribute!r} when"
            " it is called."
        )


def batches_with(trainer: Trainer, size: int) -> int | float:
    """Return the batches of an epoch of the present training loader with another batch size."""
    loader: Any = trainer.train_dataloader
    samples = sized_len(loader.sampler)
    if samples is None:  # a stream
        return trainer.num_training_batches
    batches = samples // size if loader.batch_sampler.drop_last else math.ceil(samples / size)
    limit: Any = trainer.limit_train_batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def batch_size_of(loader: Any) -> int | None:
    """Return the batch size of a loader, or of its batch sampler, or None where there is none."""
    size = getattr(loader, "batch_size", None)
    if size is None:
        size = getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    return size if isinstance(size, int) else None


def _size_in(loader: Any) -> int | None:
    sampler = getattr(loader, "batch_sampler", None)
    if isinstance(loader, DataLoader) and isinstance(sampler, BatchSampler):
        return sampler.batch_size
    return None


def _resize(loader: DataLoader[Any], size: int) -> None:
    loader.batch_sampler.batch_size = size  # type: ignore[union-attr]
    if loader.batch_size is not None:
        # A DataLoader refuses to have it set, for the iterators that would not notice: Lightning
        # makes a new one.
        vars(loader)["batch_size"] = size
