"""Fashion-MNIST, read from its four IDX files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from experiments.data.base import Images, InMemoryDataModule
from experiments.data.files import cache_folder, check_root, download, missing
from experiments.data.idx import read_idx

ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist

TRAIN = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
TEST = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
FILES = [*TRAIN, *TEST]
SHA256 = {
    TRAIN[0]: "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    TRAIN[1]: "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    TEST[0]: "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    TEST[1]: "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}


class FashionMNIST(InMemoryDataModule):
    """Clothes, 28x28 pixels in grey, 10 classes (Xiao et al. 2017).

    60,000 images, of which ``num_val`` are for validation and the rest for training; 10,000 for
    the test.

    Args:
        root: Folder with the four files. Without it they are taken from Debian's package
            dataset-fashion-mnist if that is installed, else downloaded (30 MB) into the user's
            cache, once.
        num_val: Images for validation.
        shape: Channels, height and width of an image.
        num_classes: Number of classes.
        **arguments: See `InMemoryDataModule`.
    """

    MEAN = (0.2860,)
    STD = (0.3530,)

    def __init__(
        self,
        *,
        root: str | None = None,
        num_val: int = 10_000,
        shape: tuple[int, ...] = (1, 28, 28),
        num_classes: int = 10,
        **arguments: Any,
    ) -> None:
        super().__init__(num_val=num_val, shape=shape, num_classes=num_classes, **arguments)
        self.root = None if root is None else Path(root).expanduser()

    def prepare_data(self) -> None:
        """Make sure that the files are there; download them if no folder has them.

        Raises:
            FileNotFoundError: A file is not in ``root``.
        """
        if self.root is not None:
            check_root(self.root, FILES)
        elif self._folder != SYSTEM_FOLDER:
            for name in FILES:
                download(ADDRESS, name, f"sha256:{SHA256[name]}", self._folder)

    def read(self) -> tuple[Images, Images]:
        """Return the images to train and validate on, and the test images."""
        return _read_pair(self._folder, *TRAIN), _read_pair(self._folder, *TEST)

    @property
    def _folder(self) -> Path:
        if self.root is not None:
            return self.root
        if not missing(SYSTEM_FOLDER, FILES):
            return SYSTEM_FOLDER
        return cache_folder("fashion-mnist")


@lru_cache(maxsize=4)
def _read_pair(folder: Path, images_file: str, labels_file: str) -> Images:
    images = read_idx(folder / images_file, dimensions=3)
    labels = read_idx(folder / labels_file, dimensions=1)
    if len(images) != len(labels):
        raise ValueError(
            f"{folder / labels_file} is corrupt: {len(labels)} labels for the {len(images)} "
            f"images of {images_file}"
        )
    return images.unsqueeze(1), labels.to(torch.int64)
