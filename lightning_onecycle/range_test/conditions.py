"""What an LR range test ran under, so that a later training can be compared. Pure Python."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from lightning_onecycle._ratios import in_proportion

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True)
class Conditions:
    """The settings that a learning rate depends on, as plain values that JSON can hold.

    All hyper-parameters act together, so a range test is good for the conditions it ran under
    (Smith, arXiv:1803.09820, section 5). Anything that is not a plain value is kept as its text.

    Args:
        optimizer: Name of its class.
        groups: For each param group its settings, without its parameters; in place of its learning
            rate the ratio to the largest group's, ``lr_ratio``.
        momentum: Momentum (or beta1) that the test was run at, or None.
        batch_size: Samples in a batch, per device, or None if it is not known.
        accumulation: Batches in one optimizer step; where it changes, by the epoch that it holds
            from.
        world_size: Number of devices, over all nodes.
        precision: As the trainer calls it.
        gradient_clip: What is clipped and at which value, or None.
        data: Name of the class of the data.
        data_settings: Its settings.
        model: Name of the class of the model.
        parameters: Number of parameters that are trained.
        schedule: The schedule that the answer is meant for.
        flags: What else affects the loss.
        versions: Versions of the libraries.

    Example:
        >>> then = Conditions(optimizer="SGD", batch_size=64, groups=({"weight_decay": 1e-4},))
        >>> now = Conditions(optimizer="SGD", batch_size=128, groups=({"weight_decay": 1e-3},))
        >>> then.compare(now)
        ['weight_decay: 0.0001, now 0.001', 'batch_size: 64, now 128']
    """

    optimizer: str = ""
    groups: tuple[dict[str, Any], ...] = field(default=(), hash=False)
    momentum: float | None = None
    batch_size: int | None = None
    accumulation: int | dict[str, int] = field(default=1, hash=False)
    world_size: int = 1
    precision: str = ""
    gradient_clip: str | None = None
    data: str = ""
    data_settings: dict[str, Any] = field(default_factory=dict, hash=False)
    model: str = ""
    parameters: int = 0
    schedule: str = ""
    flags: dict[str, Any] = field(default_factory=dict, hash=False)
    versions: dict[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, _plain(value))
        for name in ("data_settings", "flags", "versions"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"{name} must be a mapping, got {getattr(self, name)!r}")
        groups = self.groups
        if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
            raise ValueError(f"groups must be mappings, one for each param group, got {groups!r}")
        object.__setattr__(self, "groups", tuple(groups))
        if isinstance(self.accumulation, dict) and list(self.accumulation) == ["0"]:
            object.__setattr__(self, "accumulation", self.accumulation["0"])

    @property
    def has_betas(self) -> bool:
        """Whether parameter groups have ``betas``, as those of Adam's family."""
        return any("betas" in group for group in self.groups)

    def with_weight_decay(self, value: float) -> Conditions:
        """Return the conditions with this weight decay of the group that has the largest.

        The other groups keep their ratio to it. Where no group has any, all get it.
        """
        decays = in_proportion([group.get("weight_decay") or 0.0 for group in self.groups], value)
        groups = (
            {**group, "weight_decay": decay}
            for group, decay in zip(self.groups, decays, strict=True)
        )
        return replace(self, groups=tuple(groups))

    def compare(self, other: Conditions) -> list[str]:
        """Say what differs between these conditions and ``other``, which hold now.

        Args:
            other: The conditions of, for example, the training that is about to start.

        Returns:
            One line for each difference, ``batch_size: 64, now 128``, and none if they are the
            same. Param groups are counted from 0. Library versions come last.

        Example:
            >>> then = Conditions(momentum=0.85, versions={"torch": "2.12"})
            >>> then.compare(Conditions(momentum=0.9, versions={"torch": "2.13"}))
            ['momentum: 0.85, now 0.9', 'library version of torch: 2.12, now 2.13']
        """
        lines: list[str] = []
        for item in fields(self):
            then, now = getattr(self, item.name), getattr(other, item.name)
            if item.name == "groups":
                lines += _compare_groups(then, now)
            elif item.name == "versions":
                lines += _compare_items("library version of {}", then, now)
            elif item.name in ("data_settings", "flags"):
                lines += _compare_items("{}", then, now)
            else:
                lines += _line(item.name, then, now)
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the conditions as `json.dump` takes them."""
        return {**asdict(self), "groups": [dict(group) for group in self.groups]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Conditions:
        """Make conditions of what `to_dict` returned, perhaps in another version.

        Args:
            values: Unknown keys are ignored, missing ones take their default.

        Returns:
            The conditions.

        Raises:
            ValueError: If ``values`` is not a mapping, or one of the values cannot be used.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"conditions must be a mapping, got {values!r}")
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


def without_addresses(text: str) -> str:
    """Return the text of an object without addresses, which are others in each process."""
    return _ADDRESS.sub("", text)


def _plain(value: Any) -> Any:
    """Return what is left of a value after a way through JSON."""
    if value is None or isinstance(value, (bool, int, str)):
        # Subclasses, as of enumerations, are reduced to what JSON makes of them.
        return json.loads(json.dumps(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=str)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_plain(item) for item in value]
    try:
        number = value.item()  # tensors and NumPy's scalars
    except (AttributeError, TypeError, ValueError, RuntimeError):
        name = getattr(value, "__qualname__", None)
        return name if isinstance(name, str) else without_addresses(str(value))
    return _plain(number) if isinstance(number, (bool, int, float)) else str(number)


def _same(then: Any, now: Any) -> bool:
    # 1 and 1.0 are the same setting, True and 1 are not.
    return then == now and isinstance(then, bool) == isinstance(now, bool)


def _line(name: str, then: Any, now: Any) -> Iterator[str]:
    if not _same(then, now):
        yield f"{name}: {_text(then)}, now {_text(now)}"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value or "none"
    return "none" if value is None else json.dumps(value)


_MISSING = "not set"


def _compare_items(name: str, then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for key in {**then, **now}:
        yield from _line(name.format(key), then.get(key, _MISSING), now.get(key, _MISSING))


def _compare_groups(
    then: tuple[dict[str, Any], ...], now: tuple[dict[str, Any], ...]
) -> Iterator[str]:
    yield from _line("number of param groups", len(then), len(now))
    alone = len(then) == len(now) == 1
    for index, (before, after) in enumerate(zip(then, now, strict=False)):
        yield from _compare_items("{}" if alone else f"{{}} of group {index}", before, after)
