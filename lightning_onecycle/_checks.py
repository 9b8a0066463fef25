"""Checks of arguments. An error has the argument, the rule and the value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from typing import Any, TypeVar

T = TypeVar("T", bound=str)


def number(name: str, value: Any, rule: str, holds: Callable[[float], bool]) -> float:
    """Return ``value`` as a float, or raise ``ValueError``: ``name must be <rule>, got <value>``.

    Anything that converts to a float without loss of meaning is taken (NumPy scalars, one-element
    tensors, YAML integers); strings, booleans, NaN and infinities are not.
    """
    if not isinstance(value, (str, bytes, bool)):
        try:
            result = float(value)
        except (TypeError, ValueError, OverflowError):
            pass
        else:
            if math.isfinite(result) and holds(result):
                return result
    raise ValueError(f"{name} must be {rule}, got {value!r}")


def whole(name: str, value: Any, minimum: int) -> int:
    """Return ``value`` as an int of at least ``minimum``, or raise ``ValueError``."""
    rule = f"a whole number >= {minimum}"
    return int(number(name, value, rule, lambda n: n.is_integer() and n >= minimum))


def peak(max_lr: Any) -> Any:
    """Return ``max_lr`` as None, a float or a list of floats, or raise ``ValueError``.

    A curve or a search stands for what it suggests.
    """
    if hasattr(max_lr, "suggest"):
        suggestion = max_lr.suggest()
        if suggestion.lr is None:
            raise ValueError(
                f"max_lr must suggest a peak, got none: {suggestion.reason}. Without max_lr the fit"
                " trains at the optimizer's lr"
            )
        return float(suggestion.lr)
    if isinstance(max_lr, str):
        rule = "a number, a list of numbers, a curve or a search"
        raise ValueError(f"max_lr must be {rule}, got the text {max_lr!r}")
    max_lr = getattr(max_lr, "tolist", lambda: max_lr)()  # of an array or a tensor
    if isinstance(max_lr, Sequence):
        return [number(f"max_lr[{i}]", lr, "> 0", lambda v: v > 0) for i, lr in enumerate(max_lr)]
    return None if max_lr is None else number("max_lr", max_lr, "> 0", lambda v: v > 0)


def choice(name: str, value: T, options: tuple[T, ...]) -> T:
    """Return ``value`` if it is one of ``options``, or raise ``ValueError``."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")
    return value


def refuse_unknown_arguments(
    owner: Callable[..., Any], given: Mapping[str, Any], function: Callable[..., Any]
) -> None:
    """Raise ``TypeError`` if ``given``, which goes to ``function``, has an unknown argument.

    Args:
        owner: The class or function that was called. The message has its arguments too.
        given: Its keyword arguments, without those that it has by name.
        function: What takes them.
    """
    of_owner = signature(owner).parameters.values()
    own = [p.name for p in of_owner if p.kind is not p.VAR_KEYWORD and p.name != "self"]
    names = list(dict.fromkeys([*own, *signature(function).parameters]))
    for name in given:
        if name not in names:
            near = get_close_matches(name, names, 1)
            hint = f" Do you mean {near[0]}?" if near else ""
            raise TypeError(
                f"{owner.__name__} has no argument {name}.{hint} There are {', '.join(names)}."
            )
