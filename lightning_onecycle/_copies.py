"""Copies of a module, of its optimizers and of callbacks, which leave the originals as they are."""

from __future__ import annotations

import copy
import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning.fabric.utilities import rank_zero_warn
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from lightning_onecycle._deepcopy import Memo, deepcopied, graphs_cut
from lightning_onecycle._lightning import of_either_lightning

HELD_AS_DATA = (Dataset, DataLoader, CombinedLoader, LightningDataModule)
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
)
_OF_THE_TREE = ("_parameters", "_buffers", "_modules", *_HOOKS)
_HOLD_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial, list, tuple, dict)
_IN_GLOBALS = (Optimizer, LRScheduler, list, tuple, dict)
_COMPILED = ("forward", "training_step", "validation_step", "test_step", "predict_step")


def what_is_shared(trainer: Trainer, module: nn.Module) -> tuple[Memo, list[Any]]:
    """Return a memo for deepcopy: what copies share with the originals, or get in their place.

    Data that the module holds are shared, and returned too.
    """
    memo: Memo = {}
    held: list[Any] = []
    data = of_either_lightning(*HELD_AS_DATA)
    for shared in (trainer, trainer.strategy, *trainer.loggers, trainer.datamodule):  # type: ignore[attr-defined]
        memo[id(shared)] = shared
    for child in module.modules():
        for value in vars(child).values():
            if isinstance(value, data):
                memo[id(value)] = value
                held.append(value)
            elif isinstance(value, torch.Generator):
                memo[id(value)] = torch.Generator(value.device).set_state(value.get_state())
        if getattr(child, "_compiler_ctx", None) is not None:
            memo[id(child._compiler_ctx)] = None
    return memo, held


def copy_module(module: LightningModule, memo: Memo) -> LightningModule:
    """Return a deep copy; functions that have captured the module capture the copy.

    The same holds for what else is copied with it, and for its optimizers and their schedulers.

    Raises:
        MisconfigurationException: If something in the module cannot be copied.
    """
    try:
        copied = deepcopied(module, memo)
    except Exception as error:
        raise MisconfigurationException(
            f"{type(module).__name__} must be copied, so that it stays unchanged, and"
            f" {_culprit(module)} cannot be copied: {error}"
        ) from error
    if getattr(module, "_compiler_ctx", None) is not None:
        # These would run the original's code, with the original's weights.
        for name in _COMPILED:
            vars(copied).pop(name, None)
    rebound = _Rebound(memo)
    for child in copied.modules():
        for holder in (vars(child), *(vars(child).get(name) or {} for name in _HOOKS)):
            for key, value in holder.items():
                if isinstance(value, _HOLD_FUNCTIONS) and key not in _OF_THE_TREE:
                    holder[key] = rebound(value)
    # deepcopy leaves out what is set or hooked on a parameter.
    for original, parameter in zip(module.parameters(), copied.parameters(), strict=True):
        vars(parameter).update(vars(original))
        if parameter.requires_grad != original.requires_grad:  # a copy of TorchScript's
            parameter.requires_grad_(original.requires_grad)
        for hook in (original._backward_hooks or {}).values():
            parameter.register_hook(rebound(hook))
    return copied


class _Rebound:
    """Return functions and containers with copies in place of the originals that they hold.

    A compiled function that holds an original is returned uncompiled.
    """

    def __init__(self, memo: Memo) -> None:
        self.memo = memo
        self._seen: dict[int, tuple[Any, Any]] = {}  # the values, too: an id may be given again

    def __call__(self, value: Any) -> Any:
        if id(value) in self.memo:
            return self.memo[id(value)]
        if isinstance(value, (Optimizer, LRScheduler)):
            return _copy_optimizer(value, self.memo)
        if not isinstance(value, _HOLD_FUNCTIONS):
            return value
        if id(value) not in self._seen:
            self._seen[id(value)] = (value, value)  # a function may hold itself
            self._seen[id(value)] = (value, _rebuilt(value, self))
        return self._seen[id(value)][1]


