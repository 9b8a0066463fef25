"""A range test in two processes, as a program that is told whose, and the strategy.

Rank 0 writes the curves to ``curves.json``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import lightning.pytorch.tuner
import torch

import lightning_onecycle
from experiments.benchmarks.traps.toys import Net, loader, trainer

TUNERS: dict[str, Any] = {
    "them": lightning.pytorch.tuner.Tuner,
    "us": lightning_onecycle.Tuner,
}


class Biased(Net):
    """Its loss is 1, and ``second`` on the second rank."""

    def __init__(self, second: float) -> None:
        super().__init__()
        self.second = second

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the loss."""
        return 0 * super().training_step(batch, batch_idx) + self.second**self.global_rank


def main() -> None:
    """Run a test for each bias of the second rank."""
    who, strategy = sys.argv[1:]
    torch.set_num_threads(1)
    curves = []
    for second in (1.0, 10.0):
        of = trainer(strategy=strategy, devices=2, max_epochs=100)
        options = {"num_training": 15, "update_attr": False, "early_stop_threshold": None}
        curve = TUNERS[who](of).lr_find(Biased(second), loader(), **options)
        curves.append(curve.results["loss"])
    if of.is_global_zero:
        with open("curves.json", "w") as file:
            json.dump(curves, file)


if __name__ == "__main__":
    main()
