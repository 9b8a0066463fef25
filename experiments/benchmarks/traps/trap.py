"""What a trap is, and how its two sides are run: apart from all else, with a time limit."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Literal, NamedTuple

import torch
from lightning.pytorch import seed_everything

Verdict = Literal["yes", "partly", "no", "n/a", "not installed"]
Claim = tuple[bool, str]
SECONDS = 90.0

SAID: list[str] = []
"""Warnings and log messages of the side that is running."""


class Outcome(NamedTuple):
    """Whether the trap is avoided, and what happened."""

    verdict: Verdict
    text: str


Side = Callable[[], Outcome]


def outcome(*claims: Claim) -> Outcome:
    """Return what claims, each with whether it is right, amount to.

    Example:
        >>> outcome((True, "peak reached"), (False, "ends at 0.3"))
        Outcome(verdict='partly', text='peak reached; ends at 0.3')
    """
    right = [holds for holds, _ in claims]
    verdict: Verdict = "yes" if all(right) else "partly" if any(right) else "no"
    return Outcome(verdict, "; ".join(text for _, text in claims))


def claim(holds: bool, text: str) -> Claim:
    """Return what is claimed, and say so where it does not hold."""
    return holds, text if holds else f"not so: {text}"


def not_applicable(why: str) -> Outcome:
    """Return the outcome of a side that cannot have the trap."""
    return Outcome("n/a", why)


@dataclass
class Trap:
    """One trap, and a case of it for them and for us.

    Args:
        section: Where it belongs.
        number: Its name in the table.
        what: What goes wrong.
        slow: Whether a case takes more than a second or two.
        needs: Modules of theirs that must be installed.
        note: What is to be said of theirs besides what happened.
    """

    section: str
    number: str
    what: str
    slow: bool = False
    needs: str = ""
    note: str = ""
    sides: dict[str, Side] = field(default_factory=dict)


class Section:
    """The traps of one module, declared with the decorators ``them`` and ``us``."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.traps: dict[str, Trap] = {}

    def them(
        self, number: int | str, what: str, *, slow: bool = False, needs: str = "", note: str = ""
    ) -> Callable[[Side], Side]:
        """Declare a trap by their case of it."""
        trap = Trap(self.title, str(number), what, slow, needs, note)
        self.traps[trap.number] = trap
        return self._side(trap, "them")

    def us(self, number: int | str) -> Callable[[Side], Side]:
        """Add our case to a trap."""
        return self._side(self.traps[str(number)], "us")

    def _side(self, trap: Trap, name: str) -> Callable[[Side], Side]:
        def add(side: Side) -> Side:
            trap.sides[name] = side
            return side

        return add


def run(side: Side, seconds: float = SECONDS) -> Outcome:
    """Run a side in a process and a folder of its own; a crash or a hang is an outcome, too."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = context.Process(target=_child, args=(side, folder, send))
        process.start()
        send.close()
        try:
            if receive.poll(seconds):
                return receive.recv()
            return Outcome("no", f"still running after {seconds:g} s")
        except EOFError:
            process.join()
            return Outcome("no", f"the process dies: exit code {process.exitcode}")
        finally:
            if process.is_alive():
                process.join(1.0)
            # Its group: it may have started processes of its own.
            _kill_group(process.pid)
            process.join()
            receive.close()


def _kill_group(pid: int | None) -> None:
    try:
        if pid is not None:
            os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _child(side: Side, folder: str, send: Connection) -> None:
    os.setpgid(0, 0)
    os.chdir(folder)
    output = open("output", "w")  # noqa: SIM115 # for as long as the process lives
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    sys.stdout = sys.stderr = output
    torch.set_num_threads(1)
    seed_everything(1, verbose=False)
    with _heard():
        try:
            result = side()
        except (Exception, SystemExit) as error:
            result = Outcome("no", f"raises {named(error)}")
    send.send(Outcome(result.verdict, _in_a_cell(result.text)))
    send.close()


class _Ear(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        SAID.append(record.getMessage())


@contextmanager
def _heard() -> Iterator[None]:
    """Let what is warned of and logged go to ``SAID``."""
    SAID.clear()
    ear = _Ear(logging.INFO)
    names = ("lightning.pytorch", "lightning.fabric", "lightning_utilities.core.rank_zero")
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [ear], False
        logger.setLevel(logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: SAID.append(str(message))
        yield


def told(word: str) -> bool:
    """Whether a warning or a log message has a word in it."""
    return any(word in message for message in SAID)


def named(error: BaseException) -> str:
    """Return an error's type and the start of what it says."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:70]}{'...' if len(text) > 70 else ''}"


def error_of(call: Callable[[], object]) -> str:
    """Call something, and return the error it raises, or nothing."""
    try:
        call()
    except Exception as error:
        return named(error)
    return ""


def _in_a_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
