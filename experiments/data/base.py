"""A data module whose images are in memory and whose order and augmentation can be repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from experiments.data.loader import Batch, ImageBatches, ResumableDataLoader, as_is
from experiments.data.order import TrainingOrder, balanced_order, mix_seeds
from lightning_onecycle._checks import whole

Images = tuple[Tensor, Tensor]  # uint8 of shape (N, C, H, W), and their labels, int64 of shape (N,)


class InMemoryDataModule(LightningDataModule):
    """Images and labels, split into training, validation and test.

    Three seeds are kept apart: ``split_seed`` decides which images are for training,
    ``seed`` and the epoch decide their order, and ``seed``, epoch, batch and rank how they are
    augmented. Nothing is drawn from the global generators, and a run that is resumed sees the
    images that it would have seen.

    Batches are pairs (x, y). x travels to the device as uint8 and is made float there,
    standardized and, in training, augmented.

    Args:
        batch_size: Images in a batch on each device.
        num_val: Images held out of the training images for validation.
        shape: Channels, height and width of an image. Models read it from the configuration, so
            it is held against the data.
        num_classes: Number of classes; likewise.
        train_size: Train on the first so many of the shuffled training images only. Classes
            stay balanced, and the validation images are the same for every size.
        split_seed: Seed of the split.
        seed: Seed of the order and of the augmentation.
        augment: Applied to each training batch, as ``augment(x, generator)``.
        drop_last: Whether training leaves out a last batch that is not full.
    """

    MEAN: ClassVar[tuple[float, ...]]
    """Mean of each channel over the training images, of pixels in [0, 1]."""
    STD: ClassVar[tuple[float, ...]]
    """Standard deviation of each channel, of pixels in [0, 1]."""
    LARGEST: ClassVar[float] = 255.0
    """The value of a white pixel."""

    def __init__(
        self,
        *,
        batch_size: int,
        num_val: int,
        shape: Sequence[int],
        num_classes: int,
        train_size: int | None = None,
        split_seed: int = 0,
        seed: int = 0,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        drop_last: bool = True,
    ) -> None:
        super().__init__()
        if augment is not None and not callable(augment):
            raise ValueError(f"augment must be null or callable(x, generator), got {augment!r}")
        self.batch_size = whole("batch_size", batch_size, 1)
        self.num_val = whole("num_val", num_val, 1)
        self.shape = tuple(shape)
        self.num_classes = whole("num_classes", num_classes, 1)
        self.train_size = None if train_size is None else whole("train_size", train_size, 1)
        self.split_seed = whole("split_seed", split_seed, 0)
        self.seed = whole("seed", seed, 0)
        self.augment = augment
        self.drop_last = drop_last
        # For the conditions of a range test, and in checkpoints as plain text.
        settings = {"augment": str(augment), "drop_last": drop_last, "split_seed": split_seed}
        self.save_hyperparameters(settings, logger=False)
        self.train: ImageBatches | None = None

    def read(self) -> tuple[Images, Images]:
        """Return the images to train and validate on, and the test images."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Read the data, once, and split it."""
        if self.train is not None:
            return
        (images, labels), (test_images, test_labels) = self.read()
        self._check(images, labels)
        order = torch.from_numpy(balanced_order(labels.numpy(), self.split_seed))
        val, train = order[: self.num_val], order[self.num_val :]
        self.train = ImageBatches(images, labels, train[: self.train_size])
        self.val = ImageBatches(images, labels, val)
        self.test = ImageBatches(test_images, test_labels, torch.arange(len(test_labels)))

    def _check(self, images: Tensor, labels: Tensor) -> None:
        found, classes = tuple(images.shape[1:]), int(labels.max()) + 1
        left = len(labels) - self.num_val
        if self.shape != found:
            raise ValueError(f"shape must be {list(found)}, as the data, got {list(self.shape)}")
        if self.num_classes != classes:
            raise ValueError(f"num_classes must be {classes}, as the data, got {self.num_classes}")
        if left < 1:
            raise ValueError(f"num_val must be < {len(labels)}, the images, got {self.num_val}")
        if self.train_size is not None and self.train_size > left:
            raise ValueError(
                f"train_size must be <= {left}, the images left to train on, got {self.train_size}"
            )

    def train_dataloader(self) -> ResumableDataLoader:
        """Batches in an order that follows from the seed and the epoch alone."""
        trainer = self.trainer
        sampler = TrainingOrder(
            self.train,
            num_replicas=trainer.world_size if trainer else 1,
            rank=self._rank,
            # The sampler adds the epoch to its seed. Spread out, so that epoch 1 of seed 0 is not
            # epoch 0 of seed 1.
            seed=mix_seeds(self.seed),
            drop_last=self.drop_last,
        )
        sampler.trainer = trainer
        if self.drop_last and len(sampler) < self.batch_size:
            raise ValueError(
                f"batch_size must be <= {len(sampler)}, the training images of a device, "
                f"got {self.batch_size}"
            )
        return ResumableDataLoader(self.train, self.batch_size, sampler, self.drop_last)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the validation images, in their order."""
        return self._evaluation_loader(self.val)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches of the test images, in their order."""
        return self._evaluation_loader(self.test)

    def _evaluation_loader(self, dataset: ImageBatches) -> DataLoader[Batch]:
        # A loader without a generator of its own draws a seed from the global one at each pass.
        generator = torch.Generator()
        return DataLoader(dataset, self.batch_size, collate_fn=as_is, generator=generator)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Standardize the images on their device; augment them in training."""
        x, y = batch
        mean, std = (x.new_tensor(v, dtype=torch.float).view(-1, 1, 1) for v in self._scale)
        x = (x.float() - mean) / std
        if self.trainer is None:
            return x, y
        if self.augment is not None and self.trainer.training:
            x = self.augment(x, self._generator())
        # Lightning has cast the batch to the precision of the run before it was made float.
        return self.trainer.precision_plugin.convert_input(x), y

    @property
    def _scale(self) -> tuple[list[float], list[float]]:
        return [m * self.LARGEST for m in self.MEAN], [s * self.LARGEST for s in self.STD]

    def _generator(self) -> torch.Generator:
        """The generator of the present batch's augmentation."""
        epoch = self.trainer.current_epoch
        batch = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return torch.Generator().manual_seed(mix_seeds(self.seed, epoch, batch, self._rank))

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0
