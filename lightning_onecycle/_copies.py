"""Copies of a module and of callbacks, which can train without touching the originals."""

from __future__ import annotations

import copy
import functools
import types
from typing import Any

import torch
from lightning.fabric.utilities import rank_zero_warn
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

HELD_AS_DATA = (Dataset, DataLoader, CombinedLoader, LightningDataModule)
_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
)
_COMPILED = ("forward", "training_step", "validation_step", "test_step", "predict_step")


def what_is_shared(trainer: Trainer, module: nn.Module) -> tuple[dict[int, Any], list[Any]]:
    """Return a memo for deepcopy: what copies share with the originals, or get in their place.

    Data that the module holds are shared, and returned too.
    """
    memo: dict[int, Any] = {}
    held: list[Any] = []
    for shared in (trainer, trainer.strategy, *trainer.loggers, trainer.datamodule):  # type: ignore[attr-defined]
        memo[id(shared)] = shared
    for child in module.modules():
        for value in vars(child).values():
            if isinstance(value, HELD_AS_DATA):
                memo[id(value)] = value
                held.append(value)
            elif isinstance(value, Tensor) and not value.is_leaf:  # deepcopy refuses it
                memo[id(value)] = value.detach().clone()
            elif isinstance(value, torch.Generator):
                memo[id(value)] = torch.Generator(value.device).set_state(value.get_state())
        if getattr(child, "_compiler_ctx", None) is not None:
            memo[id(child._compiler_ctx)] = None
    return memo, held


def copy_module(module: LightningModule, memo: dict[int, Any]) -> LightningModule:
    """Return a deep copy; functions that have captured the module capture the copy.

    Raises:
        MisconfigurationException: If something in the module cannot be copied.
    """
    try:
        copied = copy.deepcopy(module, memo)
    except Exception as error:
        raise MisconfigurationException(
            f"{type(module).__name__} must be copied to leave it as it is, and"
            f" {_culprit(module)} cannot be: {error}"
        ) from error
    if getattr(module, "_compiler_ctx", None) is not None:
        # These would run the original's code, with the original's weights.
        for name in _COMPILED:
            vars(copied).pop(name, None)
    replace: dict[int, Any] = {
        id(a): b for a, b in zip(module.modules(), copied.modules(), strict=True)
    }
    for original, parameter in zip(module.parameters(), copied.parameters(), strict=True):
        replace[id(original)] = parameter
    for child in copied.modules():
        for holder in (vars(child), *(vars(child).get(name) or {} for name in _HOOKS)):
            for key, value in holder.items():
                if isinstance(value, types.FunctionType):
                    holder[key] = _rebound(value, replace)
    # deepcopy leaves out what is set or hooked on a parameter.
    for original, parameter in zip(module.parameters(), copied.parameters(), strict=True):
        vars(parameter).update(vars(original))
        for hook in (original._backward_hooks or {}).values():
            parameter.register_hook(_rebound(hook, replace))
    return copied


def _rebound(function: Any, replace: dict[int, Any]) -> Any:
    """Return a function that has captured the copies where this one has captured originals."""
    cells = getattr(function, "__closure__", None)
    if not cells or not any(id(_content(cell)) in replace for cell in cells):
        return function
    closure = tuple(
        types.CellType(replace[id(_content(cell))]) if id(_content(cell)) in replace else cell
        for cell in cells
    )
    rebound = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, closure
    )
    return functools.update_wrapper(rebound, function)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def _culprit(module: nn.Module) -> str:
    for prefix, child in module.named_modules():
        for name, value in vars(child).items():
            if name not in ("_modules", "_trainer"):
                try:
                    copy.deepcopy(value)
                except Exception:
                    return f"its attribute {f'{prefix}.{name}'.lstrip('.')}"
    return "it"


def copy_callbacks(callbacks: list[Callback], memo: dict[int, Any]) -> list[Callback]:
    """Return deep copies; a callback that cannot be copied is left out, with a warning."""
    copies = []
    for callback in callbacks:
        for name in ("log", "log_dict"):  # methods of a module, which each fit attaches anew
            memo[id(vars(callback).get(name))] = None
        try:
            copies.append(copy.deepcopy(callback, memo))
        except Exception as error:
            rank_zero_warn(
                f"The callback {type(callback).__name__} cannot be copied and is left out: {error}"
            )
    return copies
