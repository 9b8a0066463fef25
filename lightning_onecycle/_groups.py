"""An optimizer's parameter groups: where learning rate and momentum are, and how they are set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_onecycle._checks import number

Group = dict[str, Any]


def peaks(own: list[float], max_lr: float | Sequence[float] | None) -> list[float]:
    """Return the peak of each group: its own lr, in proportion to a number, or one given for each.

    Raises:
        ValueError: If a peak is not > 0, or there is not one for each group.
    """
    if max_lr is None:
        return list(own)
    max_lr = getattr(max_lr, "tolist", lambda: max_lr)()  # of an array or a tensor
    if isinstance(max_lr, Sequence) and not isinstance(max_lr, str):
        if len(max_lr) != len(own):
            raise ValueError(
                f"max_lr must have one value for each of the {len(own)} parameter groups,"
                f" got {list(max_lr)}"
            )
        return [number(f"max_lr[{i}]", lr, "> 0", lambda v: v > 0) for i, lr in enumerate(max_lr)]
    peak = number("max_lr", max_lr, "> 0", lambda v: v > 0)
    largest = max(own)
    return [peak * (lr / largest) if largest > 0 else peak for lr in own]


def set_lr(group: Group, lr: float, default: Any) -> None:
    """Set the learning rate; a tensor is filled in place, so that a captured graph sees it.

    torch puts the one tensor that an optimizer was given, its ``default``, into every group. Such a
    group gets a tensor of its own.
    """
    if isinstance(group["lr"], Tensor):
        if group["lr"] is default:
            group["lr"] = group["lr"].clone()
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


def momentum(group: Group) -> float | None:
    """Return the momentum, or the first beta, or None where there is neither."""
    value = group["betas"][0] if "betas" in group else group.get("momentum")
    return None if value is None else float(value)


def set_momentum(group: Group, value: float) -> bool:
    """Set the momentum or the first beta, unless there is none or it is switched off.

    Returns:
        Whether it was set.
    """
    if "betas" in group:
        beta1, *others = group["betas"]
        if isinstance(beta1, Tensor):
            beta1.fill_(value)
        else:
            group["betas"] = (value, *others)
    elif group.get("momentum"):
        group["momentum"] = value
    else:
        return False
    return True
