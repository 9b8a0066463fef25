"""The LR range test in the user's own trainer, under the conditions of the training."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from lightning_onecycle._checks import refuse_unknown_arguments
from lightning_onecycle._lightning import class_for, lightning_of, of_either_lightning
from lightning_onecycle.phases import Schedule
from lightning_onecycle.range_test.attributes import holders_of_lr, update
from lightning_onecycle.range_test.batch_size import scale_batch_size
from lightning_onecycle.range_test.curve import LRCurve
from lightning_onecycle.range_test.data import check_data
from lightning_onecycle.range_test.run import UserFit, checked, run
from lightning_onecycle.range_test.short_fit import ShortFit
from lightning_onecycle.search.recipe_run import run_recipe
from lightning_onecycle.search.result import Search
from lightning_onecycle.search.run import run_search, search_options


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
        num_training: int = 300,
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
        precision, clipping, weight decay, callbacks (copies of those that do not end, record or
        time a run), and momentum, which is that of the schedule at its peak. A loss is the mean
        over the batches of an optimizer step, and over all devices.

        A callback of your own takes no part if it has ``takes_part_in_range_test = False``.

        A loader that is too short is repeated. No validation is run unless it is asked for. See
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
                loss that is not finite, and where a step raises an error that it does not raise
                with the weights of the start.
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
                as FSDP has sharded it in a fit.
        """
        options = checked(
            min_lr=min_lr,
            max_lr=max_lr,
            num_training=num_training,
            mode=mode,
            early_stop_threshold=early_stop_threshold,
            schedule=schedule,
            val_batches=val_batches,
        )
        fit = self._checked(model, train_dataloaders, val_dataloaders, datamodule)
        holders = list(holders_of_lr(model, attr_name)) if update_attr else []
        curve: LRCurve = self._launch(run, fit, options)
        if update_attr:
            update(holders, curve)
        return curve

    def search(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        *,
        val_dataloaders: Any = None,
        cost: float = 1.0,
        weight_decays: Sequence[float] | None = None,
        momenta: Sequence[float | tuple[float, float]] | None = None,
        schedule: Schedule | None = None,
        file: str | Path | None = None,
        **lr_find_arguments: Any,
    ) -> Search:
        """Find the peak by a range test and short trainings, and leave everything as it was.

        A short training is the training to come with its schedule over at most 0.22 of its steps.
        The first one has the peak that the range test suggests. Each next peak is half a
        decade lower as long as the lowest is the best, or half a decade higher if the highest is
        clearly the best. Then the gaps around the best are halved. All begin with the same weights
        and see the same data in the same order, so their losses are compared batch by batch. They
        are judged by the validation loss, or, without validation, by the training loss at the end
        of the cycle. The validation loss is what is logged as ``val_loss`` or the like, or else
        what ``validation_step`` returns, or else what is logged with ``loss`` in its name. One that
        diverges is stopped, and one that cannot win is stopped after half of its steps. A cost of 2
        adds two trainings of half of the steps, and a cost of 4 two whole ones. They begin at the
        peak that is suggested so far, go half a decade up first, and decide. `Search.suggest` has
        the rule.

        Args:
            model: What is trained. The search runs on copies.
            train_dataloaders: As for ``Trainer.fit``; or a data module.
            datamodule: As for ``Trainer.fit``.
            val_dataloaders: As for ``Trainer.fit``. All that the training validates on is used.
            cost: What may be spent, as a fraction of the optimizer steps of the training to come.
                Below about 0.35 there is a range test alone. Give 3 for the recipe.
            weight_decays: Those to choose from. With these or with ``momenta`` the search is
                Smith's recipe (arXiv:1803.09820, section 5): a range test for each weight decay,
                short trainings at several peaks, at the weight decays that the curves cannot tell
                apart and at the momenta, and longer ones at the settings that remain. Groups keep
                their ratio to the one with the largest. A group without weight decay stays without
                it if another group has some.
            momenta: Those to choose from beside the schedule's own: a pair, at the ends and at the
                peak, or a number, throughout. With another momentum :math:`m` than :math:`m_0` at
                the peak, SGD is tried at the peak times :math:`(1 - m) / (1 - m_0)`, which keeps
                the effective rate, and also at the same peak if the cost allows it.
            schedule: What the peak is for. None: that of the trainer's `ScheduleCallback`, or of
                the scheduler that ``configure_optimizers`` returns, or else `one_cycle`.
            file: Where the search is saved after each of its parts. A saved search is continued.
            **lr_find_arguments: ``min_lr``, ``max_lr``, ``num_training``, ``mode``,
                ``early_stop_threshold``, ``val_batches``, as `lr_find` takes them, for the range
                test.

        Returns:
            The search. ``OneCycle(max_lr=search)`` trains at its peak, ``search.callback()`` also
            with its momentum; the weight decay is ``search.weight_decay``.

        Raises:
            TypeError: If ``model`` is no LightningModule, or there is no such argument.
            ValueError: If an argument is out of range, or ``file`` holds something else.
            MisconfigurationException: As for `lr_find`; if it is not known how many steps the
                training will take; or if the search in ``file`` ran under other conditions.

        Example:
            >>> from lightning.pytorch import Trainer
            >>> from lightning.pytorch.demos.boring_classes import BoringModel
            >>> trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False,
            ...                   enable_progress_bar=False, enable_model_summary=False)
            >>> search = Tuner(trainer).search(BoringModel(), cost=1.0)
            >>> search.total_steps, search.steps <= 64, len(search.probes) > 1
            (64, True, True)
        """
        refuse_unknown_arguments(self.search, lr_find_arguments, checked)
        for_test = checked(schedule=schedule, **lr_find_arguments)
        num_training = lr_find_arguments.get("num_training")
        options = search_options(cost, file, for_test, num_training, weight_decays, momenta)
        fit = self._checked(model, train_dataloaders, val_dataloaders, datamodule)
        is_recipe = bool(options["weight_decays"] or options["momenta"])
        found: Search = self._launch(run_recipe if is_recipe else run_search, fit, options)
        return found

    def scale_batch_size(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        method: str = "fit",
        **arguments: Any,
    ) -> int | None:
        """Find the largest batch size that fits into memory, as Lightning's method of this name.

        Lightning's own runs on a copy of the module. It leaves no trace but the batch size, which
        is set in the module, the data module and their hparams, where they have it.

        Args:
            model: As for Lightning's method, like all the others.
            train_dataloaders: See there. Loaders cannot be rebuilt: give a data module.
            val_dataloaders: See there.
            dataloaders: See there.
            datamodule: See there.
            method: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.
            **arguments: ``mode``, ``steps_per_trial``, ``init_val``, ``max_trials``,
                ``batch_arg_name``, and in recent releases ``margin`` and ``max_val``.

        Returns:
            The batch size, or None with ``fast_dev_run``.

        Raises:
            TypeError: If ``model`` is no LightningModule, or there is no such argument.
            ValueError: If the strategy is a distributed one.
            MisconfigurationException: If loaders are given, or nothing has the batch size.
        """
        fit = self._checked(model, train_dataloaders, val_dataloaders, datamodule)
        return scale_batch_size(fit, dataloaders, {"method": method, **arguments})

    def _checked(
        self, model: Any, train_dataloaders: Any, val_dataloaders: Any, datamodule: Any
    ) -> UserFit:
        """Return what is trained, on what, or refuse it."""
        if not isinstance(getattr(model, "_orig_mod", model), of_either_lightning(LightningModule)):
            raise TypeError(f"model must be a LightningModule, got {type(model).__name__}")
        if any(isinstance(c, ShortFit) for c in self.trainer.callbacks):  # type: ignore[attr-defined]
            raise MisconfigurationException(
                "lr_find was called inside a range test, by a callback or hook that takes part in"
                " it: let it do nothing while trainer.callbacks has a RangeTest."
            )
        strategy = self.trainer.strategy
        if strategy.restore_checkpoint_after_setup and strategy.lightning_module is model:
            raise MisconfigurationException(
                f"lr_find cannot copy a module that {type(strategy).__name__} has sharded: call"
                " it before fit, or with a new trainer and a new module."
            )
        if isinstance(train_dataloaders, of_either_lightning(LightningDataModule)):
            train_dataloaders, datamodule = None, train_dataloaders
        if datamodule is not None and not hasattr(datamodule, "train_dataloader"):
            raise TypeError(
                f"datamodule must be a LightningDataModule, got {type(datamodule).__name__}: give"
                " loaders as train_dataloaders and val_dataloaders=..."
            )
        _refuse_mixture(self.trainer, "model", getattr(model, "_orig_mod", model), LightningModule)
        _refuse_mixture(self.trainer, "datamodule", datamodule, LightningDataModule)
        for name, given in (("train", train_dataloaders), ("val", val_dataloaders)):
            check_data(f"{name}_dataloaders", given)
        return UserFit(self.trainer, model, train_dataloaders, val_dataloaders, datamodule)

    def _launch(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function where the trainer trains: here, or in processes that it starts."""
        launcher = self.trainer.strategy.launcher
        if isinstance(launcher, of_either_lightning(_MultiProcessingLauncher)):
            # Lightning looks into what it hands over, and refuses our dataclasses.
            return pickle.loads(launcher.launch(_pickled, partial(function, *arguments)))
        return function(*arguments) if launcher is None else launcher.launch(function, *arguments)


def _pickled(function: Callable[[], Any]) -> bytes:
    return pickle.dumps(function())


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
