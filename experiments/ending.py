"""What a run prints and logs at its end, and the ``result.json`` of a range test."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from experiments.resume import AUTO, CHECKPOINT, RESULT, from_the_start
from lightning_onecycle import sweep
from lightning_onecycle.range_test import Suggestion
from lightning_onecycle.report import write_result
from lightning_onecycle.report.record import is_complete

log = logging.getLogger(__name__)


def is_of_a_search(directory: Path) -> bool:
    """Return whether a run has saved a part of a search, which continues without a checkpoint."""
    return any((directory / name).is_file() for name in ("search.json", "recipe.json"))


@rank_zero_only
def record_range_test(facts: dict[str, Any], found: Suggestion, directory: Path) -> None:
    """Write ``result.json`` of a run that is a range test alone."""
    result = {"status": "completed", "reason": None, "metrics": {"lr_find/max_lr": found.lr}}
    write_result(directory / RESULT, facts | result)


def finalize(loggers: Sequence[Logger], status: str) -> None:
    """Tell the loggers that the run is over, as a fit does at its end."""
    for logger in loggers:
        logger.finalize(status)


@contextmanager
def failures_told_to(loggers: Sequence[Logger]) -> Iterator[None]:
    """Tell the loggers if a run fails before its fit; a fit tells them itself."""
    try:
        yield
    except BaseException:
        finalize(loggers, "failed")
        raise


@rank_zero_only
def log_hyperparameters(loggers: Sequence[Logger], cfg: DictConfig, result: dict[str, Any]) -> None:
    """Log what people compare, and for TensorBoard's hparams tab the final metrics.

    The tab shows five columns, so in a sweep it gets what was swept alone.
    """
    parameters: dict[str, Any] = dict(sweep.swept())
    if not parameters:
        choices = HydraConfig.get().runtime.choices
        groups = ("schedule", "optimizer", "model", "data")
        parameters = {group: choices[group] for group in groups} | {
            "peak_lr": result.get("max_lr"),
            "weight_decay": cfg.optimizer.weight_decay,
            "seed": cfg.seed,
            "epochs": cfg.trainer.max_epochs,
        }
        parameters |= {f"schedule/{k}": v for k, v in cfg.schedule.items() if k != "_target_"}
    parameters["effective_batch_size"] = result.get("effective_batch_size")
    final = result.get("metrics", {})
    metrics = {f"hp/{name}": final.get(name) for name in ("val/acc", "val/loss", "test/acc")}
    metrics = {name: value for name, value in metrics.items() if value is not None}
    for logger in loggers:
        is_tensorboard = isinstance(logger, TensorBoardLogger)
        if is_tensorboard:  # it has written its hparams.yaml before there were any, and only once
            Path(logger.log_dir, logger.NAME_HPARAMS_FILE).unlink(missing_ok=True)
        logger.log_hyperparams(parameters, *([metrics] if is_tensorboard else []))
        logger.save()


@rank_zero_only
def say_how_it_ended(result: dict[str, Any], directory: Path) -> None:
    """Print what came of the run and how to look at it."""
    metrics = result.get("metrics", {})
    shown = ", ".join(
        f"{name} {metrics[name]:.4f}"
        for name in ("val/loss", "val/acc", "test/acc")
        if metrics.get(name) is not None
    )
    if result.get("steps") is not None:
        steps, status, reason = f"{result['steps']:,}", result["status"], result["reason"]
        if is_complete(result) and reason:
            if result["total_steps"] is not None:
                steps += f" of {result['total_steps']:,}"
            shown = f"{reason}; {shown}"
        else:
            shown = reason or shown
        steps += " step" if steps == "1" else " steps"
        log.info(f"{status}: {steps} in {result['fit_seconds']:.1f} s; {shown}")
    elif result.get("reason"):  # it did not come to training
        log.info(f"{result['status']}: {result['reason']}")
    start = Path(HydraConfig.get().runtime.cwd)
    if directory.is_relative_to(start):
        directory = directory.relative_to(start)
    if result.get("status") == "interrupted" and (start / directory / CHECKPOINT).is_file():
        again = f"python train.py {shlex.quote(f'resume={directory}')}"
        is_auto = f"resume={AUTO}" in HydraConfig.get().overrides.task
        log.info(f"continue: {'the same command again' if is_auto else again}")
    elif result.get("status") == "interrupted" and is_of_a_search(start / directory):
        log.info(f"continue: {from_the_start(directory)}")
    log.info(f"results: {directory / RESULT}")
    if any((start / directory).glob("events.out.tfevents.*")):
        log.info(f"look: tensorboard --logdir {shlex.quote(str(directory))}")
