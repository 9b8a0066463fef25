"""Curves of a run, read from TensorBoard's event files."""

from __future__ import annotations

import contextlib
import math
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
        from tensorboard.backend.event_processing import event_accumulator as reading
    except ImportError as error:
        raise ImportError("curves need TensorBoard: pip install tensorboard") from error
    # 0 keeps every scalar; pictures and graphs are passed over.
    keep = dict.fromkeys(reading.DEFAULT_SIZE_GUIDANCE, 1) | {reading.SCALARS: 0}
    accumulator = reading.EventAccumulator(str(path), size_guidance=keep)
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }
