"""CIFAR-10, read from its binary version."""

from __future__ import annotations

import tarfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from experiments.data.base import Images, InMemoryDataModule
from experiments.data.files import cache_folder, check_root, download

ADDRESS = "https://www.cs.toronto.edu/~kriz/"
ARCHIVE = "cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
FOLDER = "cifar-10-batches-bin"
TRAIN = tuple(f"data_batch_{n}.bin" for n in range(1, 6))
TEST = ("test_batch.bin",)
SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32  # a label, then the red, the green and the blue pixels


class CIFAR10(InMemoryDataModule):
    """Photographs, 32x32 pixels in colour, 10 classes (Krizhevsky 2009).

    50,000 images, of which ``num_val`` are for validation and the rest for training; 10,000 for
    the test.

    Args:
        root: Folder that holds ``cifar-10-binary.tar.gz``, or what it unpacks to, the folder
            ``cifar-10-batches-bin``. Without it the archive is downloaded (170 MB) into the
            user's cache, once.
        num_val: Images for validation.
        shape: Channels, height and width of an image.
        num_classes: Number of classes.
        **arguments: See `InMemoryDataModule`.
    """

    MEAN = (0.4914, 0.4822, 0.4465)
    STD = (0.2470, 0.2435, 0.2616)

    def __init__(
        self,
        *,
        root: str | None = None,
        num_val: int = 10_000,
        shape: tuple[int, ...] = SHAPE,
        num_classes: int = 10,
        **arguments: Any,
    ) -> None:
        super().__init__(num_val=num_val, shape=shape, num_classes=num_classes, **arguments)
        self.root = None if root is None else Path(root).expanduser()

    def prepare_data(self) -> None:
        """Make sure that the files are there; download the archive if no folder is given.

        Raises:
            FileNotFoundError: ``root`` holds neither the archive nor all files of the folder.
        """
        if self.root is None:
            download(ADDRESS, ARCHIVE, f"md5:{MD5}", self._source.parent)
        elif (self.root / FOLDER).is_dir():
            check_root(self.root, [f"{FOLDER}/{name}" for name in (*TRAIN, *TEST)])
        else:
            check_root(self.root, [ARCHIVE])

    def read(self) -> tuple[Images, Images]:
        """Return the images to train and validate on, and the test images."""
        return _read(self._source)

    @property
    def _source(self) -> Path:
        """The unpacked folder, or the archive."""
        root = self.root or cache_folder("cifar-10")
        return root / FOLDER if self.root and (root / FOLDER).is_dir() else root / ARCHIVE


@lru_cache(maxsize=2)
def _read(source: Path) -> tuple[Images, Images]:
    if source.is_dir():
        files = {name: (source / name).read_bytes() for name in (*TRAIN, *TEST)}
    else:
        files = _unpack(source)
    images = {name: _parse(content, f"{source}: {name}") for name, content in files.items()}
    return _join([images[name] for name in TRAIN]), _join([images[name] for name in TEST])


def _unpack(archive: Path) -> dict[str, bytes]:
    """Read the files out of the archive, into memory only."""
    try:
        with tarfile.open(archive) as tar:
            return {name: tar.extractfile(f"{FOLDER}/{name}").read() for name in (*TRAIN, *TEST)}
    except (tarfile.TarError, EOFError, OSError, zlib.error, KeyError) as error:
        raise ValueError(f"{archive} is corrupt: {error}") from error


def _parse(content: bytes, name: str) -> Images:
    if not content or len(content) % RECORD:
        raise ValueError(
            f"{name} is corrupt: {len(content)} bytes are not whole images of {RECORD} bytes"
        )
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, RECORD)
    return records[:, 1:].reshape(-1, *SHAPE), records[:, 0].to(torch.int64)


def _join(parts: list[Images]) -> Images:
    images, labels = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(labels)
