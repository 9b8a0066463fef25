"""Train what an experiment's configuration describes, and keep what each epoch measured.

    python -m experiments.figures.runs fig2_losses     # the jobs of its sweep that are not there

What ``python train.py experiment=NAME`` trains, to the bit, without TensorBoard, checkpoints and a
directory for each job: rows are added to ``experiments/figures/results/NAME.csv``, those of a job
together. A job that was interrupted begins again; one that is there is left out.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from omegaconf import DictConfig

from experiments.build import build, check, optimizer_of
from experiments.rows import Row, add, quiet, read
from experiments.task import Classifier
from lightning_onecycle import ScheduleCallback

CONF = Path(__file__).parents[2] / "conf"
RESULTS = Path(__file__).parent / "results"
METRICS = ("train/loss", "val/loss", "train/acc", "val/acc")


def configuration(*overrides: str) -> DictConfig:
    """Compose ``conf/config.yaml`` as ``train.py`` does, with Hydra's own part."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def jobs(experiment: str, *overrides: str) -> list[tuple[str, ...]]:
    """Return the overrides of each job of an experiment's sweep.

    Args:
        experiment: An option of ``conf/experiment``.
        *overrides: As on the command line; they come before the sweep's.

    Example:
        >>> jobs("fig3_high_rate", "trainer.max_epochs=5")[0]
        ('trainer.max_epochs=5', 'seed=0')
    """
    params = configuration(f"experiment={experiment}", *overrides).hydra.sweeper.params or {}
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    swept = [f"{key}={values}" for key, values in params.items() if key not in given]
    parsed = OverridesParser.create().parse_overrides([*overrides, *swept])
    (batch,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [tuple(job) for job in batch]


class EpochLog(Callback):
    """Keep what each validated epoch has measured, and end a training whose loss is no number."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.diverged = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        """End a training that has diverged."""
        if not math.isfinite(float(outputs["loss"])):
            self.diverged = trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the means of the epoch and what the validation said."""
        found = {m: round(float(v), 6) for m, v in trainer.callback_metrics.items() if m in METRICS}
        if "val/loss" in found:
            row = {"epoch": trainer.current_epoch + 1, "steps": trainer.global_step}
            self.rows.append(row | {metric: found[metric] for metric in METRICS})


def train(cfg: DictConfig, *callbacks: Callback) -> tuple[list[Row], bool, float, Row]:
    """Train one job, without a directory.

    Args:
        cfg: What `configuration` returns.
        *callbacks: More of them.

    Returns:
        A row for each validated epoch; whether the loss diverged; seconds; and the test metrics.
    """
    check(cfg)
    seed_everything(cfg.seed, workers=True, verbose=False)
    schedule, data = build(cfg, "schedule"), build(cfg, "data")
    task = Classifier(build(cfg, "model"), optimizer_of(cfg), cfg.data.num_classes, **cfg.task)
    log = EpochLog()
    batch_norm = build(cfg.callbacks, "batch_norm") if cfg.callbacks.batch_norm else None
    trainer = build(
        cfg,
        "trainer",
        callbacks=[
            ScheduleCallback(schedule),
            *([batch_norm] if batch_norm else []),
            log,
            *callbacks,
        ],
        logger=False,
        enable_checkpointing=False,
    )
    began = time.perf_counter()
    trainer.fit(task, data)
    seconds = time.perf_counter() - began
    tested: Row = {}
    if not log.diverged:
        (metrics,) = trainer.test(task, data, verbose=False)
        tested = {name: round(value, 6) for name, value in metrics.items()}
    return log.rows, log.diverged, round(seconds, 1), tested


def missing(path: Path, wanted: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Yield the jobs that have no rows in ``path`` when their turn comes."""
    for job in wanted:
        if not any(sorted(row["job"].split()) == sorted(job) for row in read(path)):
            yield job


def run(experiment: str, *overrides: str) -> None:
    """Train the jobs of an experiment that are not there yet."""
    path = RESULTS / f"{experiment}.csv"
    for job in missing(path, jobs(experiment, *overrides)):
        cfg = configuration(f"experiment={experiment}", *job, "trainer.enable_progress_bar=false")
        rows, diverged, seconds, tested = train(cfg)
        accuracy = "" if diverged else tested["test/acc"]
        for row in rows:
            row["test/acc"] = accuracy if row is rows[-1] else ""
        add(path, ({"job": " ".join(job), "seed": cfg.seed} | row for row in rows))
        print(experiment, *job, f"{seconds} s", rows[-1], flush=True)


def main() -> None:
    """Run one experiment or several."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", nargs="+", metavar="experiment")
    parser.add_argument("--set", nargs="*", default=[], help="overrides of all of them")
    arguments = parser.parse_args()
    quiet()
    for experiment in arguments.experiments:
        run(experiment, *arguments.set)


if __name__ == "__main__":
    main()
