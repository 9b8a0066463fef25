"""The one way into the optimizer: a torch scheduler that counts the optimizer's own steps."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from lightning.fabric.utilities import rank_zero_info, rank_zero_warn
from torch.optim import Optimizer, Rprop
from torch.optim.lr_scheduler import LRScheduler

from lightning_onecycle import _groups
from lightning_onecycle._checks import whole
from lightning_onecycle.phases import Schedule, value_at

# The last ScheduleLR of each optimizer, kept alive by its hooks: there is never more than one.
_WRITERS: weakref.WeakKeyDictionary[Optimizer, weakref.ref[ScheduleLR]] = (
    weakref.WeakKeyDictionary()
)

# What is told when it differs from a checkpoint's, and its name.
_TOLD = {"total_steps": "total_steps", "max_lrs": "peak", "weight_decays": "weight decay"}


class ScheduleLR(LRScheduler):
    r"""Write a `Schedule` into an optimizer: learning rate, momentum or beta1, weight decay.

    At :math:`k` steps taken out of :math:`T`, each parameter group has

    .. math:: \eta = \text{peak} \cdot \text{lr}(k, T), \quad
              \lambda = \text{weight\_decay} \cdot \text{decay}(k, T), \quad m = m(k, T)

    where peak and weight decay are the group's own when the scheduler was built. :math:`m` goes to
    ``momentum`` (SGD, RMSprop, Muon) or to the first of ``betas`` (Adam's family, NAdam); the other
    betas are not touched. A momentum of 0 is not switched on.

    The position is the number of optimizer steps *taken*: a hook on ``optimizer.step`` counts them
    and writes the values for the next one, so a step that ``GradScaler`` skips does not count.
    `step` does nothing, and may be called as often as a training loop likes.

    Tensors are filled in place, so that a compiled step sees them and is not compiled again. A
    wrapper without hooks of its own is counted through the optimizer that it wraps.

    One writer per optimizer: a second `ScheduleLR` takes over from the first, with its peaks, and
    this one stops when another scheduler is built on its optimizer (as Lightning's SWA does).

    Args:
        optimizer: Whose parameter groups are written.
        schedule: What to write.
        total_steps: Optimizer steps in the run, at least 1. May be set again at any time.
        max_lr: None: each group's own ``lr`` is its peak. A number: the peak of the largest group;
            the others keep their ratio to it. A sequence: one peak for each group.

    Attributes:
        max_lrs: The peak of each group.
        last_epoch: The position: optimizer steps taken. The name is torch's.

    Raises:
        TypeError: If ``optimizer`` or ``schedule`` is of another type.
        ValueError: If ``total_steps`` or ``max_lr`` is out of range.

    Example:
        >>> import torch
        >>> from lightning_onecycle import one_cycle
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4, momentum=0.9)
        >>> scheduler = ScheduleLR(optimizer, one_cycle(), total_steps=5)
        >>> for _ in range(5):
        ...     print(f"{scheduler.get_last_lr()[0]:g} {optimizer.param_groups[0]['momentum']:g}")
        ...     optimizer.step()
        0.04 0.95
        0.4 0.85
        0.04 0.95
        0.0202 0.95
        0.0004 0.95
    """

    max_lrs: list[float]
    _weight_decays: list[float | None]

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule,
        total_steps: int,
        *,
        max_lr: float | Sequence[float] | None = None,
    ) -> None:
        # The base class's constructor is left out on purpose. It would put keys into the parameter
        # groups, which travel in checkpoints, wrap optimizer.step, and count by calls of step().
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizer must be a torch Optimizer, got {type(optimizer).__name__}: the steps of"
                " others cannot be counted"
            )
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a Schedule, got {type(schedule).__name__}")
        _groups.check_lrs(optimizer)
        self._hooked = _groups.with_hooks(optimizer)
        self.optimizer = optimizer
        self.schedule = schedule
        self.last_epoch = 0
        self._total_steps = whole("total_steps", total_steps, 1)
        self._segments = schedule.segments(self._total_steps)
        self._loaded: dict[str, Any] | None = None
        self._told: set[str] = set()
        self._attached = True
        self._in_step = False

        own = [float(group["lr"]) for group in optimizer.param_groups]
        decays = [_groups.weight_decay(group) for group in optimizer.param_groups]
        previous = _last_writer_of(optimizer)
        if previous is not None:
            if previous.wrote_last():
                # What the groups hold now is a point of the other's schedule.
                own, decays = list(previous.max_lrs), list(previous._weight_decays)
            previous._leave()
        self._own = own
        self._groups_when_built = len(own)
        self._max_lr = max_lr
        self.max_lrs = _groups.peaks(own, max_lr)
        self._scale = max(self.max_lrs) / max(own) if max(own) > 0 else 1.0
        self._weight_decays = decays
        # What the groups held first: a finetuning callback rebuilds them with it on resuming.
        self._first_lrs = self.get_lr()
        self._written: list[Any] = []
        self._wrapped_before = hasattr(optimizer.step, "_wrapped_by_lr_sched")
        self._enter()
        self._write()
        if isinstance(self._hooked, Rprop):
            rank_zero_warn(
                "Rprop reads its learning rate once, at the first step, and then finds step sizes"
                " of its own: a schedule does not reach it."
            )

    # ---- what a torch scheduler has ---------------------------------------------------------

    @property
    def base_lrs(self) -> list[float]:  # type: ignore[override]
        """The peaks, under torch's name."""
        return self.max_lrs

    @property
    def _last_lr(self) -> list[float]:  # type: ignore[override]
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def get_last_lr(self) -> list[float]:  # type: ignore[override]
        """Return the learning rate of each group for the step to come."""
        return self._last_lr

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """Return the learning rate that the schedule has for each group at its position."""
        factor = value_at(self._segments, self.last_epoch).lr
        return [peak * factor for peak in self.max_lrs]

    def step(self, epoch: int | None = None) -> None:
        """Do nothing: the optimizer's own steps move the schedule."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and what it is a position in; plain numbers only.

        Loading takes the position, and the peaks of groups that were added after the scheduler was
        built. The rest only serves to say what has changed since.
        """
        return {
            "last_epoch": self.last_epoch,
            "total_steps": self._total_steps,
            "max_lrs": list(self.max_lrs),
            "weight_decays": list(self._weight_decays),
            "first_lrs": list(self._first_lrs),
            "groups_when_built": self._groups_when_built,
            "schedule": zlib.crc32(repr(self.schedule).encode()),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a position; all else stays that of the present configuration.

        What differs from the checkpoint is told once, at the next optimizer step. The state of a
        torch ``OneCycleLR`` is taken too: its position is under the same key.

        Raises:
            ValueError: If there is no position in it.
        """
        if "last_epoch" not in state_dict:
            raise ValueError(f"state_dict must have 'last_epoch', got {sorted(state_dict)}")
        self.last_epoch = whole("last_epoch", state_dict["last_epoch"], 0)
        peaks = list(state_dict.get("max_lrs", self.max_lrs))
        decays = list(state_dict.get("weight_decays", self._weight_decays))
        first_lrs = list(state_dict.get("first_lrs", self._first_lrs))
        kept = state_dict.get("groups_when_built", self._groups_when_built)
        default = self._hooked.defaults.get("lr")
        if self._own == first_lrs and any(lr != default for lr in self._own):
            # A finetuning callback has rebuilt the groups: what they held is not their peak.
            self._groups_when_built = kept
            peaks, kept = _groups.peaks(peaks, self._max_lr), 0
        groups = len(self.optimizer.param_groups)
        self.max_lrs = (self.max_lrs[:kept] + peaks[kept:])[:groups]
        self._weight_decays = (self._weight_decays[:kept] + decays[kept:])[:groups]
        self._first_lrs = first_lrs
        self._loaded = dict(state_dict)
        self._write()
        # The optimizer's own state has brought the checkpoint's back.
        self._write_weight_decay(value_at(self._segments, self.last_epoch).weight_decay)

    # ---- what is ours -----------------------------------------------------------------------

    @property
    def total_steps(self) -> int:
        """Optimizer steps in the run. Setting it writes the values for the present position."""
        return self._total_steps

    @total_steps.setter
    def total_steps(self, total_steps: int) -> None:
        if total_steps != self._total_steps:
            self._total_steps = whole("total_steps", total_steps, 1)
            self._segments = self.schedule.segments(self._total_steps)
            self._write()

    @property
    def attached(self) -> bool:
        """Whether this scheduler still counts and writes."""
        return self._attached

    def turns_at(self, step: int) -> bool:
        """Whether a phase starts or ends at ``step``."""
        return any(step in (segment.start, segment.end) for segment in self._segments)

    def values(self) -> dict[str, float]:
        """Return ``lr``, ``momentum`` and ``weight_decay`` for the step to come.

        They are those of the first group; one with another peak or weight decay adds ``lr/pg2`` and
        so on.
        """
        values: dict[str, float] = {}
        seen: set[tuple[float, float | None]] = set()
        groups = zip(self.optimizer.param_groups, self.max_lrs, self._weight_decays, strict=False)
        for index, (group, peak, decay) in enumerate(groups, start=1):
            if (peak, decay) not in seen:
                suffix = f"/pg{index}" if seen else ""
                values[f"lr{suffix}"] = float(group["lr"])
                momentum = _groups.momentum(group)
                if momentum is not None:
                    values[f"momentum{suffix}"] = momentum
                if "weight_decay" in group:
                    values[f"weight_decay{suffix}"] = float(group["weight_decay"])
                seen.add((peak, decay))
        return values

    def detach(self) -> None:
        """Stop counting and writing, for good. The optimizer keeps its present values."""
        self._attached = False

    def wrote_last(self) -> bool:
        """Whether the groups' learning rates are still what this scheduler has written."""
        self._write()
        return [_groups.stamp(group) for group in self.optimizer.param_groups] == self._written

    def _enter(self) -> None:
        optimizer = self._hooked
        # torch.compile is to compile the step, and not this.
        uncompiled = torch.compiler.disable
        self._handles = [
            optimizer.register_step_pre_hook(uncompiled(self._before_step)),
            optimizer.register_step_post_hook(uncompiled(self._after_step)),
            optimizer.register_load_state_dict_post_hook(self._after_load),
        ]
        _WRITERS[optimizer] = weakref.ref(self)

    def _leave(self) -> None:
        self.detach()
        for handle in self._handles:
            handle.remove()

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._in_step = True
        if not self._attached:
            return
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"A CUDA graph that has captured {type(optimizer).__name__}.step is replayed"
                " without the hooks that count steps: the schedule would stand still. Capture"
                " forward and backward alone, or use torch.compile(optimizer.step)."
            )
        groups = optimizer.param_groups
        if not self._wrapped_before and hasattr(self.optimizer.step, "_wrapped_by_lr_sched"):
            self.detach()
            rank_zero_info(
                f"Another scheduler was built on the {type(optimizer).__name__}: the schedule"
                f" stops after {self.last_epoch} of {self._total_steps} steps."
            )
        elif len(groups) < len(self._written):
            raise RuntimeError(
                f"{type(optimizer).__name__} had {len(self._written)} parameter groups, and takes a"
                f" step with {len(groups)}: steps of parts (DeepSpeed's ZeRO takes them) cannot be"
                " counted. Build a new ScheduleLR if the other groups are gone for good."
            )
        elif len(groups) > len(self._written):
            self._write()
        elif (changed := _changed(groups, self._written)) is not None:
            if _groups.only_makes_state(optimizer, args, kwargs):
                self._in_step = False  # it is not a step of the training
                return
            who = "a scheduler built before" if self._wrapped_before else "other code"
            self._tell_once("lr", f"lr was set to {float(changed):g} by {who} and is restored")
            self._write()

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # The hooks run again inside a step that calls its parent class's: that is one step.
        if not self._attached or not self._in_step:
            return
        self._in_step = False
        # A fused optimizer is called by GradScaler even for a step that it then leaves out.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is None or not found_inf.item():
            if self._loaded is not None:
                self._tell_changes(self._loaded)
                self._loaded = None
            self.last_epoch += 1
            self._write()

    def _after_load(self, optimizer: Optimizer) -> None:
        self._write()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_handles"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copied optimizer comes without the hooks of the one it is a copy of.
        vars(self).update(state)
        self._enter()
        self._written = [_groups.stamp(group) for group in self.optimizer.param_groups]

    def _write(self) -> None:
        if not self._attached:
            return
        point = value_at(self._segments, self.last_epoch)
        groups = self.optimizer.param_groups
        if len(groups) > len(self.max_lrs):
            self._adopt(groups[len(self.max_lrs) :], point.lr)
        if any(type(group["lr"]) is not float for group in groups):
            _groups.unshare(groups, "lr", self._hooked.defaults.get("lr"))
        written = []
        for group, peak in zip(groups, self.max_lrs, strict=False):
            _groups.set_lr(group, peak * point.lr)
            written.append(_groups.stamp(group))
            if point.momentum is not None and not _groups.set_momentum(group, point.momentum):
                why = "its momentum is 0" if "momentum" in group else "it has none"
                self._tell_once("momentum", f"momentum is not cycled: {why}")
        self._written = written
        if self.schedule.schedules_weight_decay:
            if not any(self._weight_decays):
                self._tell_once("weight decay", "weight decay is not scheduled: there is none")
            self._write_weight_decay(point.weight_decay)

    def _write_weight_decay(self, factor: float) -> None:
        default: Any = self._hooked.defaults.get("weight_decay")
        _groups.unshare(self.optimizer.param_groups, "weight_decay", default)
        for group, decay in zip(self.optimizer.param_groups, self._weight_decays, strict=False):
            if decay is not None:
                _groups.set_value(group, "weight_decay", decay * factor)

    def _adopt(self, groups: list[dict[str, Any]], factor: float) -> None:
        for group in groups:
            lr = float(group["lr"])
            if lr == self._hooked.defaults.get("lr"):
                peak = lr * self._scale
            else:
                # Given as it is to be now, in proportion to the other groups' present values.
                peak = lr / factor if factor > 0 else lr
            self.max_lrs.append(peak)
            self._first_lrs.append(lr)
            self._weight_decays.append(_groups.weight_decay(group))

    def _tell_once(self, about: str, what: str) -> None:
        if about not in self._told:
            self._told.add(about)
            rank_zero_info(f"ScheduleLR on {type(self.optimizer).__name__}: {what}.")

    def _tell_changes(self, saved: dict[str, Any]) -> None:
        if self.last_epoch == 0:
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
                f"The schedule goes on after {self.last_epoch} steps under the present"
                f" configuration, which differs from the checkpoint's: {', '.join(changes)}."
            )
        if self.last_epoch >= self._total_steps:
            rank_zero_warn(
                f"{self.last_epoch} optimizer steps are taken and the schedule has only"
                f" {self._total_steps}: its last value holds."
            )


