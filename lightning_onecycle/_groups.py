"""An optimizer's parameter groups: where learning rate and momentum are, and how they are set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from lightning_onecycle._checks import peak
from lightning_onecycle._ratios import in_proportion

Group = dict[str, Any]
_HOOKS = {
    f"_optimizer_{what}_{when}_hooks"
    for what in ("step", "state_dict", "load_state_dict")
    for when in ("pre", "post")
}


def with_hooks(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer whose steps count: the innermost one that holds the same groups.

    A wrapper (SAM, Lookahead, those of timm, Accelerate and Lightning) may take several steps of
    its own for one that trains, may run no hooks, and may show copies of the groups. The lists of
    parameters in them are the same.

    Raises:
        TypeError: If neither this nor one that it wraps is a torch ``Optimizer``.
    """
    seen = [optimizer]
    while inner := _held_by(seen[-1], seen):
        seen.append(inner)
    innermost = seen[-1]
    if not isinstance(innermost, Optimizer):
        raise TypeError(
            f"optimizer must be a torch Optimizer, got {type(innermost).__name__}, which wraps none"
            " with the same parameter groups: its steps cannot be counted"
        )
    if not vars(innermost).keys() >= _HOOKS or not hasattr(type(innermost).step, "hooked"):
        # Its __init__ has left out that of Optimizer. This adds what is missing, as for a pickle
        # of an older torch.
        Optimizer.__setstate__(innermost, {})
    return innermost


def _held_by(optimizer: Any, seen: list[Any]) -> Optimizer | None:
    """Return an optimizer, not in ``seen``, that this one holds and that has the same groups."""
    groups = getattr(optimizer, "param_groups", None)
    for inner in getattr(optimizer, "__dict__", {}).values():
        if isinstance(inner, Optimizer) and not any(inner is other for other in seen):
            theirs = inner.param_groups
            if groups and len(groups) == len(theirs):
                pairs = zip(groups, theirs, strict=True)
                if all(a.get("params") is b["params"] for a, b in pairs):
                    return inner
    return None


def check_lrs(optimizer: Optimizer) -> None:
    """Refuse groups without a learning rate that can be scheduled.

    Raises:
        TypeError: If a group has none, or one in whole numbers.
    """
    for index, group in enumerate(optimizer.param_groups):
        lr = group.get("lr")
        if lr is None or (isinstance(lr, Tensor) and not lr.is_floating_point()):
            raise TypeError(
                "lr must be a number or a floating-point tensor in each parameter group of"
                f" {type(optimizer).__name__}, got {lr!r} in group {index}"
            )


def undo_schedulers(optimizer: Optimizer, schedulers: Sequence[Any]) -> str:
    """Put each group back to what it was before schedulers were built on the optimizer.

    torch's schedulers keep the learning rate that they found as ``initial_lr``. OneCycleLR and
    CyclicLR are given a peak of their own, and overwrite the momentum, which the optimizer's
    defaults still have.

    Args:
        optimizer: Whose groups are put back.
        schedulers: What was built on it.

    Returns:
        Where the learning rate of the largest group comes from.
    """
    found = list(_flattened(schedulers))
    sources = {}
    for index, group in enumerate(optimizer.param_groups):
        lr, source = _peak_before(group, index, found)
        sources[lr] = source
        set_value(group, "lr", lr)
        if "initial_lr" in group:
            group["initial_lr"] = lr  # a cycle of torch's has a low one
        if "base_momentum" in group:
            _undo_momentum(group, optimizer.defaults)
    return sources[max(sources)]


def _peak_before(group: Group, index: int, schedulers: Sequence[Any]) -> tuple[float, str]:
    for scheduler in schedulers:
        if isinstance(scheduler, OneCycleLR):
            return float(group["max_lr"]), "its max_lr"
        if isinstance(scheduler, CyclicLR):
            return float(scheduler.max_lrs[index]), "its max_lr"
    lr = float(group["lr"])
    if "initial_lr" in group:
        before = float(group["initial_lr"])
    elif len(schedulers) == 1 and hasattr(schedulers[0], "base_lrs"):
        before = float(schedulers[0].base_lrs[index])
    elif any(isinstance(s, (LRScheduler, ReduceLROnPlateau)) for s in schedulers):
        before = lr
    else:  # a class of the project's own, which may have changed it
        return lr, "the lr that the scheduler has left; give max_lr if that is not the peak"
    changed = before != lr
    return before, "the lr of the optimizer" + (" before the scheduler changed it" * changed)


def changed_by_scheduler(groups: list[Group]) -> tuple[float, float] | None:
    """Return the learning rate of a group and what it was before a torch scheduler changed it."""
    for group in groups:
        before = float(group["initial_lr"]) if "initial_lr" in group else float(group["lr"])
        if before != float(group["lr"]):
            return float(group["lr"]), before
    return None


def is_marked(optimizer: Optimizer | None) -> bool:
    """Whether a torch scheduler was built on the optimizer: each wraps its step."""
    return hasattr(getattr(optimizer, "step", None), "_wrapped_by_lr_sched")


