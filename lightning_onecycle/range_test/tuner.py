"""The LR range test in the user's own trainer, under the conditions of the training."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any, Literal

from lightning.fabric.utilities import rank_zero_info, rank_zero_warn
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
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from torch.utils.data import DataLoader

from lightning_onecycle._checks import choice, number, whole
from lightning_onecycle._lightning import class_for, lightning_of, of_either_lightning
from lightning_onecycle.callback import ScheduleCallback
from lightning_onecycle.isolation import isolated
from lightning_onecycle.measure._measurement import Measurement
from lightning_onecycle.phases import Schedule
from lightning_onecycle.range_test.curve import LRCurve
from lightning_onecycle.range_test.trial import RangeTest
from lightning_onecycle.report import RunRecord, StopOnDivergence

# Those that end a run, litter, time or measure it, or write the learning rate or the weights of its
# end. All others take part: they are conditions of the training.
_LEFT_OUT = (
    *(Checkpoint, EarlyStopping, SpikeDetection, StopOnDivergence, Timer),
    *(ProgressBar, ModelSummary, RunRecord, Measurement),
    *(LearningRateMonitor, DeviceStatsMonitor, ThroughputMonitor),
    *(LearningRateFinder, BatchSizeFinder, ScheduleCallback, StochasticWeightAveraging),
)


class Tuner:
    """The LR range test of Smith, arXiv:1506.01186, section 3.3, in place of Lightning's.

    Args:
        trainer: The one that the training will run in.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False,
        ...                   enable_progress_bar=False, enable_model_summary=False)
        >>> curve = Tuner(trainer).lr_find(BoringModel(), min_lr=0.001, max_lr=0.1, num_training=5)
        >>> [f"{lr:.3g}" for lr in curve.lrs], curve.stopped
        (['0.001', '0.00316', '0.01', '0.0316', '0.1'], 'range completed')
    """

    def __init__(self, trainer: Trainer) -> None:
        if not isinstance(trainer, of_either_lightning(Trainer)):
            raise TypeError(f"trainer must be a Lightning Trainer, got {type(trainer).__name__}")
        self.trainer = trainer

    def lr_find(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        *,
        val_dataloaders: Any = None,
        min_lr: float = 1e-6,
        max_lr: float = 10.0,
        num_training: int = 100,
        mode: Literal["exponential", "linear"] = "exponential",
        early_stop_threshold: float | None = 4.0,
        schedule: Schedule | None = None,
        val_batches: int = 0,
        update_attr: bool = False,
        attr_name: str = "",
    ) -> LRCurve:
        """Train for a few steps at rising learning rates, and leave everything as it was.

        At step :math:`k` of :math:`N` the largest parameter group has
        :math:`a (b / a)^{k / (N - 1)}`, from ``min_lr`` to ``max_lr`` exactly; the others keep
        their ratio to it. All else is as in the training to come: data, batch size, accumulation,
        precision, clipping, weight decay, callbacks (copies of those that do not end, litter or
        time a run), and momentum, which is that of the schedule at its peak. A loss is the mean
        over the batches of an optimizer step, and over all devices.

        A short loader is gone over again. No validation is run unless it is asked for. See
        `lightning_onecycle.isolation.isolated` for what is put back afterwards.

        Args:
            model: What is trained. The test runs on a copy.
            train_dataloaders: As for ``Trainer.fit``; or a data module.
            datamodule: As for ``Trainer.fit``.
            val_dataloaders: As for ``Trainer.fit``. Used with ``val_batches``.
            min_lr: The largest group's first learning rate, > 0.
            max_lr: Its last, > ``min_lr``.
            num_training: Optimizer steps, at least 3.
            mode: ``"exponential"``, or ``"linear"`` as in the paper.
            early_stop_threshold: The test ends where the smoothed loss is above its best by more
                than this many times what it has gained. None: never. It always ends at the first
                loss that is not finite.
            schedule: What the answer is for. None: that of the trainer's `ScheduleCallback`, or of
                the scheduler that ``configure_optimizers`` returns.
            val_batches: If > 0, the validation loss on so many batches is taken at about 20 steps,
                evenly spaced.
            update_attr: Whether to set the model's attribute to the suggestion.
            attr_name: Its name, dotted where it is deeper; in the model or its ``hparams``. Empty:
                ``lr`` or ``learning_rate``.

        Returns:
            The curve. Its ``stopped`` says why the test ended.

        Raises:
            TypeError: If ``model`` is no LightningModule.
            ValueError: If an argument is out of range.
            AttributeError: If there is no attribute to update.
            MisconfigurationException: If there is not exactly one optimizer, the module takes no
                or several steps at a time, there are no data or no losses, other code sets the
                learning rate, the module holds something that cannot be copied, or a strategy such
                as FSDP has taken it apart in a fit.
        """
        if not isinstance(getattr(model, "_orig_mod", model), of_either_lightning(LightningModule)):
            raise TypeError(f"model must be a LightningModule, got {type(model).__name__}")
        options = checked(
            min_lr=min_lr,
            max_lr=max_lr,
            num_training=num_training,
            mode=mode,
            early_stop_threshold=early_stop_threshold,
            schedule=schedule,
            val_batches=val_batches,
        )
        if any(isinstance(c, RangeTest) for c in self.trainer.callbacks):  # type: ignore[attr-defined]
            raise MisconfigurationException(
                "lr_find was called inside a range test, by a callback or hook that takes part in"
                " it: have it look whether trainer.callbacks has a RangeTest, and do nothing then."
            )
        strategy = self.trainer.strategy
        if strategy.restore_checkpoint_after_setup and strategy.lightning_module is model:
            raise MisconfigurationException(
                f"lr_find cannot copy a module that {type(strategy).__name__} has taken apart: call"
                " it before fit, or with a new trainer and a new module."
            )
        if isinstance(train_dataloaders, of_either_lightning(LightningDataModule)):
            train_dataloaders, datamodule = None, train_dataloaders
        _refuse_mixture(self.trainer, "model", getattr(model, "_orig_mod", model), LightningModule)
        _refuse_mixture(self.trainer, "datamodule", datamodule, LightningDataModule)
        for name, given in (("train", train_dataloaders), ("val", val_dataloaders)):
            _refuse_loader(f"{name}_dataloaders", given)
        holders = list(_holders(model, attr_name)) if update_attr else []
        launcher = self.trainer.strategy.launcher
        task = (model, train_dataloaders, val_dataloaders, datamodule, options)
        if isinstance(launcher, of_either_lightning(_MultiProcessingLauncher)):
            curve = pickle.loads(launcher.launch(_pickled_curve, self.trainer, *task))
        elif launcher is not None:
            curve = launcher.launch(run, self.trainer, *task)
        else:
            curve = run(self.trainer, *task)
        if update_attr:
            _update(holders, curve)
        return curve


def checked(
    *,
    min_lr: float = 1e-6,
    max_lr: float = 10.0,
    num_training: int = 100,
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
        "num_training": whole("num_training", num_training, 3),
        "mode": choice("mode", mode, ("exponential", "linear")),
        "threshold": early_stop_threshold,
        "schedule": schedule,
        "val_batches": whole("val_batches", val_batches, 0),
    }


def run(
    trainer: Trainer,
    model: LightningModule,
    train_dataloaders: Any,
    val_dataloaders: Any,
    datamodule: LightningDataModule | None,
    options: dict[str, Any],
    *,
    data_is_ready: bool = False,
) -> LRCurve:
    """Run a range test in this process, and leave no trace.

    Args:
        trainer: The user's own.
        model: As for ``Trainer.fit``, like the next three.
        train_dataloaders: See there.
        val_dataloaders: See there.
        datamodule: See there.
        options: What `checked` returns.
        data_is_ready: Whether the data are prepared and set up, by a fit that is under way.

    Returns:
        The curve.
    """
    bar = trainer.progress_bar_callback
    test = RangeTest(**options, show=bar is not None and getattr(bar, "is_enabled", True))
    test.schedule_callbacks = [c for c in trainer.callbacks if isinstance(c, ScheduleCallback)]  # type: ignore[attr-defined]
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    test.original = model
    data = (train_dataloaders, val_dataloaders, datamodule)
    with isolated(trainer, model, data, keep_callback=_takes_part) as copied:
        test.prepare(trainer)
        trainer.callbacks.append(test)  # type: ignore[attr-defined]
        _filter_callbacks_of(copied, test.schedule_callbacks)
        for owner in (copied, datamodule) if data_is_ready else ():
            for hook in ("prepare_data", *(("setup", "teardown") if owner is datamodule else ())):
                if owner is not None:
                    setattr(owner, hook, _nothing)
        try:
            trainer.fit(copied, train_dataloaders, val_dataloaders, datamodule)
        except SystemExit:
            if isinstance(test.exception, KeyboardInterrupt):
                raise test.exception from None
            raise
    if not test.stopped:
        raise MisconfigurationException(
            "The LR range test has no data: the training loader has no batches, or"
            " limit_train_batches is 0."
        )
    return test.curve()


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stand in for a hook that has been called already."""


