"""Atomic writes: a file is whole or absent, even if the process is killed."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: str) -> None:
    """Write a text file beside the old one, and then put it in its place.

    Each process has an unfinished file of its own, so that several may write at the same time.
    """
    write_whole_bytes(path, content.encode(errors="replace"))


def write_whole_bytes(path: Path, content: bytes) -> None:
    """Write a binary file in the same way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
