"""Checks of arguments. An error has the argument, the rule and the value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
                f"max_lr must have a suggestion, got none: {suggestion.reason}. Leave max_lr out to"
                " train at the optimizer's lr"
            )
        return float(suggestion.lr)
    max_lr = getattr(max_lr, "tolist", lambda: max_lr)()  # of an array or a tensor
    if isinstance(max_lr, Sequence) and not isinstance(max_lr, str):
        return [number(f"max_lr[{i}]", lr, "> 0", lambda v: v > 0) for i, lr in enumerate(max_lr)]
    return None if max_lr is None else number("max_lr", max_lr, "> 0", lambda v: v > 0)


def choice(name: str, value: T, options: tuple[T, ...]) -> T:
    """Return ``value`` if it is one of ``options``, or raise ``ValueError``."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")
    return value


def refuse_unknown_arguments(
    owner: str, given: Mapping[str, Any], function: Callable[..., Any]
) -> None:
    """Raise ``TypeError`` if ``owner`` was given an argument that ``function`` does not have."""
    names = list(signature(function).parameters)
    unknown = [name for name in given if name not in names]
    if unknown:
        raise TypeError(
            f"{owner} has no argument {', '.join(unknown)}; there are {', '.join(names)}"
        )
