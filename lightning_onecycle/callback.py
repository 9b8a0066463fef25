"""The callbacks: they plan and log a schedule, which `ScheduleLR` writes to the optimizer."""

# Longer than other modules: one class has all hooks of Lightning, and a third is docstrings.

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from lightning_onecycle import budget as budgets
from lightning_onecycle._checks import choice, peak, refuse_unknown_arguments, whole
from lightning_onecycle._installed import Installed
from lightning_onecycle._lightning import Callback
from lightning_onecycle._plan import Plan
from lightning_onecycle._resume import (
    go_on_after,
    is_of_other_schedulers,
    keep_fraction,
    steps_taken,
)
from lightning_onecycle._schedule_log import ScheduleLog
from lightning_onecycle._searched import refuse_other_settings
from lightning_onecycle._watch import Watch
from lightning_onecycle.phases import Schedule
from lightning_onecycle.scheduler import ScheduleLR
from lightning_onecycle.schedules import one_cycle

if TYPE_CHECKING:
    from lightning_onecycle.range_test.curve import LRCurve
    from lightning_onecycle.search.result import Search

# Stands until the loaders are known; no step is taken under it.
_PROVISIONAL_STEPS = 1000


class ScheduleCallback(Callback):
    """Train with a `Schedule`, whatever the module's ``configure_optimizers`` returns.

    The schedule covers the optimizer steps that the fit will take. They account for gradient
    accumulation and its schedulers, limits, several devices and ``max_steps``, and are counted
    again at the start of each epoch and where the optimizer skips steps. A second ``fit`` is a new
    cycle over its own steps. A resumed run continues at its position, under the present
    configuration.

    With a logger, ``lr``, ``momentum`` and ``weight_decay`` are logged for about 100 optimizer
    steps, which include the first, the turning points and the last. The figure ``schedule`` shows
    the plan (TensorBoard, with matplotlib installed).

    Args:
        schedule: What to train with.
        total_steps: Optimizer steps in the run, for each optimizer. None: they are counted. It is
            needed under manual optimization, and for a loader without a length and no
            ``max_steps``.
        max_lr: None: the ``lr`` that each optimizer was given is the peak. A number: the peak of
            the optimizer's largest group; the others keep their ratio to it. A sequence: one peak
            for each parameter group of the one optimizer. `LRCurve`, `Search`: what it suggests.
            If a search has also chosen a weight decay or a momentum, a fit with others is refused.
        budget: ``"steps"``, or ``"time"``: the schedule ends with the trainer's ``max_time``,
            however many steps that is.
        own_schedulers: What happens to schedulers that the module brings. ``"replace"``: they are
            replaced, as Lightning's ``StochasticWeightAveraging`` does, and one line names them and
            the peak. That is the ``max_lr`` of OneCycleLR and CyclicLR, or else the ``lr`` that the
            optimizer had before. ``"refuse"``: an error is raised.

    Raises:
        ValueError: If an argument is out of range, or there is no suggestion.
        MisconfigurationException: At fit start, if there is no optimizer, or the length of the run
            cannot be known.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_onecycle import triangular
        >>> trainer = Trainer(callbacks=ScheduleCallback(triangular(cycles=3)), logger=False)
    """

    takes_part_in_range_test = False

    def __init__(
        self,
        schedule: Schedule,
        *,
        total_steps: int | None = None,
        max_lr: float | Sequence[float] | LRCurve | Search | None = None,
        budget: Literal["steps", "time"] = "steps",
        own_schedulers: Literal["replace", "refuse"] = "replace",
    ) -> None:
        super().__init__()
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a Schedule, got {type(schedule).__name__}")
        self.schedule = schedule
        self.total_steps = None if total_steps is None else whole("total_steps", total_steps, 1)
        self.max_lr = peak(max_lr)
        self._searched: Any = max_lr if getattr(max_lr, "recipe", None) else None
        self.budget = choice("budget", budget, ("steps", "time"))
        self.own_schedulers = choice("own_schedulers", own_schedulers, ("replace", "refuse"))
        if self.budget == "time" and self.total_steps is not None:
            raise ValueError(f"total_steps must be None with budget='time', got {total_steps}")
        self._installed: Installed | None = None
        self._plan = self._new_plan()
        self._log = ScheduleLog()
        self._watch = Watch()
        self._epoch_size: dict[str, int] | None = None
        self._has_ended = False
        self._saved: dict[str, Any] = {}  # the state that a checkpoint brought
        self._steps_taken: list[int] = []  # by each optimizer, as a foreign checkpoint has it

    @property
    def schedulers(self) -> list[ScheduleLR]:
        """The scheduler of each optimizer, during a fit."""
        return [] if self._installed is None else self._installed.schedulers

    @property
    def planned_steps(self) -> int | None:
        """The optimizer steps of the schedule, during a fit; None until known."""
        return self.schedulers[0].total_steps if self.schedulers and self._plan.is_known else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the checkpoint of an earlier fit."""
        self._saved, self._steps_taken = {}, []

    # ---- installing -------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the fit, and install a `ScheduleLR` on each optimizer."""
        self.check(trainer, pl_module)
        # The checkpoint of a resumed run is restored after this hook, into these schedulers too.
        make = partial(
            ScheduleLR,
            schedule=self.schedule,
            total_steps=self.total_steps or _PROVISIONAL_STEPS,
            max_lr=self.max_lr,
        )
        if self._searched is not None:
            refuse_other_settings(self._searched, trainer.optimizers[0], self.schedule)
        name, peak_is_given = type(self).__name__, self.max_lr is not None
        self._installed = Installed(trainer, make, name, peak_is_given=peak_is_given)
        self._has_ended = bool(self._saved.get("has_ended"))
        if self._has_ended:  # another scheduler writes: StochasticWeightAveraging's
            self._let_go()
        self._plan = self._new_plan()
        self._log = ScheduleLog()
        self._watch = Watch()

    def _new_plan(self) -> Plan:
        return Plan(type(self).__name__, self.total_steps, self.budget)

    def check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse optimizers and modules that the schedule does not fit.

        Args:
            trainer: A trainer whose optimizers are set up.
            pl_module: What it trains.

        Raises:
            MisconfigurationException: With what to do.
        """
        name = type(self).__name__
        others = [c for c in trainer.callbacks if isinstance(c, ScheduleCallback) and c is not self]  # type: ignore[attr-defined]
        if others:
            raise MisconfigurationException(
                f"{name} and {type(others[0]).__name__} would both write the learning rate: leave"
                " one of them out of the trainer's callbacks."
            )
        if trainer.lr_scheduler_configs and self.own_schedulers == "refuse":
            other = type(trainer.lr_scheduler_configs[0].scheduler).__name__
            raise MisconfigurationException(
                f"{name}(own_schedulers='refuse') found a scheduler of the module, {other}. Let"
                " configure_optimizers return only the optimizer, or have it replaced with"
                " own_schedulers='replace'."
            )
        # Lightning puts an optimizer without groups where the module has none.
        if not any(optimizer.param_groups for optimizer in trainer.optimizers):
            raise MisconfigurationException(f"{name} needs an optimizer; the module has none.")
        if not pl_module.automatic_optimization and self.total_steps is None:
            raise MisconfigurationException(
                f"Under manual optimization the number of optimizer steps is unknown: give {name}"
                "(total_steps=...), counted for each optimizer."
            )
        if isinstance(self.max_lr, Sequence) and len(trainer.optimizers) > 1:
            raise MisconfigurationException(
                f"max_lr must be None or a number with several optimizers, got {self.max_lr!r}:"
                " give each optimizer its own lr instead, because that is its peak."
            )
        if self.budget == "time" and budgets.time_limit(trainer) is None:
            raise MisconfigurationException(
                f"{name}(budget='time') needs Trainer(max_time=...): the schedule ends with it."
            )

    def check_length(self, trainer: Trainer) -> None:
        """Refuse a fit whose number of optimizer steps cannot be known.

        Args:
            trainer: A trainer whose loaders are set up.

        Raises:
            MisconfigurationException: With what to give.
        """
        self._new_plan().check(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Detach from the optimizers; their last values stay."""
        self._let_go()
        self._installed = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Detach from the optimizers; a checkpoint can still be written."""
        self._let_go()

    def _let_go(self) -> None:
        for scheduler in self.schedulers:
            scheduler.detach()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_installed": None}  # a copy has no part in the fit

    # ---- checkpoints ------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning does not save with the schedulers.

        The states of several are saved in the order of their optimizers. Lightning saves them in
        the order of the schedulers that the module brings, which may not be one for each.
        """
        several = [s.state_dict() for s in self.schedulers] if len(self.schedulers) > 1 else []
        return {
            "has_ended": self._has_ended,
            "epoch_size": self._epoch_size,
            "schedulers": several,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the schedulers are there."""
        self._saved = dict(state_dict)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Read the position from a checkpoint of a run without this callback.

        `ScheduleLR` cannot use the states of its schedulers.
        """
        is_ours = self.state_key in checkpoint.get("callbacks", {})
        if trainer.state.fn == "fit" and not is_ours and is_of_other_schedulers(checkpoint):
            self._steps_taken = steps_taken(checkpoint)
            checkpoint["lr_schedulers"] = []

    def _restore(self, trainer: Trainer) -> None:
        states = self._saved.get("schedulers", [])
        for scheduler, state in zip(self.schedulers, states, strict=False):
            scheduler.load_state_dict(state)
        go_on_after(self._steps_taken, self.schedulers, type(self).__name__)
        if self._saved.get("epoch_size") and self.total_steps is None and self.budget == "steps":
            keep_fraction(trainer, self.schedulers[0], self._saved["epoch_size"])

    # ---- planning ---------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plan the run: the loaders are final, and a checkpoint is restored."""
        self._restore(trainer)
        self._plan.start(trainer, self.schedulers[0])
        self._begin_epoch(trainer)
        if self.budget == "steps":
            self._log.figure(trainer, self.schedulers[0])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plan again: an epoch may have been cut short, or the data may have grown."""
        self._follow(trainer)
        self._plan.epoch_starts(trainer, self.schedulers[0])
        self._begin_epoch(trainer)

    def _begin_epoch(self, trainer: Trainer) -> None:
        # Lightning leaves out the hook of an epoch's start if it resumes in the epoch's middle.
        self._epoch_size = budgets.epoch_size(trainer, trainer.current_epoch)
        self._watch.epoch_starts(self.schedulers)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the plan in line with the steps taken, and log the values of the step to come."""
        self._follow(trainer)
        self._has_ended = not all(scheduler.attached for scheduler in self.schedulers)
        self._plan.adjust(trainer, self.schedulers[0])
        self._watch.batch_starts()
        self._log.values(trainer, self.schedulers)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Schedule an optimizer that was added since the batch began; this is its first step."""
        for scheduler in self._installed.follow(trainer) if self._installed else ():
            scheduler.count_present_step()

    def _follow(self, trainer: Trainer) -> None:
        if self._installed is not None:
            self._installed.follow(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of an epoch without a counted step."""
        self._watch.epoch_ends(trainer.current_epoch, self.schedulers)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say if the fit ends before its schedule."""
        self._watch.fit_ends(self.schedulers)


class OneCycle(ScheduleCallback):
    """Train with Smith's 1cycle policy: one callback, and nothing else to change.

    Args:
        max_lr: The peak. None: the ``lr`` that the optimizer was given. See `ScheduleCallback`.
        total_steps: Optimizer steps in the run. None: they are counted.
        budget: ``"steps"`` or ``"time"``.
        own_schedulers: ``"replace"`` or ``"refuse"``.
        **one_cycle_arguments: ``pct_start``, ``pct_final``, ``div_factor``, ``final_div_factor``,
            ``anneal``, ``cycle_momentum``, ``base_momentum`` and ``max_momentum``, as `one_cycle`
            takes them.

    Raises:
        TypeError: If there is no such argument.
        ValueError: If an argument is out of range, or there is no suggestion.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(max_epochs=5, callbacks=OneCycle(max_lr=0.4), logger=False)
    """

    def __init__(
        self,
        max_lr: float | Sequence[float] | LRCurve | Search | None = None,
        *,
        total_steps: int | None = None,
        budget: Literal["steps", "time"] = "steps",
        own_schedulers: Literal["replace", "refuse"] = "replace",
        **one_cycle_arguments: Any,
    ) -> None:
        refuse_unknown_arguments(OneCycle, one_cycle_arguments, one_cycle)
        super().__init__(
            one_cycle(**one_cycle_arguments),
            total_steps=total_steps,
            max_lr=max_lr,
            budget=budget,
            own_schedulers=own_schedulers,
        )
