"""What an optimizer's hooks hold: it counts the steps taken, and writes the values of the next."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.fabric.utilities import rank_zero_info, rank_zero_warn
from torch.optim import Optimizer

from lightning_onecycle import _groups
from lightning_onecycle._checks import whole
from lightning_onecycle._peaks import Peaks
from lightning_onecycle.phases import Schedule, value_at

# There is never more than one writer of an optimizer.
_WRITERS: weakref.WeakKeyDictionary[Optimizer, Writer] = weakref.WeakKeyDictionary()

# What a message names when it differs from a checkpoint's, and its name there.
_TOLD = {"total_steps": "total_steps", "max_lrs": "peak", "weight_decays": "weight decay"}


def writer_of(optimizer: Optimizer) -> Writer | None:
    """Return the last writer of an optimizer, or None."""
    return _WRITERS.get(_groups.with_hooks(optimizer))


class Writer:
    """Counts the steps of one optimizer, and writes a schedule into its parameter groups.

    It holds no optimizer, the hooks are given theirs. So the optimizer holds the writer, nothing
    holds the optimizer, and both are freed with the last reference to it.

    Args:
        optimizer: Whose steps are counted, and whose groups are written.
        given: The same, or an optimizer that wraps it.
        schedule: What to write.
        total_steps: Optimizer steps in the run, at least 1.
        max_lr: As for `ScheduleLR`.

    Attributes:
        position: Optimizer steps taken.
        attached: Whether it still counts and writes.
    """

    peaks: Peaks

    def __init__(
        self,
        optimizer: Optimizer,
        given: Optimizer,
        schedule: Schedule,
        total_steps: int,
        max_lr: float | Sequence[float] | None,
        *,
        tells: bool = True,
    ) -> None:
        self.schedule = schedule
        self._tells = tells
        self._schedules_weight_decay = schedule.schedules_weight_decay
        self.total_steps = whole("total_steps", total_steps, 1)
        self.segments = schedule.segments(self.total_steps)
        self.position = 0
        self.attached = True
        self._loaded: dict[str, Any] | None = None
        self._told: set[str] = set()
        self._in_step = False
        previous = _WRITERS.get(optimizer)
        self.peaks = Peaks(
            optimizer,
            max_lr,
            value_at(self.segments, self.position).lr,
            None if previous is None else previous.peaks,
            takes_over=previous is not None and previous.attached,
        )
        if self.peaks.uses_lr_scale:
            self.tell_once(optimizer, "lr_scale", "lr_scale of its groups multiplies their peaks")
        self._marked_before = _groups.is_marked(given)
        changed = _groups.changed_by_scheduler(optimizer.param_groups)
        if self._marked_before and previous is None and max_lr is None and changed is not None:
            now, before = changed
            what = (
                f"a scheduler that was built before has changed its lr from {before:g} to {now:g},"
                " which is the peak. Leave that scheduler out, or give max_lr"
            )
            self.tell_once(optimizer, "scheduler", what)
        self.enter(optimizer, given)
        if previous is not None:
            self._write_momentum(optimizer)
        self.write(optimizer)

    def lrs(self) -> list[float]:
        """Return the learning rate that the schedule has for each group at the position."""
        factor = value_at(self.segments, self.position).lr
        return [peak * factor for peak in self.peaks.lrs]

    def set_total(self, optimizer: Optimizer, total_steps: int) -> None:
        """Lay the schedule over another number of steps."""
        if total_steps != self.total_steps:
            self.total_steps = whole("total_steps", total_steps, 1)
            self.segments = self.schedule.segments(self.total_steps)
            self.write(optimizer)

    def move_to(self, optimizer: Optimizer, position: int) -> None:
        """Go on at another position."""
        self.position = whole("step", position, 0)
        self.write(optimizer)

    # ---- hooks ------------------------------------------------------------------------------

    def enter(self, optimizer: Optimizer, given: Optimizer) -> None:
        """Hook itself to an optimizer, in place of the writer before; see the class's arguments."""
        previous = _WRITERS.get(optimizer)
        if previous is self:
            return
        if previous is not None:
            previous.leave()
        _WRITERS[optimizer] = self
        self.peaks.look_at(optimizer.param_groups)
        self._given = weakref.ref(given)
        self._call_uncompiled = torch.compiler.disable(_call)
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
            optimizer.register_load_state_dict_post_hook(self.write),
        ]

    def leave(self) -> None:
        """Let go of the optimizer, for good."""
        self.attached = False
        for handle in self._handles:
            handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        # An optimizer is copied without its hooks.
        of_the_hooks = ("_handles", "_given", "_call_uncompiled")
        return {k: v for k, v in vars(self).items() if k not in of_the_hooks}

    def begin_step(self) -> None:
        """Count the step that the optimizer is in the middle of."""
        self._in_step = True

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():
            self._call_uncompiled(self._before_step, optimizer, args, kwargs)
            return
        self._in_step = True
        if not self.attached:
            return
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"A CUDA graph that has captured {type(optimizer).__name__}.step is replayed"
                " without the hooks that count steps: the schedule would stand still. Capture"
                " forward and backward alone, or use torch.compile(optimizer.step)."
            )
        groups = optimizer.param_groups
        if self.peaks.are_as_written(groups):
            return
        if self.peaks.are_others(groups):
            fewer = len(self.peaks.lrs) - len(groups)
            self.write(optimizer)
            if fewer > 0:
                what = f"{fewer} of its parameter groups are gone; the others keep their peaks"
                self.tell_once(optimizer, "gone", what)
        elif (lr := self.peaks.changed(groups)) is None:
            pass
        elif _groups.only_makes_state(optimizer, args, kwargs):
            self._in_step = False  # it is not a step of the training
        elif not self._marked_before and _groups.is_marked(self._given()):
            self.attached = False
            rank_zero_info(
                f"Another scheduler was built on the {type(optimizer).__name__}, and has set lr to"
                f" {lr:g}: the schedule stops after {self.position} of {self.total_steps} steps."
            )
        else:
            who = "a scheduler built before or other code" if self._marked_before else "other code"
            self.tell_once(optimizer, "lr", f"lr was set to {lr:g} by {who} and is restored")
            self.write(optimizer)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():
            self._call_uncompiled(self._after_step, optimizer, args, kwargs)
            return
        # The hooks run again inside a step that calls its parent class's: that is one step.
        if not self.attached or not self._in_step:
            return
        self._in_step = False
        # A fused optimizer is called by GradScaler even for a step that it then leaves out.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is None or not found_inf.item():
            if self._loaded is not None:
                self._tell_changes(self._loaded)
                self._loaded = None
            self.position += 1
            self.write(optimizer)

    # ---- writing ----------------------------------------------------------------------------

    def write(self, optimizer: Optimizer) -> None:
        """Write the values of the position into the groups."""
        if not self.attached:
            return
        factor, momentum, decay_factor = value_at(self.segments, self.position)
        groups = optimizer.param_groups
        if self.peaks.are_others(groups):
            self.peaks.follow(optimizer, factor, self.position)
        self.peaks.write(optimizer, factor)
        self.peaks.momentum_now = momentum
        if momentum is not None:
            for group in groups:
                if not _groups.set_momentum(group, momentum):
                    why = "its momentum is 0" if "momentum" in group else "it has none"
                    self.tell_once(optimizer, "momentum", f"momentum is not cycled, because {why}")
        if self._schedules_weight_decay:
            if not any(self.peaks.decays):
                what = "weight decay is not scheduled, because there is none"
                self.tell_once(optimizer, "weight decay", what)
            self._write_weight_decay(optimizer, decay_factor)
        given = self._given()
        if given is not None and given.param_groups is not groups:
            _groups.show(given.param_groups, groups)

    def _write_weight_decay(self, optimizer: Optimizer, factor: float) -> None:
        groups, default = optimizer.param_groups, optimizer.defaults.get("weight_decay")
        _groups.unshare(groups, "weight_decay", default)
        for group, decay in zip(groups, self.peaks.decays, strict=False):
            if decay is not None:
                _groups.set_value(group, "weight_decay", decay * factor)
        self.peaks.remember_decays(groups)

    def _write_momentum(self, optimizer: Optimizer) -> None:
        """Put each group's own momentum back, where a schedule before has cycled it."""
        for group, own in zip(optimizer.param_groups, self.peaks.momenta, strict=False):
            if own is not None:
                _groups.set_momentum(group, own)

    # ---- state ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state, see `ScheduleLR.state_dict`."""
        return {
            "last_epoch": self.position,
            "total_steps": self.total_steps,
            "lrs": self.lrs(),
            **self.peaks.state_dict(),
            "schedule": zlib.crc32(repr(self.schedule).encode()),
        }

    def load_state_dict(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Take a state, see `ScheduleLR.load_state_dict`."""
        if "last_epoch" not in state:
            raise ValueError(f"state_dict must have 'last_epoch', got {sorted(state)}")
        self.position = whole("last_epoch", state["last_epoch"], 0)
        self.peaks.load_state_dict(optimizer, state)
        self._loaded = dict(state)
        # The optimizer's own state has brought the checkpoint's back.
        self._write_weight_decay(optimizer, value_at(self.segments, self.position).weight_decay)
        self._write_momentum(optimizer)
        self.write(optimizer)

    # ---- messages ---------------------------------------------------------------------------

    def tell_once(self, optimizer: Optimizer, about: str, what: str) -> None:
        """Print a message about the optimizer, at most once."""
        if self._tells and about not in self._told:
            self._told.add(about)
            rank_zero_info(f"The schedule of {type(optimizer).__name__}: {what}.")

    def _tell_changes(self, saved: dict[str, Any]) -> None:
        if self.position == 0:
            return
        now = self.state_dict()
        changes = [
            f"{name} {saved[key]} -> {now[key]}"
            for key, name in _TOLD.items()
            if key in saved and saved[key] != now[key]
        ]
        if saved.get("schedule", now["schedule"]) != now["schedule"]:
            changes.append("other phases")
        if changes:
            rank_zero_info(
                f"The schedule continues after {self.position} steps under the present"
                f" configuration, which differs from the checkpoint's: {', '.join(changes)}."
            )
        if self.position >= self.total_steps:
            rank_zero_warn(
                f"{self.position} optimizer steps are taken, and the schedule has only"
                f" {self.total_steps}: its last value stays."
            )


def _call(hook: Callable[..., None], *arguments: Any) -> None:
    """Call a hook. With `torch.compiler.disable`, torch.compile leaves it out of the step.

    It is called so only while the step is compiled: it takes longer than the hook itself.
    """
    hook(*arguments)
