"""Peak and weight decay of each parameter group: what the factors of a schedule multiply."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning.fabric.utilities import rank_zero_warn
from torch.optim import Optimizer

from lightning_onecycle import _groups


@dataclass(slots=True)
class _Row:
    """What is known of one parameter group.

    Attributes:
        params: Its list of parameters. A group is known by the first of them.
        own: The learning rate that it had before a schedule wrote it.
        peak: What the factors of the learning rate multiply.
        first: The learning rate that it had first from a schedule.
        decay: Its weight decay, which the factors of that multiply. None: it has none.
        decay_now: The weight decay that was written last.
        momentum: Its own momentum. None: it has none.
    """

    params: list[Any]
    own: float
    peak: float
    first: float
    decay: float | None
    decay_now: float | None
    momentum: float | None

    @classmethod
    def of(cls, group: _groups.Group, own: float) -> _Row:
        """Return what a group holds."""
        decay = _groups.weight_decay(group)
        return cls(group["params"], own, own, own, decay, decay, _groups.momentum(group))


class Peaks:
    """Peaks and weight decays, read from an optimizer's groups when a schedule is built on them.

    Args:
        optimizer: Whose groups are read.
        max_lr: As for `ScheduleLR`.
        factor: The schedule's at the position.
        previous: What the writer before has, where there was one.
        takes_over: Whether that one still writes. Its peaks are taken then, and otherwise the rates
            that the groups had before it.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float] | None,
        factor: float,
        previous: Peaks | None,
        *,
        takes_over: bool,
    ) -> None:
        groups = optimizer.param_groups
        own = _groups.own_lrs(groups)
        self._read = [float(group["lr"]) for group in groups]
        self.uses_lr_scale = own != self._read
        self._has_stepped = bool(optimizer.state)
        self._rows = [_Row.of(group, lr) for group, lr in zip(groups, own, strict=True)]
        if previous is not None:
            previous._hand_over(groups, self._rows, takes_over)
        self._max_lr = max_lr
        own = [row.own for row in self._rows]
        peaks = _groups.peaks(own, max_lr)
        for row, peak in zip(self._rows, peaks, strict=True):
            row.peak, row.first = peak, peak * factor
        self._scale = max(peaks) / max(own) if max(own) > 0 else 1.0
        self._number_at_first = len(own)
        # The last groups that were removed: after how many steps, and a parameter of each.
        self._gone: list[tuple[int, weakref.ref[Any]]] = []
        self._written: list[_groups.Group] = []
        self._stamps: list[Any] = []
        self._lrs_now: list[float] = []
        self.momentum_now: float | None = None

    @property
    def lrs(self) -> list[float]:
        """The peak of each group."""
        return [row.peak for row in self._rows]

    @property
    def decays(self) -> list[float | None]:
        """The weight decay of each group, None where it has none."""
        return [row.decay for row in self._rows]

    @property
    def momenta(self) -> list[float | None]:
        """The own momentum of each group, None where it has none."""
        return [row.momentum for row in self._rows]

    def look_at(self, groups: list[_groups.Group]) -> None:
        """Take the groups for those that were written, with the learning rates that they have."""
        self._written = list(groups)
        self._lrs_now = [float(group["lr"]) for group in groups]
        self._stamps = [_groups.stamp(group) for group in groups]
        self.momentum_now = None

    def write(self, optimizer: Optimizer, factor: float) -> None:
        """Set each group's learning rate to ``factor`` times its peak, and remember it."""
        groups = optimizer.param_groups
        self._lrs_now = self._stamps = now = [row.peak * factor for row in self._rows]
        are_floats = True
        for index, group in enumerate(groups):
            if type(group["lr"]) is float:
                group["lr"] = now[index]
            else:
                are_floats = False
        if not are_floats:
            _groups.unshare(groups, "lr", optimizer.defaults.get("lr"))
            for group, lr in zip(groups, now, strict=True):
                _groups.set_value(group, "lr", lr)
            self._stamps = [_groups.stamp(group) for group in groups]

    def remember_decays(self, groups: list[_groups.Group]) -> None:
        """Remember the weight decays that were written."""
        for row, group in zip(self._rows, groups, strict=False):
            row.decay_now = _groups.weight_decay(group)

    def are_as_written(self, groups: list[_groups.Group]) -> bool:
        """Whether these are the groups that were written, with the very numbers that were."""
        # A loop, like the next one: it runs at every step, in a third of the time of `all`.
        written, stamps = self._written, self._stamps
        if len(groups) != len(written):
            return False
        for index, group in enumerate(groups):
            if group is not written[index] or group["lr"] is not stamps[index]:
                return False
        return True

    def are_others(self, groups: list[_groups.Group]) -> bool:
        """Whether groups were added, or replaced as the loading of a state does."""
        written = self._written
        if len(groups) != len(written):
            return True
        for index, group in enumerate(groups):  # noqa: SIM110
            if group is not written[index]:
                return True
        return False

    def changed(self, groups: list[_groups.Group]) -> float | None:
        """Return the first learning rate that is not what was written, or None."""
        for index, group in enumerate(groups):
            if not self._is_as_written(group, index):
                return float(group["lr"])
        return None

    def _is_as_written(self, group: _groups.Group, index: int) -> bool:
        """Whether a group has the rate that was written, or a tensor was filled with it again."""
        if _groups.stamp(group) == self._stamps[index]:
            return True
        return _groups.holds(group, "lr", self._lrs_now[index])

    def _hand_over(self, groups: list[_groups.Group], rows: list[_Row], takes_over: bool) -> None:
        """Put what it has in place of what was read, but not of what was set by hand.

        A group is known by its parameters: others may have been added or removed.
        """
        for index, (row, place) in enumerate(zip(rows, self._places(groups), strict=True)):
            if place is not None and place < len(self._stamps):
                before = self._rows[place]
                if self._is_as_written(groups[index], place):
                    row.own = before.peak if takes_over else before.own
                if row.decay == before.decay_now:
                    row.decay = before.decay
                if row.momentum == self.momentum_now:
                    row.momentum = before.momentum

    def _places(self, groups: list[_groups.Group]) -> list[int | None]:
        """Return where each group stood when it was last seen, by its parameters, or None."""
        places = {_first(row.params): index for index, row in enumerate(self._rows)}
        return [places.get(_first(group["params"])) for group in groups]

    def follow(self, optimizer: Optimizer, factor: float, position: int) -> None:
        """Keep each peak with its group, where groups were added, removed or moved.

        Args:
            optimizer: The optimizer.
            factor: The schedule's at its present position.
            position: Steps taken.

        Raises:
            RuntimeError: If groups take turns: a step of each is a part of one step.
        """
        groups = optimizer.param_groups
        places = self._places(groups)
        present = {_first(group["params"]) for group in groups}
        if any(id(was()) in present for at, was in self._gone if position - at <= 1):
            raise RuntimeError(
                f"{type(optimizer).__name__} takes steps with parts of its parameter groups in"
                " turns, as DeepSpeed's ZeRO does: such steps cannot be counted."
            )
        gone = (row.params for i, row in enumerate(self._rows) if row.params and i not in places)
        self._gone = [(position, weakref.ref(params[0])) for params in gone]
        self._rows = [
            self._read_later(optimizer, group, factor) if place is None else self._rows[place]
            for group, place in zip(groups, places, strict=True)
        ]
        for row, group in zip(self._rows, groups, strict=True):
            row.params = group["params"]
        self._written = list(groups)

    def _read_later(self, optimizer: Optimizer, group: _groups.Group, factor: float) -> _Row:
        row = _Row.of(group, float(group["lr"]))
        if row.first == optimizer.defaults.get("lr"):
            row.peak = row.own * self._scale
        else:  # given as it is to be now, in proportion to the other groups' present values
            row.peak = row.first / factor if factor > 0 else row.first
            row.own = row.peak / self._scale
        return row

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_gone": []}  # weak references cannot be pickled

    def state_dict(self) -> dict[str, Any]:
        """Return them as plain numbers."""
        return {
            "max_lrs": self.lrs,
            "weight_decays": self.decays,
            "first_lrs": [row.first for row in self._rows],
            "groups_when_built": self._number_at_first,
        }

    def load_state_dict(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Take those of groups that were added after the saved ones were read.

        Those of the other groups stay what they are, unless what was read is no peak.
        """
        peaks = list(state.get("max_lrs", self.lrs))
        decays = list(state.get("weight_decays", self.decays))
        first_lrs = list(state.get("first_lrs", [row.first for row in self._rows]))
        kept = state.get("groups_when_built", self._number_at_first)
        own, default = self._read, optimizer.defaults.get("lr")
        if own == first_lrs and any(lr != default for lr in own):
            # A finetuning callback has rebuilt the groups with what they held first.
            self._number_at_first = kept
            peaks, kept = _groups.peaks(peaks, self._max_lr), 0
        elif own == state.get("lrs") != peaks:
            # The optimizer's state was loaded before the peaks were read.
            peaks, kept = _groups.peaks(peaks, self._max_lr), 0
        elif self._has_stepped and "max_lrs" in state and self.lrs != peaks:
            rank_zero_warn(
                f"The peaks of the {type(optimizer).__name__} were read after its state had been"
                f" loaded: they are {self.lrs}, and the checkpoint's are {peaks}. Build ScheduleLR"
                " before you load the optimizer's state, or give max_lr."
            )
        rows = []
        for index, group in enumerate(optimizer.param_groups):
            is_known, is_saved = index < len(self._rows), index < len(peaks)
            if not (is_known or is_saved):
                break  # it is read when it is written
            row = self._rows[index] if is_known else _Row.of(group, peaks[index])
            if is_saved and (index >= kept or not is_known):
                row.peak = peaks[index]
                row.decay = decays[index] if index < len(decays) else row.decay
            if index < len(first_lrs):
                row.first = first_lrs[index]
            row.params, row.decay_now = group["params"], row.decay
            rows.append(row)
        self._rows = rows


def _first(params: list[Any]) -> int:
    """Return what a group is known by: its list may be another, its first parameter is not."""
    return id(params[0] if params else params)
