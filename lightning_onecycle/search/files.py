"""Files with what was found: a curve or a search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_onecycle.range_test.curve import LRCurve
from lightning_onecycle.range_test.json_file import read_file
from lightning_onecycle.search.result import Search


def load_curve_or_search(path: str | Path) -> LRCurve | Search:
    """Read what `LRCurve.save` or `Search.save` wrote.

    Args:
        path: The file.

    Returns:
        The one or the other.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it holds neither.
    """

    def make(content: Any) -> LRCurve | Search:
        """Return a Search if the file has probes, and otherwise a curve."""
        is_search = isinstance(content, Mapping) and "probes" in content
        return (Search if is_search else LRCurve).from_dict(content)

    return read_file(path, "an LR curve", make)
