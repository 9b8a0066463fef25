"""Train a network with a schedule: ``python train.py schedule=onecycle data=digits``.

Composes ``conf/``, builds what it names, fits, tests, and leaves ``result.json``. No other module
knows Hydra.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from omegaconf import DictConfig, OmegaConf

from experiments.callbacks import ShowPlan
from experiments.lr_find import CURVE, draw_sweep, show_curve
from experiments.task import Classifier
from lightning_onecycle import (
    Diverged,
    LRCurve,
    LRFinder,
    RunRecord,
    Schedule,
    ScheduleCallback,
    Tuner,
)
from lightning_onecycle._checks import choice, number, whole
from lightning_onecycle.range_test import Suggestion

log = logging.getLogger("train")
CHECKPOINT = Path("checkpoints", "last.ckpt")


class UsageError(ValueError):
    """The command line asks for what cannot be; the message names the key, the rule, the value."""


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Run one job; return its validation accuracy, or NaN if it diverged in a sweep."""
    # What Lightning says of its own accord is left out; its warnings and what we say are not.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: record.levelno > logging.INFO or "lightning_onecycle" in record.pathname
    )
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings(
        "ignore", "The number of training batches .* is smaller than the logging"
    )
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
    in_a_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        return run(cfg, Path(HydraConfig.get().runtime.output_dir))
    except (UsageError, MisconfigurationException) as error:
        if in_a_sweep:
            raise
        sys.exit(f"train.py: {error}")
    except Diverged as error:
        log.error(f"diverged: {error}")
        if in_a_sweep:
            return float("nan")
        sys.exit(1)


def run(cfg: DictConfig, directory: Path) -> float | None:
    """Build, fit and test what ``cfg`` describes; results go to ``directory``."""
    check(cfg)
    seed_everything(cfg.seed, workers=True, verbose=False)
    schedule = build(cfg, "schedule")
    data = build(cfg, "data")
    load(data)
    task = Classifier(
        build(cfg, "model"), build(cfg, "optimizer"), cfg.data.num_classes, **cfg.task
    )
    name = HydraConfig.get().runtime.choices["schedule"]
    size = cfg.data.batch_size
    record = RunRecord(directory / "result.json", schedule=name, seed=cfg.seed, batch_size=size)
    scheduling = ScheduleCallback(schedule, budget=cfg.budget)
    callbacks = [
        *peak_of_a_saved_curve(cfg),
        scheduling,
        record,
        ShowPlan(directory, name, size),
        *(callback for callback in build(cfg, "callbacks").values() if callback is not None),
    ]
    logger = TensorBoardLogger(directory, name="", version="", default_hp_metric=False)
    trainer = build(cfg, "trainer", callbacks=callbacks, logger=logger)
    if cfg.lr_find.mode != "off":
        found = find_peak(cfg, trainer, task, data, schedule, directory)
        if cfg.lr_find.mode == "only":
            return found.lr
        if found.lr is None:
            raise UsageError(f"lr_find=then_fit found no peak to train at: {found.reason}")
        scheduling.max_lr = found.lr
    try:
        trainer.fit(task, data, ckpt_path=directory / CHECKPOINT if cfg.resume else None)
        trainer.test(task, data, verbose=False)
    except (SIGTERMException, SystemExit):
        # What Lightning leaves a fit with, on SIGTERM and on Ctrl-C, when it has shut down.
        say_how_it_ended(record.result, directory)
        sys.exit(130)
    finally:
        log_hyperparameters(logger, cfg, record.result)
    say_how_it_ended(record.result, directory)
    return record.result["metrics"].get("val/acc")


def peak_of_a_saved_curve(cfg: DictConfig) -> list[LRFinder]:
    """Return what takes the peak from ``lr_find.curve`` and holds it against this training."""
    if cfg.lr_find.get("curve") is None:
        return []
    try:
        return [
            LRFinder(
                cfg.lr_find.curve,
                method=cfg.lr_find.method,
                allow_differences=cfg.lr_find.allow_differences,
            )
        ]
    except (ValueError, OSError) as error:
        raise UsageError(f"lr_find.curve: {error}") from error


def find_peak(
    cfg: DictConfig,
    trainer: Trainer,
    task: Classifier,
    data: LightningDataModule,
    schedule: Schedule,
    directory: Path,
) -> Suggestion:
    """Run the range test, or read what a resumed run has found; leave its curve and pictures."""
    path = directory / CURVE
    names = ("min_lr", "max_lr", "num_training", "early_stop_threshold", "val_batches")
    try:
        if cfg.resume and path.is_file():
            curve = LRCurve.load(path)
        else:
            options = {name: cfg.lr_find[name] for name in names}
            curve = Tuner(trainer).lr_find(task, datamodule=data, schedule=schedule, **options)
        found = curve.suggest(cfg.lr_find.method)
    except ValueError as error:
        raise UsageError(f"lr_find.{error}") from error
    show_curve(curve, found, trainer.logger, directory)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        draw_sweep(directory.parent)
    return found


