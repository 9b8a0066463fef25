"""What says which phase of a run has begun, and makes each long enough to be interrupted."""

import os
import time
from pathlib import Path

from lightning.pytorch import Callback

from experiments.data import Digits


def mark(name):
    """Add the phase and the time to the file that the variable PHASES names."""
    with Path(os.environ["PHASES"]).open("a") as file:
        file.write(f"{name} {time.time()}\n")


class SlowDigits(Digits):
    def read(self):
        mark("data")
        time.sleep(0.5)
        return super().read()


class Phases(Callback):
    """Mark the phases of a trainer. In a range test, training is that of the test."""

    def on_train_start(self, *args):
        mark("train")

    def on_validation_start(self, *args):
        mark("validation")

    def on_validation_end(self, *args):
        mark("validated")

    def on_test_start(self, *args):
        mark("test")

    def on_test_end(self, *args):
        mark("end")

    def on_train_batch_start(self, *args):
        time.sleep(0.02)

    def on_validation_batch_start(self, *args):
        time.sleep(0.05)

    def on_test_batch_start(self, *args):
        time.sleep(0.1)