def _pickled_curve(*args: Any) -> bytes:
    return pickle.dumps(run(*args))  # Lightning would look into a dataclass


def _takes_part(callback: Callback) -> bool:
    from lightning_onecycle.range_test.finder import LRFinder

    return not isinstance(callback, of_either_lightning(*_LEFT_OUT, LRFinder))


def _filter_callbacks_of(module: LightningModule, schedules: list[ScheduleCallback]) -> None:
    """Leave the same callbacks out of what the module brings along, and look for a schedule."""
    configure = module.configure_callbacks

    def configure_callbacks() -> list[Callback]:
        callbacks = configure()
        callbacks = list(callbacks) if isinstance(callbacks, Sequence) else [callbacks]
        schedules.extend(c for c in callbacks if isinstance(c, ScheduleCallback))
        return [callback for callback in callbacks if _takes_part(callback)]

    module.configure_callbacks = configure_callbacks  # type: ignore[method-assign]


def _refuse_mixture(trainer: Trainer, name: str, given: Any, kind: type) -> None:
    """Say what Lightning says of its own classes, but not of those derived from them."""
    wanted: type = class_for(kind, trainer)
    if isinstance(given, of_either_lightning(kind)) and not isinstance(given, wanted):
        lightning = lightning_of(trainer).__name__
        raise TypeError(
            f"{name} must be a {kind.__name__} of {lightning}, as the trainer is, got"
            f" {type(given).__name__}, which is one of the other Lightning: import both from the"
            " same."
        )


