"""Batch-norm statistics that are estimated with the present weights."""

from __future__ import annotations

from typing import Any

import torch
from lightning.fabric.utilities import rank_zero_info
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

from lightning_onecycle import _generators
from lightning_onecycle._checks import whole
from lightning_onecycle._lightning import Callback, class_for


class BatchNormRecalibration(Callback):
    r"""Re-estimate batch-norm statistics on training data before each validation.

    Evaluation uses running averages, which lag behind the weights. After a few hundred steps at a
    large learning rate they describe a network of much earlier, and the accuracy collapses. Smith
    and Topin shorten the average for short runs (arXiv:1708.07120, section 6.1). This callback
    replaces it by the mean over ``num_batches`` batches under the present weights.

    The batches are the same each time. The callback draws them without replacement from the
    training set, with its own generator. Weights, gradients and all other random number generators
    stay unchanged, and training does not read the running averages. A layer that is trained with
    fixed statistics keeps them.

    Args:
        num_batches: Training batches to average over, at least 1.

    Raises:
        ValueError: If ``num_batches`` is out of range.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=BatchNormRecalibration(num_batches=10), logger=False)
    """

    def __init__(self, num_batches: int = 20) -> None:
        super().__init__()
        self.num_batches = whole("num_batches", num_batches, 1)
        self._layers: list[_BatchNorm] = []
        self._in_training: list[_BatchNorm] = []
        self._loader: DataLoader[Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the layers and the batches."""
        self._layers = [module for module in pl_module.modules() if isinstance(module, _BatchNorm)]
        self._layers = [layer for layer in self._layers if layer.track_running_stats]
        self._in_training = self._layers
        if self._layers and not is_overridden(
            "forward", pl_module, class_for(LightningModule, trainer)
        ):
            rank_zero_info(
                "BatchNormRecalibration does nothing: it needs a forward method of"
                f" {type(pl_module).__name__}."
            )
            self._layers = []
        self._loader = self._training_sample(trainer) if self._layers else None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note which layers have used the statistics of the batch."""
        self._in_training = [layer for layer in self._layers if layer.training]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Re-estimate, if this is a validation during training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._loader is not None:
            context = trainer.precision_plugin.forward_context()
            with _generators.isolated(trainer.strategy.root_device), torch.no_grad(), context:
                self._recalibrate(trainer, pl_module, self._loader)

    def _recalibrate(
        self, trainer: Trainer, pl_module: LightningModule, loader: DataLoader[Any]
    ) -> None:
        momenta = [layer.momentum for layer in self._in_training]
        for layer in self._in_training:
            layer.reset_running_stats()
            layer.momentum = None  # torch's word for a plain mean
            layer.train()
        try:
            for batch in loader:
                batch = trainer.precision_plugin.convert_input(batch)
                batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
                pl_module(batch[0] if isinstance(batch, (list, tuple)) else batch)
        finally:
            for layer, momentum in zip(self._in_training, momenta, strict=True):
                layer.momentum = momentum
                layer.eval()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the data."""
        self._loader = None

    def _training_sample(self, trainer: Trainer) -> DataLoader[Any] | None:
        loader: Any = trainer.train_dataloader
        indices = _training_indices(loader)
        if indices is None:
            rank_zero_info(
                "BatchNormRecalibration does nothing: it needs one training"
                " DataLoader whose sampler takes every sample of a data set once, got"
                f" {type(loader).__name__} with {type(getattr(loader, 'sampler', None)).__name__}."
            )
            return None
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(indices), generator=generator)
        size = loader.batch_size or 1
        return DataLoader(
            loader.dataset,
            batch_size=loader.batch_size,
            sampler=[indices[i] for i in order[: self.num_batches * size].tolist()],
            collate_fn=loader.collate_fn,
            # Statistics of the odd samples at the end would weigh as much as a full batch's.
            drop_last=loader.batch_size is not None and len(order) >= size,
            generator=generator,
        )


def _training_indices(loader: Any) -> Any:
    """Return the indices that an epoch goes over, or None if that cannot be known."""
    if not isinstance(loader, DataLoader):
        return None
    sampler: Any = loader.sampler
    if isinstance(sampler, SubsetRandomSampler):
        return sampler.indices
    source: Any = None
    if isinstance(sampler, (RandomSampler, SequentialSampler)):
        source = sampler.data_source
    elif isinstance(sampler, DistributedSampler):
        source = sampler.dataset
    whole_set = source is loader.dataset
    return range(len(loader.dataset)) if whole_set else None  # type: ignore[arg-type]
