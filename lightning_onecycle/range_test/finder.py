"""A callback that takes the peak of the schedule from a range test, a search, or a file."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities import rank_zero_info, rank_zero_warn
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from lightning_onecycle import budget as budgets
from lightning_onecycle._checks import choice, refuse_unknown_arguments
from lightning_onecycle._lightning import Callback
from lightning_onecycle._searched import refuse_other_settings
from lightning_onecycle.callback import ScheduleCallback
from lightning_onecycle.range_test.curve import LRCurve
from lightning_onecycle.range_test.data import check_data
from lightning_onecycle.range_test.live_conditions import check_peak
from lightning_onecycle.range_test.run import UserFit, checked, run
from lightning_onecycle.range_test.suggest import METHODS, Suggestion
from lightning_onecycle.search.files import load_curve_or_search
from lightning_onecycle.search.result import Search
from lightning_onecycle.search.run import run_search, search_options

_NOT_IN_THE_CHECKPOINT = (
    "LRFinder runs no test in a resumed fit, and the checkpoint has no peak. To measure one, call"
    " Tuner(trainer).lr_find before the fit, and give OneCycle(max_lr=curve)"
)


class LRFinder(Callback):
    """Find the peak by a range test at the start of a fit, and train with it.

    The test runs as `Tuner.lr_find` does, before the fit begins. During the fit its peak is the
    ``max_lr`` of the trainer's `ScheduleCallback`. The training is identical to one with this
    ``max_lr``.

    Each module has one test. A later fit of the same module keeps the peak if the conditions are
    the same, and a resumed fit takes it from its checkpoint. With a ``curve`` there is no test: its
    peak is taken if it was measured under the conditions of this training. With a ``search`` of a
    cost, short trainings follow the test, as in `Tuner.search`. With ``fast_dev_run`` there is no
    test either: the schedule keeps its own peak.

    Args:
        curve: A curve, a search, or the path of a saved one. None: run a test.
        search: What a search may cost, as a fraction of the training. Or a search or its path, the
            same as ``curve``.
        method: How to read the peak off the curve, see `LRCurve.suggest`.
        if_none: What to do if the curve suggests no peak. ``"raise"``: raise an error. ``"keep"``:
            warn, and train at the ``max_lr`` of the `ScheduleCallback` or the optimizer's ``lr``.
        allow_differences: Whether to train with the peak of a curve from other conditions.
        **lr_find_arguments: ``min_lr``, ``max_lr``, ``num_training``, ``mode``,
            ``early_stop_threshold``, ``val_batches``, as `Tuner.lr_find` takes them.

    Attributes:
        found: The last curve or search, from the start of a fit on. None: the peak is that of a
            checkpoint.
        max_lr: Its peak, or None.

    Raises:
        MisconfigurationException: At fit start, if there is not exactly one `ScheduleCallback`, the
            curve suggests no peak, or it was measured under other conditions.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_onecycle import OneCycle
        >>> trainer = Trainer(callbacks=[LRFinder(num_training=50), OneCycle()], logger=False)
    """

    takes_part_in_range_test = False

    def __init__(
        self,
        curve: LRCurve | Search | str | Path | None = None,
        *,
        search: float | Search | str | Path | None = None,
        method: Any = "max_lr",
        if_none: Literal["raise", "keep"] = "raise",
        allow_differences: bool = False,
        **lr_find_arguments: Any,
    ) -> None:
        super().__init__()
        if curve is not None and search is not None:
            raise ValueError("curve must be None with a search: give one of the two")
        is_cost = search is not None and not isinstance(search, (Search, str, Path))
        given: Any = curve if search is None or is_cost else search
        if given is not None and lr_find_arguments:
            raise ValueError(
                f"with a curve there is no test, got {', '.join(lr_find_arguments)}: give one of"
                " the two"
            )
        refuse_unknown_arguments(LRFinder, lr_find_arguments, checked)
        for_test = checked(**lr_find_arguments)
        num_training = lr_find_arguments.get("num_training")
        self._options = search_options(search if is_cost else 1.0, None, for_test, num_training)
        self._searches = is_cost
        self.found: LRCurve | Search | None = (
            load_curve_or_search(given) if isinstance(given, (str, Path)) else given
        )
        if not (self.found is None or isinstance(self.found, (LRCurve, Search))):
            raise TypeError(
                f"curve must be an LRCurve, a Search or a path, got {type(given).__name__}"
            )
        if (is_cost or isinstance(self.found, Search)) and method != "max_lr":
            raise ValueError(f"method must be 'max_lr' with a search, got {method!r}")
        self.method = method if callable(method) else choice("method", method, tuple(METHODS))
        self.if_none = choice("if_none", if_none, ("raise", "keep"))
        self.allow_differences = allow_differences
        self.max_lr: float | None = None
        self._given = given is not None
        self._model: weakref.ref[LightningModule] | None = None  # that max_lr was found for
        self._saved: dict[str, Any] | None = None  # in the checkpoint of a resumed fit
        self._is_to_be_checked = False
        self._borrower: ScheduleCallback | None = None
        self._its_own: Any = None

    @property
    def curve(self) -> LRCurve | None:
        """The curve that was found, or that of the search."""
        return self.found.curve if isinstance(self.found, Search) else self.found

    # ---- the peak -------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the peak, unless it is known, and lend it to the schedule."""
        callback = self._schedule_callback(trainer)
        self._give_back()
        peak, reason = self._suggestion(trainer, pl_module)
        self.max_lr = peak
        self._model = None if peak is None else weakref.ref(pl_module)
        if peak is None:
            rank_zero_warn(f"{reason}.")
            # Not a warning: Python shows one of the same text once, and a finder may be shared.
            rank_zero_info(f"{type(callback).__name__} trains at its own peak.")
        else:
            rank_zero_info(f"The peak is {peak:.3g}: {reason}.")
            self._lend(callback, peak)

    def _suggestion(self, trainer: Trainer, pl_module: LightningModule) -> Suggestion:
        """Return the peak of the checkpoint, of an earlier fit, or of a curve, or why none."""
        is_known = self._model is not None and self._model() is pl_module
        is_resumed = self._saved is not None or trainer.ckpt_path is not None
        self._is_to_be_checked = self._given or (not is_resumed and is_known)
        if not self._given:
            if is_resumed and not is_known:
                self.found = None
            peak = (self._saved or {}).get("max_lr") or (self.max_lr if is_known else None)
            if peak is not None:
                return Suggestion(peak, "as it was found before")
            if is_resumed:
                return Suggestion(None, _NOT_IN_THE_CHECKPOINT)
            if trainer.fast_dev_run:  # type: ignore[attr-defined]
                return Suggestion(None, "LRFinder runs no test with fast_dev_run")
            self.found = self._find(trainer, pl_module)
            self.max_lr = self._model = None
        assert self.found is not None
        if isinstance(self.found, Search):
            who, (peak, reason) = "The search", self.found.suggest()
        else:
            who = f"The LR range test ({self.found.stopped})"
            peak, reason = self.found.suggest(self.method)
        if peak is not None:
            return Suggestion(peak, reason)
        problem = f"{who} shows no peak: {reason}"
        if self.if_none == "raise":
            raise MisconfigurationException(f"{problem}.")
        return Suggestion(None, problem)

    def _find(self, trainer: Trainer, pl_module: LightningModule) -> LRCurve | Search:
        if trainer.strategy.restore_checkpoint_after_setup:
            raise MisconfigurationException(
                f"LRFinder cannot copy a module that {type(trainer.strategy).__name__} has sharded:"
                " call Tuner(trainer).lr_find before fit, and give the curve as LRFinder(curve)."
            )
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        loop = trainer.fit_loop
        sources = (loop._data_source.instance, loop.epoch_loop.val_loop._data_source.instance)
        own = (pl_module, datamodule)
        train, val = (
            None if any(source is owner for owner in own) else source for source in sources
        )
        for name, given in (("train", train), ("val", val)):
            check_data(f"{name}_dataloaders", given)
        fit = UserFit(trainer, pl_module, train, val, datamodule, data_is_ready=True)
        if self._searches:
            return run_search(fit, self._options)
        return run(fit, self._options["range_test"])

    def _schedule_callback(self, trainer: Trainer) -> ScheduleCallback:
        callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]
        found = [callback for callback in callbacks if isinstance(callback, ScheduleCallback)]
        if len(found) != 1 or callbacks.index(found[0]) < callbacks.index(self):
            problem = "it stands before" if len(found) == 1 else f"there are {len(found)}"
            raise MisconfigurationException(
                "LRFinder needs one OneCycle (or ScheduleCallback) after it in the trainer's"
                f" callbacks, and {problem}. Give callbacks=[LRFinder(), OneCycle()]."
            )
        return found[0]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a peak that was found under other conditions."""
        if self._is_to_be_checked and self.found is not None and self.max_lr is not None:
            schedule = self._schedule_callback(trainer).schedule
            check_peak(
                self.found,
                trainer,
                pl_module,
                schedule,
                allow_differences=self.allow_differences,
            )

            if isinstance(self.found, Search):
                refuse_other_settings(self.found, trainer.optimizers[0], schedule)
                self._tell_another_length(trainer, self.found.total_steps)

    def _tell_another_length(self, trainer: Trainer, searched_for: int) -> None:
        given = self._schedule_callback(trainer).total_steps
        left = budgets.steps_left(trainer, epoch_starts=False)
        total = given or (None if left is None else trainer.global_step + left)
        if total is not None and total != searched_for:
            rank_zero_warn(
                f"The search was for a training of {searched_for:,} steps, and this one has"
                f" {total:,}: the longer a training is, the lower its best peak."
            )

    # ---- it is the schedule's for as long as the fit lasts --------------------------------------

    def _lend(self, callback: ScheduleCallback, peak: float) -> None:
        own = callback.max_lr
        self._borrower, self._its_own = callback, own
        if isinstance(own, Sequence):
            callback.max_lr = [peak * (lr / max(own)) for lr in own]
        else:
            callback.max_lr = peak

    def _give_back(self) -> None:
        if self._borrower is not None:
            self._borrower.max_lr = self._its_own
        self._borrower = self._its_own = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the schedule its own ``max_lr`` back, for fits of other modules."""
        self._give_back()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the schedule its own ``max_lr`` back."""
        self._give_back()

    # ---- checkpoints and copies -----------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the peak, for a resumed run."""
        return {"max_lr": self.max_lr}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the schedule before it is built, and forget an earlier checkpoint."""
        self._saved = None
        if stage == "fit":
            self._schedule_callback(trainer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with the peak that the run began with."""
        if trainer.state.fn == "fit":
            self._saved = checkpoint.get("callbacks", {}).get(self.state_key)

    def __getstate__(self) -> dict[str, Any]:
        # A copy has no module yet. A weak reference cannot be pickled.
        return {**super().__getstate__(), "_model": None}
