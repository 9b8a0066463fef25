"""A process for each job of a sweep."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def can_fork() -> bool:
    """Return whether a fork of this process can train: CUDA, once used, does not survive it."""
    return sys.platform == "linux" and not torch.cuda.is_initialized()


@contextmanager
def fit_to_be_forked() -> Iterator[None]:
    """Keep torch from starting threads of OpenMP, which a fork would wait for in vain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_in_a_fork(run: Callable[[], None]) -> int:
    """Run it in a fork of this process, which has everything imported.

    Args:
        run: What the fork does.

    Returns:
        The exit code; that of a process that was killed is the signal's number, negative.

    Raises:
        SystemExit: If the sweep was interrupted meanwhile, when the fork has ended.
    """

    def in_a_session_of_its_own() -> None:
        os.setsid()
        _end_with_parent()
        run()

    process = multiprocessing.get_context("fork").Process(target=in_a_session_of_its_own)
    process.start()
    with _signals_handed_on(process.pid):
        process.join()
    return process.exitcode or 0


def run_as_a_command(command: Sequence[str]) -> int:
    """Run a command line; otherwise as `run_in_a_fork`."""
    process = subprocess.Popen(command, start_new_session=True, preexec_fn=_end_with_parent)
    with _signals_handed_on(process.pid):
        process.wait()
    return process.returncode


def _end_with_parent() -> None:
    """Have SIGTERM sent, on which a run saves its state, should the sweep itself be killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def _signals_handed_on(session: int | None) -> Iterator[None]:
    """Hand Ctrl-C and SIGTERM on to a job's processes, and end the sweep when the job has ended.

    The processes are in a session of their own, so that each signal reaches them once.
    """
    if session is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def hand_on(number: int, frame: Any) -> None:
        received.append(number)
        with suppress(ProcessLookupError):  # the job has just ended
            os.killpg(session, number)

    previous = {n: signal.signal(n, hand_on) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        sys.exit(128 + received[0])