def check(cfg: DictConfig) -> None:
    """Refuse values that would only fail when training has begun, or worse, would not."""
    trainer = cfg.trainer
    try:
        whole("seed", cfg.seed, 0)
        choice("budget", cfg.budget, ("steps", "time"))
        number("optimizer.lr", cfg.optimizer.lr, "> 0", lambda v: v > 0)
        number("optimizer.weight_decay", cfg.optimizer.weight_decay, ">= 0", lambda v: v >= 0)
        whole("data.batch_size", cfg.data.batch_size, 1)
        whole("trainer.accumulate_grad_batches", trainer.accumulate_grad_batches, 1)
        for key in ("max_epochs", "max_steps"):
            if trainer[key] not in (None, -1):
                whole(f"trainer.{key}", trainer[key], 1)
    except ValueError as error:
        raise UsageError(str(error)) from None


def build(cfg: DictConfig, key: str, **more: Any) -> Any:
    """Instantiate one group; a refusal by what it builds names the group's key."""
    try:
        return instantiate(cfg[key], **more, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, (ValueError, TypeError, MisconfigurationException)):
            raise UsageError(f"{key}.{cause}") from error
        raise


def load(data: LightningDataModule) -> None:
    """Read the data now: what is missing or damaged is told before anything else is built."""
    try:
        if rank_zero_only.rank == 0:
            data.prepare_data()
        data.setup("fit")
    except (ValueError, OSError) as error:
        raise UsageError(f"data.{error}") from error


@rank_zero_only
def log_hyperparameters(logger: TensorBoardLogger, cfg: DictConfig, result: dict[str, Any]) -> None:
    """Log what people compare, with the final metrics, for TensorBoard's hparams tab."""
    choices = HydraConfig.get().runtime.choices
    parameters = {group: choices[group] for group in ("schedule", "optimizer", "model", "data")} | {
        "lr": cfg.optimizer.lr,
        "weight_decay": cfg.optimizer.weight_decay,
        "seed": cfg.seed,
        "epochs": cfg.trainer.max_epochs,
        "effective_batch_size": result.get("effective_batch_size"),
    }
    parameters |= {f"schedule/{k}": v for k, v in cfg.schedule.items() if k != "_target_"}
    final = result.get("metrics", {})
    metrics = {f"hp/{name}": final.get(name) for name in ("val/acc", "val/loss", "test/acc")}
    logger.log_hyperparams(parameters, {k: v for k, v in metrics.items() if v is not None})
    logger.save()


@rank_zero_only
def say_how_it_ended(result: dict[str, Any], directory: Path) -> None:
    """Print what came of the run and how to look at it."""
    metrics = result["metrics"]
    shown = ", ".join(
        f"{name} {metrics[name]:.4f}"
        for name in ("val/loss", "val/acc", "test/acc")
        if metrics.get(name) is not None
    )
    log.info(
        f"{result['status']}: {result['steps']:,} steps in {result['fit_seconds']:.1f} s;"
        f" {shown or 'nothing measured yet'}"
    )
    if result["status"] == "interrupted":
        log.info(f"go on: python train.py resume={directory}")
    log.info(f"results: {directory / 'result.json'}   look: tensorboard --logdir {directory}")


def arguments_for_hydra(arguments: list[str]) -> list[str]:
    """Return the command line with ``-m`` first, and with a resumed run's own options.

    Hydra takes a flag only before the options or behind them. With ``resume=DIR``, the options
    that the run was started with come before those given now; it goes on in its own directory,
    and Hydra's record of how it was started is left as it is.
    """
    sweep = [a for a in arguments if a in ("-m", "--multirun")]
    options = [a for a in arguments if a not in sweep]
    given = [a.removeprefix("resume=").strip("'\"") for a in options if a.startswith("resume=")]
    if not given or given[-1] in ("", "null"):
        return [*sweep, *options]
    directory = Path(given[-1])
    started_with = directory / ".hydra" / "overrides.yaml"
    for needed in (directory / CHECKPOINT, started_with):
        if not needed.is_file():
            sys.exit(
                f"train.py: resume must be the directory of a run that has saved a checkpoint, got"
                f" {str(directory)!r}: there is no {needed}"
            )
    if sweep:
        sys.exit(f"train.py: resume must be given to a single run, got it with {sweep[0]}")
    before = [str(option) for option in OmegaConf.load(started_with)]
    return [*before, *options, f"hydra.run.dir='{directory}'", "hydra.output_subdir=null"]


if __name__ == "__main__":
    sys.argv[1:] = arguments_for_hydra(sys.argv[1:])
    main()
