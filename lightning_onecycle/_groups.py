"""An optimizer's parameter groups: where learning rate and momentum are, and how they are set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lightning_onecycle._checks import number

Group = dict[str, Any]


def with_hooks(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer whose ``step`` runs hooks: this one, or the one that it wraps.

    A wrapper that leaves out the constructor of ``Optimizer`` (``PostLocalSGDOptimizer``) has no
    hooks; it steps an optimizer that has, with the same groups. Lightning's has those of another.

    Raises:
        TypeError: If there is no such optimizer.
    """
    hooks = getattr(optimizer, "_optimizer_step_post_hooks", None)
    for inner in vars(optimizer).values():
        if isinstance(inner, Optimizer) and inner.param_groups is optimizer.param_groups:
            inner = with_hooks(inner)
            if hooks is None or hooks is inner._optimizer_step_post_hooks:
                return inner
    if hooks is None:
        raise TypeError(
            f"optimizer must have step hooks, and {type(optimizer).__name__} has none: let its"
            " __init__ call that of torch.optim.Optimizer"
        )
    if not hasattr(type(optimizer).step, "hooked"):
        optimizer._patch_step_function()  # as zero_grad does for such a wrapper
    return optimizer


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


def set_value(group: Group, name: str, value: float, default: Any) -> None:
    """Set a number; a tensor is filled in place, so that a compiled or captured step sees it.

    torch puts the one tensor that an optimizer was given, its ``default``, into every group. Such a
    group gets a tensor of its own.
    """
    if isinstance(group[name], Tensor):
        if group[name] is default:
            group[name] = group[name].clone()
        group[name].fill_(value)
    else:
        group[name] = value


def set_lr(group: Group, lr: float, default: Any) -> None:
    """Set the learning rate; see `set_value`."""
    if type(group["lr"]) is float:  # the usual case, in every step
        group["lr"] = lr
    else:
        set_value(group, "lr", lr, default)


def stamp(group: Group) -> Any:
    """Return the learning rate; where it is a tensor, with what counts the writes into it."""
    lr = group["lr"]
    return lr if type(lr) is float else (lr, getattr(lr, "_version", 0))


def weight_decay(group: Group) -> float | None:
    """Return the weight decay, or None where there is none."""
    value = group.get("weight_decay")
    return value.item() if isinstance(value, Tensor) else value


def at_rest(groups: list[Group]) -> bool:
    """Whether a step would train nothing: each learning rate and gradient is 0.

    ``torch.distributed.checkpoint`` takes such a step to have an optimizer make its state.
    """
    if any(float(group["lr"]) != 0 for group in groups):
        return False
    for group in groups:
        for parameter in group["params"]:
            grad = parameter.grad
            grad = grad.to_local() if hasattr(grad, "to_local") else grad  # of a DTensor
            if grad is not None and (grad.is_sparse or grad.any()):
                return False
    return True


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
