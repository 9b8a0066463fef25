"""Peak and weight decay of each parameter group: what the factors of a schedule multiply."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from lightning.fabric.utilities import rank_zero_warn
from torch.optim import Optimizer

from lightning_onecycle import _groups


class Peaks:
    """Peaks and weight decays, read from an optimizer's groups when a schedule is laid over them.

    Args:
        optimizer: Whose groups are read.
        max_lr: As for `ScheduleLR`.
        previous: What the writer before has, where there was one.
        takes_over: Whether that one still writes. Its peaks are taken then, and otherwise the rates
            that the groups had before it.

    Attributes:
        lrs: The peak of each group.
        decays: The weight decay of each group, None where it has none.
    """

    lrs: list[float]
    decays: list[float | None]
    _own: list[float]

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float] | None,
        previous: Peaks | None,
        *,
        takes_over: bool,
    ) -> None:
        groups = optimizer.param_groups
        own = _groups.own_lrs(groups)
        self.decays = [_groups.weight_decay(group) for group in groups]
        self.momenta = [_groups.momentum(group) for group in groups]
        self._read = [float(group["lr"]) for group in groups]
        self.uses_lr_scale = own != self._read
        self._has_stepped = bool(optimizer.state)
        if previous is not None:
            lrs = previous.lrs if takes_over else previous._own
            previous._hand_over(groups, own, self.decays, self.momenta, lrs)
        self._max_lr = max_lr
        self._own = list(own)
        self.lrs = _groups.peaks(own, max_lr)
        self._scale = max(self.lrs) / max(own) if max(own) > 0 else 1.0
        self._number_at_first = len(own)
        self.first_lrs: list[float] = []  # what the groups get first, set by the writer
        self._params = [group["params"] for group in groups]
        # The last groups that were removed: after how many steps, and a parameter of each.
        self._gone: list[tuple[int, weakref.ref[Any]]] = []
        self._written: list[_groups.Group] = []
        self._stamps: list[Any] = []
        self._lrs_now: list[float] = []
        self.momentum_now: float | None = None
        self._decays_now = list(self.decays)

    def look_at(self, groups: list[_groups.Group]) -> None:
        """Take the groups for those that were written, with the learning rates that they have."""
        self._written = list(groups)
        self._lrs_now = [float(group["lr"]) for group in groups]
        self._stamps = [_groups.stamp(group) for group in groups]
        self.momentum_now = None

    def write(self, optimizer: Optimizer, factor: float) -> None:
        """Set each group's learning rate to ``factor`` times its peak, and remember it."""
        groups = optimizer.param_groups
        self._lrs_now = self._stamps = now = [peak * factor for peak in self.lrs]
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
        self._decays_now = [_groups.weight_decay(group) for group in groups]

    def are_as_written(self, groups: list[_groups.Group]) -> bool:
        """Whether these are the groups that were written, with the very numbers that were."""
        # A loop, like the next: at every step, it takes a third of what `all` and `zip` do.
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

    def _hand_over(
        self,
        groups: list[_groups.Group],
        own: list[float],
        decays: list[float | None],
        momenta: list[float | None],
        lrs: list[float],
    ) -> None:
        """Put what it has in place of what was read, but not of what was set by hand.

        A group is known by its parameters: others may have been added or removed.
        """
        for index, before in enumerate(self._places(groups)):
            if before is not None and before < len(self._stamps):
                if self._is_as_written(groups[index], before):
                    own[index] = lrs[before]
                if decays[index] == self._decays_now[before]:
                    decays[index] = self.decays[before]
                if momenta[index] == self.momentum_now:
                    momenta[index] = self.momenta[before]

    def _places(self, groups: list[_groups.Group]) -> list[int | None]:
        """Return where each group stood when it was last seen, by its parameters, or None."""
        places = {_first(params): index for index, params in enumerate(self._params)}
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
        gone = (params for i, params in enumerate(self._params) if params and i not in places)
        self._gone = [(position, weakref.ref(params[0])) for params in gone]
        columns = (self.lrs, self._own, self.first_lrs, self.decays, self._decays_now, self.momenta)
        before = list(zip(*columns, strict=True))
        rows = [
            self._read_later(optimizer, group, factor) if place is None else before[place]
            for group, place in zip(groups, places, strict=True)
        ]
        (
            self.lrs,
            self._own,
            self.first_lrs,
            self.decays,
            self._decays_now,
            self.momenta,
        ) = map(list, zip(*rows, strict=True))
        self._params = [group["params"] for group in groups]
        self._written = list(groups)

    def _read_later(self, optimizer: Optimizer, group: _groups.Group, factor: float) -> Any:
        lr, decay = float(group["lr"]), _groups.weight_decay(group)
        momentum = _groups.momentum(group)
        if lr == optimizer.defaults.get("lr"):
            return lr * self._scale, lr, lr, decay, decay, momentum
        # Given as it is to be now, in proportion to the other groups' present values.
        own = lr / factor if factor > 0 else lr
        return own, own / self._scale, lr, decay, decay, momentum

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_gone": []}  # weak references cannot be pickled

    def state_dict(self) -> dict[str, Any]:
        """Return them as plain numbers."""
        return {
            "max_lrs": list(self.lrs),
            "weight_decays": list(self.decays),
            "first_lrs": list(self.first_lrs),
            "groups_when_built": self._number_at_first,
        }

    def load_state_dict(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Take those of groups that were added after the saved ones were read.

        Those of the other groups stay what they are, unless what was read is no peak.
        """
        peaks = list(state.get("max_lrs", self.lrs))
        decays = list(state.get("weight_decays", self.decays))
        first_lrs = list(state.get("first_lrs", self.first_lrs))
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
        groups = optimizer.param_groups
        # Where fewer groups were saved, the others keep what was read.
        end = max(kept, len(peaks))
        self.lrs = (self.lrs[:kept] + peaks[kept:] + self.lrs[end:])[: len(groups)]
        self.decays = (self.decays[:kept] + decays[kept:] + self.decays[end:])[: len(groups)]
        count = len(self.lrs)
        self._own = (self._own + self.lrs[len(self._own) :])[:count]
        self.first_lrs = (first_lrs + self.first_lrs[len(first_lrs) :])[:count]
        self._decays_now = list(self.decays)
        momenta = [_groups.momentum(group) for group in groups]
        self.momenta = (self.momenta + momenta[len(self.momenta) :])[:count]
        self._params = [group["params"] for group in groups][:count]


def _first(params: list[Any]) -> int:
    """Return what a group is known by: its list may be another, its first parameter is not."""
    return id(params[0] if params else params)
