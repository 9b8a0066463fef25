"""Attributes of a module or items of its hparams, which a tuner sets to what it has found."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from lightning.fabric.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch import LightningModule

from lightning_onecycle.range_test.curve import LRCurve


def holders_of_lr(model: LightningModule, attr_name: str) -> Iterator[tuple[Any, str]]:
    """Yield each object or mapping that has the attribute, and the last part of its name."""
    found = False
    for name in [attr_name] if attr_name else ["lr", "learning_rate"]:
        *path, last = name.split(".")
        for holder in (model, getattr(model, "hparams", {})):
            for part in path:
                holder = get(holder, part)
            if get(holder, last) is not None:
                found = True
                yield holder, last
        if found:
            return
    wanted = f"attribute {attr_name!r}" if attr_name else "attribute 'lr' or 'learning_rate'"
    raise AttributeError(
        f"update_attr=True needs an {wanted} in {type(model).__name__} or its hparams. Without"
        " update_attr the curve needs none."
    )


def get(holder: Any, name: str) -> Any:
    """Return an attribute or an item, or None where there is none."""
    if isinstance(holder, MutableMapping):
        return holder.get(name)
    return getattr(holder, name, None)


def put(holder: Any, name: str, value: Any) -> None:
    """Set an attribute or an item."""
    if isinstance(holder, MutableMapping):
        holder[name] = value
    else:
        setattr(holder, name, value)


def update(holders: list[tuple[Any, str]], curve: LRCurve) -> None:
    """Set what `holders_of_lr` found to what a curve suggests, or say why it stays."""
    suggestion = curve.suggest()
    if suggestion.lr is None:
        rank_zero_warn(f"The learning rate stays as it is: {suggestion.reason}.")
        return
    for holder, name in holders:
        put(holder, name, suggestion.lr)
    rank_zero_info(f"{holders[0][1]} is {suggestion.lr:.3g} now: {suggestion.reason}.")
