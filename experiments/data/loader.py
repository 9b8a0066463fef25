"""Batches of images held in memory, and a loader that can resume in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Batch = tuple[Tensor, Tensor]


class ImageBatches(Dataset[Batch]):
    """The part of ``images`` and ``labels`` that ``indices`` names, fetched a batch at a time.

    Args:
        images: uint8, shape (M, C, H, W); shared with the other parts, not copied.
        labels: int64, shape (M,).
        indices: int64, shape (N,): which of the M images belong to this part, in its order.
    """

    def __init__(self, images: Tensor, labels: Tensor, indices: Tensor) -> None:
        self.images, self.labels, self.indices = images, labels, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Batch:
        chosen = self.indices[index]
        return self.images[chosen], self.labels[chosen]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the images and labels at ``indices`` as one batch, without collating samples."""
        chosen = self.indices[list(indices)]
        return self.images[chosen], self.labels[chosen]


def as_is(batch: Batch) -> Batch:
    """The collate function of a data set that hands out whole batches."""
    return batch


class ResumableDataLoader(DataLoader[Batch]):
    """A loader of an `ImageBatches` whose ``state_dict`` is its place in the epoch.

    Lightning saves and restores that state in its checkpoints. After ``load_state_dict`` the next
    pass skips the batches that were seen, by their indices, without fetching them. This holds for
    the epoch the state is from; in another one (a checkpoint of an epoch that is over), and after
    the last batch, the pass begins at the start. It loads in the process it runs in and draws no
    random numbers of its own.

    Args:
        dataset: What to load from.
        batch_size: Images in a batch.
        sampler: The order of the images. Its ``epoch``, if it has one, is the epoch.
        drop_last: Whether to leave out a last batch that is not full.
    """

    def __init__(
        self,
        dataset: ImageBatches,
        batch_size: int,
        sampler: Sampler[int] | None = None,
        drop_last: bool = False,
    ) -> None:
        super().__init__(
            dataset, batch_size, sampler=sampler, drop_last=drop_last, collate_fn=as_is
        )
        self._place = {"batches": 0, "epoch": self._epoch}
        self._resume = False

    @property
    def _epoch(self) -> int:
        return getattr(self.sampler, "epoch", 0)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator starts at its first batch: Lightning makes the iterator before it tells the
        # sampler the epoch.
        skip = self._batches_to_skip()
        self._place = {"batches": skip, "epoch": self._epoch}
        for indices in islice(self.batch_sampler, skip, None):
            self._place["batches"] += 1
            yield self.collate_fn(self.dataset.__getitems__(indices))

    def _batches_to_skip(self) -> int:
        resume, self._resume = self._resume, False
        if not resume or self._place["epoch"] != self._epoch:
            return 0
        seen = self._place["batches"]
        if seen > len(self):
            raise ValueError(
                f"the checkpoint is at batch {seen} of its epoch, but an epoch now has {len(self)} "
                "batches: resume with the batch size, devices and data it was made with"
            )
        return seen if seen < len(self) else 0

    def state_dict(self) -> dict[str, int]:
        """The number of batches handed out in the present pass, and its epoch."""
        return dict(self._place)

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next pass go on from ``state_dict``."""
        self._place = {name: state_dict[name] for name in ("batches", "epoch")}
        self._resume = True
