"""Curves and searches as JSON: losses that are not finite, and files that hold something else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def to_text(content: Mapping[str, Any]) -> str:
    """Return the text of a file. It is JSON that every reader takes: without NaN."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def read_file(path: str | Path, what: str, make: Callable[[Any], T]) -> T:
    """Read a file, and make of its content what it holds.

    Args:
        path: The file.
        what: What is expected in it, as ``"an LR curve"``.
        make: Makes it of the content, and raises ``KeyError`` or ``ValueError`` where it cannot.

    Returns:
        What ``make`` returns.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it holds something else.
    """
    try:
        return make(json.loads(Path(path).read_text()))
    except KeyError as error:
        raise ValueError(f"{path} is not {what}: there is no {error} in it") from error
    except (ValueError, RecursionError) as error:  # what is not JSON or not text, or too deep
        raise ValueError(f"{path} is not {what}: {error}") from error


def check_format(content: Any, known: int) -> None:
    """Refuse what is no mapping, or is of a format that is not known."""
    if not isinstance(content, Mapping) or "format" not in content:
        raise ValueError("there is no 'format' in it")
    if content["format"] != known:
        raise ValueError(f"its format must be {known}, got {content['format']!r}")


def written(losses: Iterable[float]) -> list[float | str]:
    """Return losses as JSON holds them: those that are not finite are strings."""
    return [loss if math.isfinite(loss) else str(loss) for loss in losses]


def read_losses(losses: Any) -> Any:
    """Return losses with NaN for null; `float` reads the strings that `written` made."""
    if not isinstance(losses, (list, tuple)):
        return losses
    return [math.nan if loss is None else loss for loss in losses]