def _rebuilt(value: Any, new: Callable[[Any], Any]) -> Any:
    if type(value) in (list, tuple):
        items = [new(item) for item in value]
        return value if _same(items, value) else type(value)(items)
    if type(value) is dict:
        items = [new(item) for item in value.values()]
        return value if _same(items, value.values()) else dict(zip(value, items, strict=True))
    if isinstance(value, types.MethodType):
        function, owner = new(value.__func__), new(value.__self__)
        same = function is value.__func__ and owner is value.__self__
        return value if same else types.MethodType(function, owner)
    if type(value) is functools.partial:
        parts = (value.func, value.args, value.keywords)
        function, args, keywords = map(new, parts)
        if _same((function, args, keywords), parts):
            return value
        rebuilt = functools.partial(function, *args, **keywords)
        vars(rebuilt).update(vars(value))  # what functools.update_wrapper has set
        return rebuilt
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
                    with graphs_cut():
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
            with graphs_cut():
                copies.append(copy.deepcopy(callback, memo))
        except Exception as error:
            rank_zero_warn(
                f"The callback {type(callback).__name__} cannot be copied and is left out: {error}"
            )
    return copies


# ---- optimizers that were made before, and are kept anywhere --------------------------------


@contextmanager
def globals_of_the_copy(configure: Callable[..., Any], memo: Memo) -> Iterator[None]:
    """Replace what trains the original by copies, in the global names of ``configure_optimizers``.

    This is done first, because a scheduler that it builds writes into its optimizer at once.
    Assignments to global names are undone.
    """
    function = inspect.unwrap(configure)
    function = getattr(function, "__func__", function)
    function = getattr(function, "func", function)  # of a partial
    names = function.__code__.co_names if isinstance(function, types.FunctionType) else ()
    variables = getattr(function, "__globals__", {})
    rebound = _Rebound(memo)
    was = {name: variables[name] for name in names if name in variables}
    for name, value in was.items():
        if isinstance(value, _IN_GLOBALS):
            variables[name] = rebound(value)
    try:
        yield
    finally:
        variables.update(was)


def optimizers_of_the_copy(
    copied: LightningModule,
    optimizers: list[Optimizer],
    configs: list[LRSchedulerConfig],
    memo: Memo,
) -> tuple[list[Optimizer], list[LRSchedulerConfig]]:
    """Return copies of the optimizers, and of their schedulers, that train the original.

    Raises:
        MisconfigurationException: If an optimizer trains what is neither the copy's nor the
            original's, and would be changed for good.
    """
    held = (*copied.parameters(), *vars(copied).values())
    own = {id(tensor) for tensor in held} | {id(new) for key, new in memo.items() if id(new) != key}
    for optimizer in optimizers:
        for tensor in _trained_by(optimizer):
            if id(tensor) not in own and memo.get(id(tensor), tensor) is tensor:
                raise MisconfigurationException(
                    f"{type(copied).__name__}.configure_optimizers returned an optimizer"
                    f" ({type(optimizer).__name__}) of parameters that the module does not have."
                    " A test would change them for good: register them in the module."
                )
    rebound = _Rebound(memo)
    schedulers = [replace(config, scheduler=rebound(config.scheduler)) for config in configs]
    return [rebound(optimizer) for optimizer in optimizers], schedulers


def _copy_optimizer(value: Any, memo: Memo) -> Any:
    """Return a copy of an optimizer or scheduler that trains originals, or else itself."""
    optimizer = getattr(value, "optimizer", value)
    tensors = _trained_by(optimizer)
    if all(memo.get(id(tensor), tensor) is tensor for tensor in tensors):
        return value
    for tensor in tensors:
        memo.setdefault(id(tensor), tensor)
    try:
        return deepcopied(value, memo)
    except Exception as error:
        raise MisconfigurationException(
            f"The {type(value).__name__} was made outside of configure_optimizers. It must be"
            f" copied, so that it stays unchanged, and cannot be copied: {error}"
        ) from error


def _trained_by(optimizer: Any) -> list[Tensor]:
    groups = getattr(optimizer, "param_groups", ())
    return [tensor for group in groups for tensor in group["params"]]
