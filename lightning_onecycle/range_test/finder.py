"""A callback that asks a range test, or a saved curve, for the peak of the schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities import rank_zero_info, rank_zero_warn
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from lightning_onecycle._checks import choice, known
from lightning_onecycle.callback import ScheduleCallback
from lightning_onecycle.range_test.collect import check_peak
from lightning_onecycle.range_test.curve import LRCurve
from lightning_onecycle.range_test.data import check_data
from lightning_onecycle.range_test.run import StartsRangeTests, checked, run
from lightning_onecycle.range_test.suggest import METHODS


class LRFinder(StartsRangeTests):
    """Find the peak by a range test at the start of a fit, and train with it.

    The test runs as `Tuner.lr_find` does, before anything of the fit has happened. The peak that it
    suggests becomes the ``max_lr`` of the trainer's `ScheduleCallback`, and the training is that
    of a run that was given this ``max_lr``. It runs once; a resumed fit takes the peak from the
    checkpoint. With a ``curve`` nothing is run: its peak is taken, if it was measured under the
    conditions of this training.

    Args:
        curve: A curve or the path of a saved one. None: run a test.
        method: How to read the peak off the curve, see `LRCurve.suggest`.
        allow_differences: Whether to train with the peak of a curve from other conditions.
        **lr_find_arguments: ``min_lr``, ``max_lr``, ``num_training``, ``mode``,
            ``early_stop_threshold``, ``val_batches``, as `Tuner.lr_find` takes them.

    Attributes:
        curve: The curve, from the start of the fit on.
        max_lr: The peak that was taken.

    Raises:
        MisconfigurationException: At fit start, if there is no one `ScheduleCallback`, the curve
            suggests no peak, or it was measured under other conditions.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_onecycle import OneCycle
        >>> trainer = Trainer(callbacks=[LRFinder(num_training=50), OneCycle()], logger=False)
    """

    def __init__(
        self,
        curve: LRCurve | str | Path | None = None,
        *,
        method: Any = "max_lr",
        allow_differences: bool = False,
        **lr_find_arguments: Any,
    ) -> None:
        super().__init__()
        if curve is not None and lr_find_arguments:
            raise ValueError(
                f"with a curve there is no test, got {', '.join(lr_find_arguments)}: give one of"
                " the two"
            )
        known("LRFinder", lr_find_arguments, checked)
        self._options = checked(**lr_find_arguments)
        self.curve = LRCurve.load(curve) if isinstance(curve, (str, Path)) else curve
        if not (self.curve is None or isinstance(self.curve, LRCurve)):
            raise TypeError(f"curve must be an LRCurve or a path, got {type(curve).__name__}")
        self.method = method if callable(method) else choice("method", method, tuple(METHODS))
        self.allow_differences = allow_differences
        self.max_lr: float | None = None
        self._given = curve is not None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the peak, unless this is a resumed fit, and hand it over."""
        callback = self._schedule_callback(trainer)
        if self.max_lr is not None:  # found by an earlier fit, or in a checkpoint
            rank_zero_info(f"The peak is {self.max_lr:.3g}, as it was found before.")
            self._hand_over(callback, self.max_lr)
            return
        if self.curve is None and trainer.ckpt_path is not None:
            rank_zero_warn(
                "A resumed fit does not look for its peak, and the checkpoint does not tell one:"
                f" max_lr stays {callback.max_lr}."
            )
            return
        if self.curve is None:
            self.curve = self._find(trainer, pl_module)
        suggestion = self.curve.suggest(self.method)
        if suggestion.lr is None:
            raise MisconfigurationException(
                f"The LR range test ({self.curve.stopped}) shows no peak: {suggestion.reason}."
            )
        rank_zero_info(f"The peak is {suggestion.lr:.3g}: {suggestion.reason}.")
        self._hand_over(callback, suggestion.lr)

    def _find(self, trainer: Trainer, pl_module: LightningModule) -> LRCurve:
        if trainer.strategy.restore_checkpoint_after_setup:
            raise MisconfigurationException(
                f"LRFinder cannot copy a module that {type(trainer.strategy).__name__} has taken"
                " apart: call Tuner(trainer).lr_find before fit, and give it as LRFinder(curve)."
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
        return run(trainer, pl_module, train, val, datamodule, self._options, data_is_ready=True)

    def _schedule_callback(self, trainer: Trainer) -> ScheduleCallback:
        callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]
        found = [callback for callback in callbacks if isinstance(callback, ScheduleCallback)]
        if len(found) != 1 or callbacks.index(found[0]) < callbacks.index(self):
            problem = "it stands before" if len(found) == 1 else f"there are {len(found)}"
            raise MisconfigurationException(
                "LRFinder needs one ScheduleCallback (or OneCycle) behind it in the trainer's"
                f" callbacks, to hand its peak to, and {problem}."
            )
        return found[0]

    def _hand_over(self, callback: ScheduleCallback, peak: float) -> None:
        self.max_lr = peak
        ratios = callback.max_lr
        if isinstance(ratios, Sequence):
            callback.max_lr = [peak * (lr / max(ratios)) for lr in ratios]
        else:
            callback.max_lr = peak

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a curve that was measured under other conditions."""
        if self._given and self.curve is not None:
            schedule = self._schedule_callback(trainer).schedule
            check_peak(
                self.curve,
                trainer,
                pl_module,
                schedule,
                allow_differences=self.allow_differences,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the peak, which a resumed run goes on with."""
        return {} if self.max_lr is None else {"max_lr": self.max_lr}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with the peak that the run began with."""
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if state and not self._given and trainer.state.fn == "fit":
            self._hand_over(self._schedule_callback(trainer), state["max_lr"])
