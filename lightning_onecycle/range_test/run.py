"""One range test in this process: its options, who takes part in it, and the fit that it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch.callbacks
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Checkpoint,
    DeviceStatsMonitor,
    EarlyStopping,
    LearningRateFinder,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
    SpikeDetection,
    StochasticWeightAveraging,
    ThroughputMonitor,
    Timer,
)
from lightning.pytorch.utilities import rank_zero_only

from lightning_onecycle._checks import choice, number, whole
from lightning_onecycle._lightning import of_either_lightning
from lightning_onecycle.isolation import isolated
from lightning_onecycle.phases import Schedule
from lightning_onecycle.range_test.curve import LRCurve
from lightning_onecycle.range_test.short_fit import ShortFit
from lightning_onecycle.range_test.trial import RangeTest

# Callbacks of Lightning's that end, record, time or measure a run, or write the learning rate or
# the weights of its end. All others are conditions of the training.
_LEFT_OUT = (
    Checkpoint,
    EarlyStopping,
    SpikeDetection,
    Timer,
    ProgressBar,
    ModelSummary,
    LearningRateMonitor,
    DeviceStatsMonitor,
    ThroughputMonitor,
    LearningRateFinder,
    BatchSizeFinder,
    StochasticWeightAveraging,
    # An average over a thousand steps says little of a training of some hundred.
    *filter(None, [getattr(lightning.pytorch.callbacks, "WeightAveraging", None)]),  # from 2.6 on
)


def checked(
    *,
    min_lr: float = 1e-6,
    max_lr: float = 10.0,
    num_training: int | None = None,
    mode: str = "exponential",
    early_stop_threshold: float | None = 4.0,
    schedule: Schedule | None = None,
    val_batches: int = 0,
) -> dict[str, Any]:
    """Return the arguments that `RangeTest` takes for these of `Tuner.lr_find`, or refuse them."""
    low = number("min_lr", min_lr, "> 0", lambda v: v > 0)
    least = low * (1 + 1e-6)  # closer ones give no curve
    if early_stop_threshold is not None:
        early_stop_threshold = number(
            "early_stop_threshold", early_stop_threshold, "> 0 or None", lambda v: v > 0
        )
    if schedule is not None and not isinstance(schedule, Schedule):
        raise TypeError(f"schedule must be a Schedule or None, got {type(schedule).__name__}")
    return {
        "min_lr": low,
        "max_lr": number("max_lr", max_lr, f"> min_lr = {low:g}", lambda v: v >= least),
        "num_training": 300 if num_training is None else whole("num_training", num_training, 3),
        "mode": choice("mode", mode, ("exponential", "linear")),
        "early_stop_threshold": early_stop_threshold,
        "schedule": schedule,
        "val_batches": whole("val_batches", val_batches, 0),
    }


@dataclass(frozen=True)
class UserFit:
    """The fit that the user asks for.

    Attributes:
        trainer: The user's own.
        model: As for ``Trainer.fit``, like the next three.
        train_dataloaders: See there.
        val_dataloaders: See there.
        datamodule: See there.
        data_is_ready: Whether the data are prepared and set up, by a fit that is under way.
        told: What was told of, such as ids of iterators in the data: a search has several fits.
    """

    trainer: Trainer
    model: LightningModule
    train_dataloaders: Any
    val_dataloaders: Any
    datamodule: LightningDataModule | None
    data_is_ready: bool = False
    told: set[Any] = field(default_factory=set)

    def without_trace(self, short_fit: ShortFit) -> None:
        """Let a copy of the model take the steps of ``short_fit``, which then holds the result.

        Raises:
            MisconfigurationException: If there are no data.
        """
        trainer, datamodule = self.trainer, self.datamodule
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        short_fit.left_out = [callback for callback in callbacks if not _takes_part(callback)]
        short_fit.told = self.told
        model = getattr(self.model, "_orig_mod", self.model)  # of torch.compile
        short_fit.original = model
        data = (self.train_dataloaders, self.val_dataloaders, datamodule)
        with isolated(trainer, model, data, keep_callback=_takes_part, told=self.told) as copied:
            short_fit.prepare(trainer)
            trainer.callbacks.append(short_fit)  # type: ignore[attr-defined]
            _filter_callbacks_of(copied, short_fit.left_out)
            for owner in (copied, datamodule) if self.data_is_ready else ():
                both = ("setup", "teardown") if owner is datamodule else ()
                for hook in ("prepare_data", *both):
                    if owner is not None:
                        setattr(owner, hook, _nothing)
            try:
                trainer.fit(copied, *data)
            except SystemExit:
                if isinstance(short_fit.exception, KeyboardInterrupt):
                    raise short_fit.exception from None
                raise
        if not short_fit.stopped:
            raise MisconfigurationException(
                f"The {short_fit.what} has no data: the training loader has no batches, or"
                " limit_train_batches is 0."
            )


def run(fit: UserFit, options: dict[str, Any]) -> LRCurve:
    """Run a range test in this process, and leave no trace.

    Args:
        fit: The training to come.
        options: What `checked` returns.

    Returns:
        The curve.
    """
    with progress_bar(fit.trainer, options["num_training"], RangeTest.what) as bar:
        test = RangeTest(**options, bar=bar)
        fit.without_trace(test)
    return test.curve()


@contextmanager
def progress_bar(trainer: Trainer, steps: int, name: str) -> Iterator[Any]:
    """Yield a progress bar where the trainer shows one, on the first rank, and None elsewhere."""
    own = trainer.progress_bar_callback
    is_shown = own is not None and getattr(own, "is_enabled", True)
    bar = _open_bar(steps, name) if is_shown else None
    try:
        yield bar
    finally:
        if bar is not None:
            bar.close()


@rank_zero_only
def _open_bar(steps: int, name: str) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=steps, desc=name, leave=False)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Do nothing, in place of a hook that has been called already."""


def _takes_part(callback: Callback) -> bool:
    """Whether a callback is a condition of the training, by what it says itself or by its class."""
    by_class = not isinstance(callback, of_either_lightning(*_LEFT_OUT))
    return bool(getattr(callback, "takes_part_in_range_test", by_class))


def _filter_callbacks_of(module: LightningModule, left_out: list[Callback]) -> None:
    """Leave the same callbacks out of what the module brings along."""
    configure = module.configure_callbacks

    def configure_callbacks() -> list[Callback]:
        """Return the module's callbacks that take part, and list the others."""
        callbacks = configure()
        callbacks = list(callbacks) if isinstance(callbacks, Sequence) else [callbacks]
        # As in any fit, they take the places of the trainer's own of the same type: here without a
        # word, since in a fit that is under way those are the module's, too.
        brought = {type(callback) for callback in callbacks}
        trainer: Any = module.trainer
        trainer.callbacks = [each for each in trainer.callbacks if type(each) not in brought]
        left_out[:] = [callback for callback in left_out if type(callback) not in brought]
        left_out.extend(callback for callback in callbacks if not _takes_part(callback))
        return [callback for callback in callbacks if _takes_part(callback)]

    module.configure_callbacks = configure_callbacks  # type: ignore[method-assign]
