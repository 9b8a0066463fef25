"""Lightning's search for the largest batch size, on a copy of the module, without a trace."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.tuner.tuning import Tuner as LightningTuner

from lightning_onecycle._checks import refuse_unknown_arguments
from lightning_onecycle._lightning import class_for
from lightning_onecycle.isolation import isolated
from lightning_onecycle.range_test.attributes import get, put
from lightning_onecycle.range_test.run import UserFit


def scale_batch_size(fit: UserFit, dataloaders: Any, arguments: dict[str, Any]) -> int | None:
    """Have Lightning find the batch size, and set it where the module or its data have it.

    Args:
        fit: The training to come. Lightning trains a copy of its model.
        dataloaders: As for Lightning's method.
        arguments: The other arguments of Lightning's method.

    Returns:
        What Lightning returns.
    """
    trainer, datamodule = fit.trainer, fit.datamodule
    model = getattr(fit.model, "_orig_mod", fit.model)  # of torch.compile
    data = {
        "train_dataloaders": fit.train_dataloaders,
        "val_dataloaders": fit.val_dataloaders,
        "dataloaders": dataloaders,
        "datamodule": datamodule,
    }
    tuner: Any = class_for(LightningTuner, trainer)
    refuse_unknown_arguments(tuner.scale_batch_size, arguments, tuner.scale_batch_size)
    with isolated(trainer, model, [*data.values()], keep_callback=lambda _: False) as copied:
        # Lightning saves the module to a file and restores it. A copy needs neither.
        trainer.save_checkpoint = _nothing  # type: ignore[method-assign]
        trainer.strategy.remove_checkpoint = _nothing  # type: ignore[method-assign]
        trainer._checkpoint_connector.restore = _nothing  # type: ignore[method-assign]
        size: int | None = tuner(trainer).scale_batch_size(copied, **data, **arguments)
    if size is not None:
        name = arguments.get("batch_arg_name", "batch_size")
        owners = (model, datamodule)
        for holder in (*owners, *(getattr(owner, "hparams", None) for owner in owners)):
            if get(holder, name) is not None:
                put(holder, name, size)
    return size


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Do nothing, in place of what Lightning does to a module that it gives back."""
