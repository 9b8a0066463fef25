"""A lock, so that one process at a time works in a directory."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from lightning_onecycle.sweep.ranks import Launch, is_first

log = logging.getLogger(__name__)
_LONGEST_WAIT = 1500.0  # seconds; the other ranks wait for the first for 1800


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock for all ranks of a run; the first has it.

    A run that its launcher has restarted waits for what is left of it: a node that failed may
    still be at work.

    Args:
        path: The lock's file.

    Raises:
        filelock.Timeout: If another process holds it.
    """
    if not is_first():
        yield
        return
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        launch = Launch.of_this_process()
        if launch is None or not launch.restarts:
            raise
        log.info(f"{path.parent}: another process is still at work in it; waiting for its end")
        lock.acquire(timeout=_LONGEST_WAIT)
    try:
        yield
    finally:
        lock.release()
