"""A lock, so that one process at a time works in a directory."""

from __future__ import annotations

import atexit
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from lightning_onecycle.sweep.ranks import Launch, is_first

log = logging.getLogger(__name__)
_LONGEST_WAIT = 1500.0  # seconds; the other ranks wait for the first for 1800
# In a fork a lock that nothing refers to would be deleted, and so released for its parent as well.
_HELD: list[BaseFileLock] = []


def take(path: Path) -> bool:
    """Take a lock until this process ends, and return whether it was free.

    Args:
        path: The lock's file. This process can hold it with `alone` too.
    """
    if not is_first():
        return True
    lock = _lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    _HELD.append(lock)
    atexit.register(lock.release)
    return True


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
    lock = _lock(path)
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


def _lock(path: Path) -> BaseFileLock:
    """Return the process's one lock of a file, which it can acquire more than once."""
    return FileLock(path, is_singleton=True)
