"""A process for each job of a sweep."""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

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


class End(NamedTuple):
    """How the process of a job ended.

    Attributes:
        code: Its exit code; that of one that was killed is the signal's number, negative.
        signal: The signal that the sweep got meanwhile, Ctrl-C or SIGTERM, or None.
    """

    code: int
    signal: int | None


def run_in_a_fork(run: Callable[[], None]) -> End:
    """Run it in a fork of this process, which has everything imported.

    What it registers with `atexit`, as W&B does to write its last rows, is run at the fork's end. A
    fork of `multiprocessing` leaves it out.

    Args:
        run: What the fork does.

    Returns:
        How it has ended.
    """

    def in_a_session_of_its_own() -> None:
        """Run it out of reach of the terminal's signals, with the handlers of a new process."""
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        end_with_parent()
        atexit._clear()  # what the parent does at its end is not for the fork
        try:
            run()
        finally:
            atexit._run_exitfuncs()

    process = multiprocessing.get_context("fork").Process(target=in_a_session_of_its_own)
    process.start()
    with _signals_handed_on(process.pid) as received:
        process.join()
    return End(process.exitcode or 0, next(iter(received), None))


def run_as_a_command(command: Sequence[str]) -> End:
    """Run a command line; otherwise as `run_in_a_fork`."""
    process = subprocess.Popen(command, start_new_session=True, preexec_fn=end_with_parent)
    with _signals_handed_on(process.pid) as received:
        process.wait()
    return End(process.returncode, next(iter(received), None))


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Let this process get a signal when its parent ends.

    Args:
        number: The signal. On SIGTERM a run saves its state.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def signals_of_the_end() -> list[signal.Signals]:
    """Return Ctrl-C and SIGTERM, without those that are ignored, as under nohup."""
    both = (signal.SIGINT, signal.SIGTERM)
    return [number for number in both if signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def _signals_handed_on(session: int | None) -> Iterator[list[int]]:
    """Hand Ctrl-C and SIGTERM on to a job's processes, and list them.

    The processes are in a session of their own, so that each signal reaches them once.
    """
    received: list[int] = []
    if session is None or threading.current_thread() is not threading.main_thread():
        yield received
        return

    def hand_on(number: int, frame: Any) -> None:
        """Send the signal to the job's processes."""
        received.append(number)
        with suppress(ProcessLookupError):  # the job has just ended
            os.killpg(session, number)

    previous = {n: signal.signal(n, hand_on) for n in signals_of_the_end()}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def is_on_one_device(cfg: DictConfig) -> bool:
    """Return whether Lightning starts no further processes for the job."""
    trainer = cfg.get("trainer") or {}
    devices = trainer.get("devices", "auto")
    one = str(devices) == "1" or (OmegaConf.is_list(devices) and len(devices) == 1)
    return one and trainer.get("strategy", "auto") == "auto" and trainer.get("num_nodes", 1) == 1
