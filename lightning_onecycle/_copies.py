"""Copies of a module and of callbacks, which can train without touching the originals."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.fabric.utilities import rank_zero_warn
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_onecycle._lightning import of_either_lightning

HELD_AS_DATA = (Dataset, DataLoader, CombinedLoader, LightningDataModule)
_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
)
_OF_THE_TREE = ("_parameters", "_buffers", "_modules", *_HOOKS)
_HOLD_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial, list, tuple, dict)
_COMPILED = ("forward", "training_step", "validation_step", "test_step", "predict_step")


def what_is_shared(trainer: Trainer, module: nn.Module) -> tuple[dict[int, Any], list[Any]]:
    """Return a memo for deepcopy: what copies share with the originals, or get in their place.

    Data that the module holds are shared, and returned too.
    """
    memo: dict[int, Any] = {}
    held: list[Any] = []
    data = of_either_lightning(*HELD_AS_DATA)
    for shared in (trainer, trainer.strategy, *trainer.loggers, trainer.datamodule):  # type: ignore[attr-defined]
        memo[id(shared)] = shared
    for child in module.modules():
        for value in vars(child).values():
            if isinstance(value, data):
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
    replace: dict[int, tuple[Any, Any]] = {
        id(a): (a, b) for a, b in zip(module.modules(), copied.modules(), strict=True)
    }
    for original, parameter in zip(module.parameters(), copied.parameters(), strict=True):
        replace[id(original)] = (original, parameter)
    for child in copied.modules():
        for holder in (vars(child), *(vars(child).get(name) or {} for name in _HOOKS)):
            for key, value in holder.items():
                if isinstance(value, _HOLD_FUNCTIONS) and key not in _OF_THE_TREE:
                    holder[key] = _rebound(value, replace)
    # deepcopy leaves out what is set or hooked on a parameter.
    for original, parameter in zip(module.parameters(), copied.parameters(), strict=True):
        vars(parameter).update(vars(original))
        for hook in (original._backward_hooks or {}).values():
            parameter.register_hook(_rebound(hook, replace))
    return copied


def _rebound(value: Any, replace: dict[int, tuple[Any, Any]]) -> Any:
    """Return what holds copies where ``value``, a function or a container, holds originals.

    A compiled function that does is returned uncompiled.
    """
    if id(value) in replace:
        return replace[id(value)][1]
    if not isinstance(value, _HOLD_FUNCTIONS):
        return value
    replace[id(value)] = (value, value)  # a function may hold itself
    rebound = _rebuilt(value, lambda part: _rebound(part, replace))
    replace[id(value)] = (value, rebound)
    return rebound


def _rebuilt(value: Any, new: Callable[[Any], Any]) -> Any:
    if type(value) in (list, tuple):
        items = [new(item) for item in value]
        return value if _same(items, value) else type(value)(items)
    if type(value) is dict:
        items = [new(item) for item in value.values()]
        return value if _same(items, value.values()) else dict(zip(value, items, strict=True))
    if isinstance(value, types.MethodType):
        owner = new(value.__self__)
        return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
    if type(value) is functools.partial:
        parts = (value.func, value.args, value.keywords)
        function, args, keywords = map(new, parts)
        same = _same((function, args, keywords), parts)
        return value if same else functools.partial(function, *args, **keywords)
    if not isinstance(value, types.FunctionType):
        return value
    compiled = getattr(value, "_torchdynamo_orig_callable", None)
    if compiled is not None:
        function = new(compiled)
        return value if function is compiled else function
    cells = value.__closure__ or ()
    was = (*map(_content, cells), value.__defaults__, value.__kwdefaults__)
    now = [new(part) for part in was]
    if _same(now, was):
        return value
    closure = tuple(
        cell if a is b else types.CellType(b) for cell, a, b in zip(cells, was, now, strict=False)
    )
    rebound = types.FunctionType(
        value.__code__, value.__globals__, value.__name__, now[-2], closure or None
    )
    rebound.__kwdefaults__ = now[-1]
    return functools.update_wrapper(rebound, value)


def _same(a: Iterable[Any], b: Iterable[Any]) -> bool:
    return all(x is y for x, y in zip(a, b, strict=True))


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
