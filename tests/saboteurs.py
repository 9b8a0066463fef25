"""Callbacks that break a run on purpose. The runs import them with tests/ on their path."""

import errno
import os
import signal
import threading
import time

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint


class Saboteur(Callback):
    """Do harm at an optimizer step, on one rank, where one value of the run says so.

    Args:
        seed: Of the runs that are meant.
        step: When.
        rank: Which process.
        once: A file; the harm is done only while it is missing, and it is left.
    """

    def __init__(self, seed, step=30, rank=0, once=None):
        self.seed, self.step, self.rank, self.once = seed, step, rank, once

    def setup(self, trainer, pl_module, stage):
        if self.once is not None and os.path.exists(self.once):
            self.step = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        meant = int(os.environ.get("PL_GLOBAL_SEED", -1)) == self.seed
        if meant and trainer.global_step == self.step and trainer.global_rank == self.rank:
            if self.once is not None:
                open(self.once, "x").close()
            self.harm()


class Kill(Saboteur):
    """As the kernel does when memory is used up."""

    def harm(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Hang(Saboteur):
    def harm(self):
        time.sleep(3600)


class Raise(Saboteur):
    def harm(self):
        raise RuntimeError("the cable was pulled")


class FillDisk(Saboteur):
    """As TensorBoard meets it: in its thread, and then in the run."""

    def harm(self):
        def write():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        write()


class KillAtTheEnd(Checkpoint):
    """Kill the run of a seed when its last epoch is over and saved, and before anybody says so."""

    def __init__(self, seed, once):
        self.seed, self.once = seed, once

    def on_train_epoch_end(self, trainer, pl_module):
        last = trainer.current_epoch == trainer.max_epochs - 1
        meant = int(os.environ.get("PL_GLOBAL_SEED", -1)) == self.seed
        if meant and last and trainer.is_global_zero and not os.path.exists(self.once):
            open(self.once, "x").close()
            os.kill(os.getpid(), signal.SIGKILL)


class TermAtEpochEnd(Callback):
    """Send the first rank SIGTERM when all are about to leave an epoch."""

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.global_rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)


class Slow(Callback):
    """Take a while over each step, for somebody to interrupt; SLOW goes before ``seconds``."""

    def __init__(self, seconds=0.05):
        self.seconds = float(os.environ.get("SLOW", seconds))

    def on_train_batch_start(self, *args):
        time.sleep(self.seconds)


class WaitFor(Callback):
    """Do not begin before a file is there, or a minute is over."""

    def __init__(self, path):
        self.path = path

    def on_train_start(self, *args):
        end = time.monotonic() + 60
        while not os.path.exists(self.path) and time.monotonic() < end:
            time.sleep(0.05)