def scheduler_config(
    optimizer: Optimizer,
    schedule: Schedule,
    total_steps: int,
    *,
    max_lr: float | Sequence[float] | None = None,
    name: str = "lr",
) -> dict[str, Any]:
    """Return what ``configure_optimizers`` returns: the optimizer with its schedule.

    The arguments are `ScheduleLR`'s; ``name`` is what ``LearningRateMonitor`` logs it under. For
    several optimizers, return a tuple of these.

    Example:
        >>> import torch
        >>> from lightning_onecycle import one_cycle
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4, momentum=0.9)
        >>> config = scheduler_config(optimizer, one_cycle(), total_steps=100)
        >>> config["lr_scheduler"]["interval"], config["lr_scheduler"]["name"]
        ('step', 'lr')
    """
    scheduler = ScheduleLR(optimizer, schedule, total_steps, max_lr=max_lr)
    return {
        "optimizer": optimizer,
        "lr_scheduler": {
            "scheduler": scheduler,
            "interval": "step",
            "frequency": 1,
            "name": name,
        },
    }


def _changed(groups: list[dict[str, Any]], written: list[Any]) -> Any:
    """Return the first learning rate that is not what was written, or None."""
    for group, was in zip(groups, written, strict=True):
        if _groups.stamp(group) != was:
            return group["lr"]
    return None


def _last_writer_of(optimizer: Optimizer) -> ScheduleLR | None:
    reference = _WRITERS.get(_groups.with_hooks(optimizer))
    return None if reference is None else reference()