def _refuse_loader(name: str, loader: Any) -> None:
    if hasattr(loader, "__next__"):
        raise MisconfigurationException(
            f"{name} must be something that can be gone over more than once, got a"
            f" {type(loader).__name__}: the training would find it used up."
        )
    if isinstance(loader, DataLoader):
        try:
            length = len(loader)
        except TypeError:
            return
        if length == 0:
            raise MisconfigurationException(f"{name} has no batches.")


def _holders(model: LightningModule, attr_name: str) -> Iterator[tuple[Any, str]]:
    """Yield each object or mapping that has the attribute, and the last part of its name."""
    found = False
    for name in [attr_name] if attr_name else ["lr", "learning_rate"]:
        *path, last = name.split(".")
        for holder in (model, getattr(model, "hparams", {})):
            for part in path:
                holder = _get(holder, part)
            if _get(holder, last) is not None:
                found = True
                yield holder, last
        if found:
            return
    wanted = f"attribute {attr_name!r}" if attr_name else "attribute 'lr' or 'learning_rate'"
    raise AttributeError(
        f"update_attr=True needs an {wanted} in {type(model).__name__} or its hparams. The curve"
        " itself needs none: without update_attr it is returned, for you to use."
    )


def _get(holder: Any, name: str) -> Any:
    if isinstance(holder, MutableMapping):
        return holder.get(name)
    return getattr(holder, name, None)


def _update(holders: list[tuple[Any, str]], curve: LRCurve) -> None:
    suggestion = curve.suggest()
    if suggestion.lr is None:
        rank_zero_warn(f"The learning rate stays as it is: {suggestion.reason}.")
        return
    for holder, name in holders:
        if isinstance(holder, MutableMapping):
            holder[name] = suggestion.lr
        else:
            setattr(holder, name, suggestion.lr)
    rank_zero_info(f"{holders[0][1]} is {suggestion.lr:.3g} now: {suggestion.reason}.")
