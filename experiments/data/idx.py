"""The IDX format of MNIST and its successors: gzip, a short header, then bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

UNSIGNED_BYTE = 0x08


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read a gzipped IDX file of unsigned bytes.

    The header is two zero bytes, the type of the values, the number of dimensions, and each
    dimension as a big-endian 32-bit integer.

    Args:
        path: The file.
        dimensions: How many dimensions it must have: 3 for images, 1 for labels.

    Returns:
        The values, uint8, in the shape that the header gives.

    Raises:
        ValueError: The file is corrupt, or not of this kind.
    """
    try:
        with gzip.open(path) as file:
            content = bytearray(file.read())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _corrupt(path, f"not a whole gzip file ({error})") from error

    start = 4 + 4 * dimensions
    magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if content[:4] != magic:
        raise _corrupt(path, f"it must begin with {magic.hex()}, got {content[:4].hex()!r}")
    if len(content) < start:
        raise _corrupt(path, f"its header of {start} bytes is cut off after {len(content)}")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape) or not math.prod(shape):
        size = " x ".join(map(str, shape))
        raise _corrupt(path, f"{len(content) - start} bytes of data for a size of {size}")
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).view(shape)


def _corrupt(path: Path, what: str) -> ValueError:
    return ValueError(f"{path} is corrupt: {what}")
