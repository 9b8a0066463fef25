"""The loss of a batch, wherever a module leaves it, and its mean over batches and devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import Tensor

_VALIDATION_LOSSES = (
    "val_loss",
    "val/loss",
    "valid_loss",
    "valid/loss",
    "validation_loss",
    "validation/loss",
    "loss",
)
_TRAINING_LOSSES = ("train_loss", "train/loss", "training_loss", "training/loss", "loss")


def loss_in(outputs: Any) -> Tensor | None:
    """Return the loss that a step returned, as one number, or None if there is none.

    A tensor of several numbers is none: a ``validation_step`` may return its predictions.
    """
    is_named = isinstance(outputs, Mapping) and "loss" in outputs
    loss = outputs["loss"] if is_named else outputs
    if not (isinstance(loss, Tensor) and loss.is_floating_point()):
        return None
    if not is_named and loss.numel() > 1:
        return None
    loss = loss.detach().mean()
    return loss.float() if loss.dtype in (torch.float16, torch.bfloat16) else loss


def validation_losses(returned: list[Tensor], logged: list[Mapping[str, Any]]) -> list[Tensor]:
    """Return the validation losses, or nothing where there are none.

    They are those logged under a name such as ``val_loss``, or else those that ``validation_step``
    returned, or else those logged under any name with ``loss`` in it. A step may return something
    else than its loss.

    Args:
        returned: One for each batch.
        logged: Names and values: of each call, or of each loader.

    Raises:
        MisconfigurationException: If it is not clear which it is.
    """
    found = _losses_in(logged)
    for name in _VALIDATION_LOSSES:
        if name in found:
            return found[name]
    return returned or _the_only(found, "validation_step", "val_loss")


def training_loss(logged: list[Mapping[str, Any]]) -> Tensor | None:
    """Return what a ``training_step`` that returns no loss has logged as one, or None.

    Args:
        logged: The name and the value of each call.

    Raises:
        MisconfigurationException: If it is not clear which it is.
    """
    found = _losses_in(logged)
    for name in _TRAINING_LOSSES:
        if name in found:
            return found[name][-1]
    return next(iter(_the_only(found, "training_step", "train_loss")), None)


def _losses_in(logged: list[Mapping[str, Any]]) -> dict[str, list[Tensor]]:
    """Return what was logged under each name with ``loss`` in it."""
    found: dict[str, list[Tensor]] = {}
    for values in logged:
        for name, value in values.items():
            name = name.split("/dataloader_idx_")[0].removesuffix("_epoch")
            if "loss" in name.lower() and not name.endswith("_step"):
                found.setdefault(name, []).append(torch.as_tensor(value).detach())
    return found


def _the_only(found: dict[str, list[Tensor]], step: str, name: str) -> list[Tensor]:
    if len(found) > 1:
        raise MisconfigurationException(
            f"Several losses are logged: {', '.join(sorted(found))}. Let {step} return it, or log"
            f" it as {name}."
        )
    return next(iter(found.values()), [])


def mean_over_ranks(trainer: Trainer, losses: list[Tensor]) -> float | None:
    """Return the mean over all that the ranks have, the same number on each of them."""
    total = (
        torch.stack(losses).sum()
        if losses
        else torch.zeros((), device=trainer.strategy.root_device)
    )
    both = torch.stack([total, torch.full_like(total, len(losses))])
    both = trainer.strategy.reduce(both, reduce_op="mean")
    total_loss, count = both.tolist()
    return total_loss / count if count else None
