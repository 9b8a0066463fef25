"""The torch scheduler that writes a schedule to an optimizer and counts its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.fabric.utilities import rank_zero_warn
from torch.optim import Optimizer, Rprop
from torch.optim.lr_scheduler import LRScheduler

from lightning_onecycle import _groups
from lightning_onecycle._writer import Writer
from lightning_onecycle.phases import Schedule

# A group with a rate of its own has tags of its own, up to so many groups.
_MOST_GROUPS_LOGGED = 4


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
    `step` does nothing, and may be called any number of times.

    Tensors are filled in place, so that a compiled step sees them and is not compiled again. The
    steps of a wrapper without hooks are counted at the optimizer that it wraps.

    An optimizer has one writer: a second `ScheduleLR` takes over from the first, with its peaks. A
    `ScheduleLR` stops when another scheduler is built on its optimizer (as Lightning's SWA does).

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

    _tells = True

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
        self._hooked = _groups.with_hooks(optimizer)
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a Schedule, got {type(schedule).__name__}")
        _groups.check_lrs(optimizer)
        self.optimizer = optimizer
        self._writer = Writer(
            self._hooked, optimizer, schedule, total_steps, max_lr, tells=self._tells
        )
        if isinstance(self._hooked, Rprop):
            rank_zero_warn(
                "Rprop reads its learning rate once, at the first step, and then adapts its own"
                " step sizes: a schedule has no effect."
            )

    # ---- what a torch scheduler has ---------------------------------------------------------

    @property
    def last_epoch(self) -> int:
        """The position: optimizer steps taken. The optimizer alone moves it."""
        return self._writer.position

    @last_epoch.setter
    def last_epoch(self, value: int) -> None:
        """Refuse to be moved back, as SequentialLR does; otherwise change nothing, and say so."""
        if value < self._writer.position:
            raise TypeError(
                "ScheduleLR cannot be a part of torch's SequentialLR: it counts the optimizer's"
                " steps by itself. Write the whole as the phases of one Schedule."
            )
        what = "its position is the number of optimizer steps taken; last_epoch is not to be set"
        self._writer.tell_once(self._hooked, "last_epoch", what)

    @property
    def _step_count(self) -> int:
        return self._writer.position + 1  # torch's counts the step that its constructor takes

    @_step_count.setter
    def _step_count(self, value: int) -> None:
        pass  # Accelerate moves it on for batches that do not step

    @property
    def base_lrs(self) -> list[float]:  # type: ignore[override]
        """The peaks, under torch's name."""
        return self._writer.peaks.lrs

    @property
    def _last_lr(self) -> list[float]:  # type: ignore[override]
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def get_last_lr(self) -> list[float]:  # type: ignore[override]
        """Return the learning rate of each group for the step to come."""
        return self._last_lr

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """Return the learning rate that the schedule has for each group at its position."""
        return self._writer.lrs()

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the optimizer's own steps move the schedule.

        Takes what the ``step`` of any scheduler takes, such as the metric of ReduceLROnPlateau.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the position, the total and the peaks, as plain numbers.

        Loading takes the position, and the peaks of groups that were added after the scheduler was
        built. The rest only serves to say what has changed since.
        """
        return self._writer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a position; everything else comes from the present configuration.

        If the optimizer's state was loaded before the scheduler was built, the groups held the
        checkpoint's present rates, and the peaks are those of the checkpoint. One line lists what
        differs from the checkpoint, at the next optimizer step. The state of a torch ``OneCycleLR``
        is also accepted: its position has the same key.

        Raises:
            ValueError: If there is no position in it.
        """
        self._writer.load_state_dict(self._hooked, state_dict)

    # ---- what is ours -----------------------------------------------------------------------

    @property
    def schedule(self) -> Schedule:
        """What is written."""
        return self._writer.schedule

    @property
    def max_lrs(self) -> list[float]:
        """The peak of each group."""
        return self._writer.peaks.lrs

    @property
    def total_steps(self) -> int:
        """Optimizer steps in the run. Setting it writes the values for the present position."""
        return self._writer.total_steps

    @total_steps.setter
    def total_steps(self, total_steps: int) -> None:
        self._writer.set_total(self._hooked, total_steps)

    def move_to(self, step: int) -> None:
        """Go on at another position: ``step`` optimizer steps taken."""
        self._writer.move_to(self._hooked, step)

    def count_present_step(self) -> None:
        """Count the step that the optimizer is in the middle of, if it was begun unscheduled."""
        self._writer.begin_step()

    @property
    def attached(self) -> bool:
        """Whether this scheduler still counts and writes."""
        return self._writer.attached

    def turns_at(self, step: int) -> bool:
        """Whether a phase starts or ends at ``step``."""
        return any(step in (segment.start, segment.end) for segment in self._writer.segments)

    def values(self) -> dict[str, float]:
        """Return ``lr``, ``momentum`` and ``weight_decay`` for the step to come.

        They are those of the first group. A group with another peak or weight decay adds
        ``lr/<name>``, where it has a name, or ``lr/pg2`` and so on, and its weight decay. Where
        more than four differ, ``lr/min`` and ``lr/max`` stand for them all.
        """
        groups, peaks = self.optimizer.param_groups, self._writer.peaks
        first_of: dict[Any, int] = {}
        for index, pair in enumerate(zip(peaks.lrs, peaks.decays, strict=False)):
            first_of.setdefault(pair, index)
        values = _values_of(groups[0])
        labelled = list(first_of.values())
        if "name" not in groups[0] or len(labelled) == 1:
            labelled = labelled[1:]
        if len(labelled) > _MOST_GROUPS_LOGGED:
            rates = self.get_last_lr()
            return values | {"lr/min": min(rates), "lr/max": max(rates)}
        for index in labelled:
            label = groups[index].get("name", f"pg{index + 1}")
            for tag, value in _values_of(groups[index]).items():
                if tag == "lr" or value != values.get(tag):
                    values[f"{tag}/{label}"] = value
        return values

    def detach(self) -> None:
        """Stop counting and writing, for good. The optimizer keeps its present values."""
        self._writer.attached = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copied optimizer comes without the hooks of the one it is a copy of.
        vars(self).update(state)
        self._writer.enter(self._hooked, self.optimizer)


def scheduler_config(
    optimizer: Optimizer,
    schedule: Schedule,
    total_steps: int,
    *,
    max_lr: float | Sequence[float] | None = None,
    name: str = "lr",
) -> dict[str, Any]:
    """Return what ``configure_optimizers`` returns: the optimizer with its schedule.

    For several optimizers, return a tuple of these.

    Args:
        optimizer: The optimizer to schedule.
        schedule: What its learning rate, momentum and weight decay do.
        total_steps: Optimizer steps in the run.
        max_lr: The peak. None: the optimizer's own ``lr``. `ScheduleLR` has the rules for groups.
        name: What ``LearningRateMonitor`` logs the learning rate under.

    Returns:
        The dictionary that Lightning expects, with the interval ``"step"``.

    Raises:
        ValueError: If an argument is out of range, as for `ScheduleLR`.

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


def _values_of(group: _groups.Group) -> dict[str, float]:
    values = {"lr": float(group["lr"])}
    momentum = _groups.momentum(group)
    if momentum is not None:
        values["momentum"] = momentum
    if "weight_decay" in group:
        values["weight_decay"] = float(group["weight_decay"])
    return values
