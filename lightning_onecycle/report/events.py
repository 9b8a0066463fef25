"""Curves of a run, read from TensorBoard's event files."""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator
from pathlib import Path

from lightning_onecycle.report.runs import Run, once_per_file

Points = list[tuple[int, float]]


def curve(run: Run, tag: str) -> Points:
    """Return the finite values that a run has logged under a tag, by step.

    A resumed run has several files. Where they hold the same step, the last one counts.

    Args:
        run: Whose event files to read.
        tag: What was logged, such as ``"val/acc"``.

    Returns:
        Steps and values, in the order of the steps. A damaged file is read up to where it
        is damaged.

    Raises:
        ImportError: If TensorBoard is not installed.

    Example:
        >>> from lightning_onecycle.report.runs import Run
        >>> curve(Run("0-lr=0.1", "completed"), "val/acc")
        []
    """
    points: dict[int, float] = {}
    for path in run.events:
        with contextlib.suppress(OSError):
            points.update(_scalars(path).get(tag, ()))
    return sorted((step, value) for step, value in points.items() if math.isfinite(value))


@once_per_file
def _scalars(path: Path) -> dict[str, Points]:
    try:
        from google.protobuf.message import DecodeError
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise ImportError("curves need TensorBoard: pip install tensorboard") from error
    points: dict[str, Points] = {}
    with contextlib.suppress(DecodeError):
        for record in _records(path.read_bytes()):
            event = Event.FromString(record)
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    scalar = value.simple_value
                elif value.metadata.plugin_data.plugin_name == "scalars":
                    scalar = float(make_ndarray(value.tensor))
                else:
                    continue
                points.setdefault(value.tag, []).append((event.step, scalar))
    return points


def _records(content: bytes) -> Iterator[bytes]:
    """Yield the complete records of TensorBoard's writer.

    A record is its length, 8 bytes, a checksum of it, 4, the data, and a checksum of them, 4.
    TensorBoard computes the checksums in Python, which takes nine tenths of the time of reading.
    """
    start = 12
    while start <= len(content):
        (length,) = struct.unpack_from("<Q", content, start - 12)
        if start + length + 4 > len(content):
            return
        yield content[start : start + length]
        start += length + 16