def _undo_momentum(group: Group, defaults: Group) -> None:
    """Put back the momentum or beta1 that a cyclical scheduler has overwritten, if it is known.

    It is not known if the group was given its own, which other betas show.
    """
    if "betas" in group and group["betas"][1:] == tuple(defaults.get("betas", ())[1:]):
        group["betas"] = defaults["betas"]
    elif group.get("momentum") and defaults.get("momentum"):
        group["momentum"] = defaults["momentum"]


def _flattened(schedulers: Sequence[Any]) -> Iterator[Any]:
    """Yield schedulers, and those in SequentialLR and ChainedScheduler."""
    for scheduler in schedulers:
        yield scheduler
        yield from _flattened(getattr(scheduler, "_schedulers", ()))


def own_lrs(groups: list[Group]) -> list[float]:
    """Return each group's own learning rate, times its ``lr_scale``.

    timm and others build layer-wise groups with one rate for all and a factor for each, which their
    schedulers multiply by. Rates that are in proportion to the factors have them already.
    """
    lrs = [float(group["lr"]) for group in groups]
    scales = [float(group.get("lr_scale", 1.0)) for group in groups]
    in_proportion = all(
        math.isclose(lr * scales[0], lrs[0] * scale) for lr, scale in zip(lrs, scales, strict=True)
    )
    if in_proportion and len(set(lrs)) > 1:
        return lrs
    return [lr * scale for lr, scale in zip(lrs, scales, strict=True)]


def peaks(own: list[float], max_lr: float | Sequence[float] | None) -> list[float]:
    """Return the peak of each group: its own lr, in proportion to a number, or one given for each.

    Raises:
        ValueError: If a peak is not > 0, or there is not one for each group.
    """
    given = peak(max_lr)
    if given is None:
        return list(own)
    if isinstance(given, list):
        if len(given) != len(own):
            raise ValueError(
                f"max_lr must have one value for each of the {len(own)} parameter groups,"
                f" got {given}"
            )
        return given
    return in_proportion(own, given)


def set_value(group: Group, name: str, value: float) -> None:
    """Set a number; a tensor is filled in place, so that a compiled or captured step sees it."""
    if isinstance(group[name], Tensor):
        group[name].fill_(value)
    else:
        group[name] = value


def unshare(groups: list[Group], name: str, default: Any) -> None:
    """Give each group a tensor of its own, where several hold the same one.

    torch puts the one tensor that an optimizer was given, its ``default``, into every group.
    """
    seen = {id(default)}
    for group in groups:
        if isinstance(group.get(name), Tensor):
            if id(group[name]) in seen:
                group[name] = group[name].clone()
            seen.add(id(group[name]))


def show(groups: list[Group], written: list[Group]) -> None:
    """Copy what was written to the groups of a wrapper, which loading a state has replaced."""
    for group, other in zip(groups, written, strict=False):
        if group is not other:
            names = {"lr", "momentum", "betas", "weight_decay"} & group.keys() & other.keys()
            group.update({name: other[name] for name in names})


def stamp(group: Group) -> Any:
    """Return the learning rate; of a tensor also its version, which counts the writes."""
    lr = group["lr"]
    return lr if type(lr) is float else (lr, getattr(lr, "_version", 0))


def holds(group: Group, name: str, value: float) -> bool:
    """Whether a group has a number, to the precision of its tensor."""
    held = group[name]
    if isinstance(held, Tensor):
        value = float(torch.tensor(value, dtype=held.dtype))
    return float(held) == value


def weight_decay(group: Group) -> float | None:
    """Return the weight decay, or None where there is none."""
    value: Any = group.get("weight_decay")
    return value.item() if hasattr(value, "item") else value  # a tensor's, NumPy's


def set_weight_decay(groups: list[Group], value: float) -> None:
    """Give the largest weight decay of the groups a value; the others keep their ratio to it.

    So a group without weight decay, as of biases and norms, stays without. Where no group has any,
    all get the value.
    """
    decays = in_proportion([weight_decay(group) or 0.0 for group in groups], value)
    for group, decay in zip(groups, decays, strict=True):
        set_value(group, "weight_decay", decay)


def only_makes_state(optimizer: Optimizer, args: Any, kwargs: Any) -> bool:
    """Whether a step trains nothing, and only makes the optimizer create its state.

    ``torch.distributed.checkpoint`` takes such a step before any other, at a learning rate of 0,
    with gradients of 0, and without a closure, which would compute other gradients.

    Args:
        optimizer: The one that steps.
        args: What its ``step`` was given, as hooks are told: first the optimizer itself.
        kwargs: By name.
    """
    closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
    groups = optimizer.param_groups
    if optimizer.state or closure is not None or any(float(group["lr"]) != 0 for group in groups):
        return False
    grads = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    # What a rank has of a DTensor.
    local = [grad.to_local() if hasattr(grad, "to_local") else grad for grad in grads]
    return bool(local) and not any(grad.is_sparse or grad.any() for grad in local)


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
