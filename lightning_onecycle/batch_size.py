"""What depends on the batch: statistics of batch normalization."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.fabric.utilities import rank_zero_info
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, IterableDataset

from lightning_onecycle._checks import whole


class BatchNormRecalibration(Callback):
    r"""Re-estimate batch-norm statistics on training data before each validation.

    The running averages that evaluation uses lag behind the weights: after a few hundred steps at
    a large learning rate they describe a network of long ago, and accuracy collapses. Smith and
    Topin shorten the average for short runs (arXiv:1708.07120, section 6.1). Here it is replaced
    by the plain mean over ``num_batches`` batches under the present weights, as
    ``torch.optim.swa_utils.update_bn`` computes it.

    The batches are the same ones each time, drawn without replacement from the training set by a
    generator of this callback's own. Weights, gradients and random number generators are as before;
    only the running averages, which training itself never reads, are new.

    Args:
        num_batches: Training batches to average over, at least 1.

    Raises:
        ValueError: If ``num_batches`` is out of range.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=BatchNormRecalibration(num_batches=10), logger=False)
    """

    def __init__(self, num_batches: int = 20) -> None:
        self.num_batches = whole("num_batches", num_batches, 1)
        self._loader: DataLoader[Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the batches."""
        has_statistics = any(isinstance(module, _BatchNorm) for module in pl_module.modules())
        self._loader = self._training_sample(trainer) if has_statistics else None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Re-estimate, if this is a validation during training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._loader is not None:
            with isolate_rng(), trainer.precision_plugin.forward_context():
                update_bn(self._batches(trainer, self._loader), pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the data."""
        self._loader = None

    def _training_sample(self, trainer: Trainer) -> DataLoader[Any] | None:
        loader = trainer.train_dataloader
        dataset = getattr(loader, "dataset", None)
        if not isinstance(loader, DataLoader) or isinstance(dataset, IterableDataset):
            rank_zero_info(
                "BatchNormRecalibration leaves the statistics alone: it needs one training"
                f" DataLoader over a dataset with a length, got {type(loader).__name__} over"
                f" {type(dataset).__name__}."
            )
            return None
        size: int = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 1
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(loader.dataset), generator=generator)  # type: ignore[arg-type]
        return DataLoader(
            loader.dataset,
            batch_size=size,
            sampler=order[: self.num_batches * size].tolist(),
            collate_fn=loader.collate_fn,
            # Statistics of the odd samples at the end would weigh as much as a full batch's.
            drop_last=len(order) >= size,
            generator=generator,
        )

    @staticmethod
    def _batches(trainer: Trainer, loader: DataLoader[Any]) -> Iterator[Any]:
        for batch in loader:
            yield trainer.strategy.batch_to_device(batch, dataloader_idx=0)
