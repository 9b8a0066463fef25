"""Signals: a run saves its state and ends, and a SLURM job goes back into the queue."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_onecycle.sweep.ranks import is_first, is_of_slurm

log = logging.getLogger(__name__)


class Requeue(SIGTERMException):
    """SIGUSR1: the time of a SLURM job is nearly up, and the job goes back into the queue."""


@contextmanager
def signals_taken() -> Iterator[None]:
    """End the run at once on Ctrl-C and SIGTERM, and in a SLURM job on SIGUSR1.

    A launcher that has taken a signal before keeps it, as submitit does. In training,
    `SaveOnInterrupt` takes them over.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if is_of_slurm() and "SUBMITIT_EXECUTOR" not in os.environ:
        numbers.append(signal.SIGUSR1)
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    numbers = [n for n in numbers if signal.getsignal(n) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _end_at_once)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})  # train.py has blocked it
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _end_at_once(number: int, frame: Any) -> None:
    raise _exception_for(number)


def _exception_for(number: int) -> BaseException:
    kinds = {signal.SIGTERM: SIGTERMException, signal.SIGUSR1: Requeue}
    return kinds.get(number, KeyboardInterrupt)()


def requeue() -> None:
    """Put this SLURM job back into the queue, which ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM sends it; there is nothing left to do
    if not is_first():
        return
    job = os.environ["SLURM_JOB_ID"]
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if done.returncode:
        log.error(f"SLURM job {job} cannot be put back into the queue: {done.stderr.strip()}")
    else:
        log.info(f"SLURM job {job} is back in the queue")


class SaveOnInterrupt(Checkpoint):
    """On Ctrl-C, SIGTERM or SIGUSR1, finish the batch, save ``path`` and end the run.

    Behind the last batch of an epoch the validation is finished too: a resumed run would leave it
    out. All ranks end at the same batch. A second Ctrl-C ends it at once. As a ``Checkpoint`` this
    callback runs behind the others, so that their state is complete in what it saves. Who else has
    taken a signal before the run, as a cluster's launcher does, keeps it.

    Args:
        path: Where the checkpoint goes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._received = 0
        self._ours: list[int] = []
        self._previous: dict[int, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See which signals are ours, before Lightning takes SIGTERM.

        A SIGINT that is ignored, as in the background of a shell, is not.
        """
        taken = [n for n in (signal.SIGTERM, signal.SIGUSR1) if signal.getsignal(n) == _end_at_once]
        is_ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        self._ours = taken if is_ignored else [signal.SIGINT, *taken]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals."""
        self._received = 0
        if threading.current_thread() is threading.main_thread():
            self._previous = {n: signal.signal(n, self._on_signal) for n in self._ours}

    def _on_signal(self, signum: int, frame: Any) -> None:
        if self._received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = signum
        log.info("Interrupted: ending after this batch. Ctrl-C again ends at once.")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the run between two batches of an epoch."""
        if not trainer.is_last_batch and trainer.global_step != trainer.max_steps:
            self._end_if_interrupted(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the run between two epochs."""
        self._end_if_interrupted(trainer)

    def _end_if_interrupted(self, trainer: Trainer) -> None:
        """End all ranks at the same place and for the same reason."""
        received = self._received
        if trainer.world_size > 1:
            here = torch.tensor(received, device=trainer.strategy.root_device)
            received = int(trainer.strategy.reduce(here, reduce_op="max"))
        if received:
            trainer.save_checkpoint(self.path, weights_only=False)
            raise _exception_for(received)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        self._give_back()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        if self._received:
            log.info("The run was at its end when it was interrupted.")
        self._give_back()

    def _give_back(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}
