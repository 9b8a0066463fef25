"""Train a network with a schedule: ``python train.py schedule=onecycle data=digits``.

Composes ``conf/``, builds what it names, finds a peak if asked to, fits, tests, and leaves
``result.json``.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    # The imports take seconds. Until `signals_taken`, Ctrl-C ends the program without a traceback,
    # and SIGUSR1, on which a SLURM job goes back into the queue, is kept for later.
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # not ignored, as with nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

import errno
import logging
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
import lightning
import lightning_utilities.core.rank_zero as rank_zero
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from experiments.build import (
    UsageError,
    build,
    check,
    connect,
    load,
    named,
    optimizer_of,
    peak_of_a_saved_curve,
)
from experiments.callbacks import ShowPlan
from experiments.checkpoint_io import AtomicCheckpointIO
from experiments.interrupt import Requeue, requeue, signals_taken
from experiments.launch import (
    check_processes,
    end_with_the_first_rank,
    join_ranks,
    plugins_of_the_cluster,
)
from experiments.lr_find import CURVE, SEARCH, draw_sweep, show_curve, show_search
from experiments.recipe import RECIPE, show_recipe, train_with
from experiments.resume import (
    AUTO,
    CHECKPOINT,
    RESULT,
    KeepOptions,
    OtherRun,
    alone_in,
    arguments_for_hydra,
    check_resume,
    options_of_this_run,
    settle_auto,
)
from experiments.task import Classifier
from lightning_onecycle import (
    Diverged,
    LRCurve,
    RunRecord,
    Schedule,
    ScheduleCallback,
    Search,
    Tuner,
    __version__,
    scale_lr,
    sweep,
)
from lightning_onecycle.range_test import Suggestion
from lightning_onecycle.report import Status, read_result, record_failure, write_result
from lightning_onecycle.report.record import STARTING, is_complete
from lightning_onecycle.sweep.job_files import is_over

log = logging.getLogger("train")
IGNORED = (
    ".*does not have many workers",
    "Checkpoint directory .* exists and is not empty",
    "The number of training batches .* is smaller than the logging",
    ".*isinstance.treespec, LeafSpec",
    "Encountered `nan` values in tensor",
    "The `srun` command is available on your system",
)


def share(cfg: DictConfig) -> None:
    """Read the data of a sweep's job, and import what each job needs, once for all jobs."""
    build(cfg, "data").read()
    import_module("matplotlib.backends.backend_agg")
    import_module("torch.utils.tensorboard")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
@sweep.job(share=share)
def main(cfg: DictConfig) -> float | None:
    """Run what the configuration says; return the validation accuracy."""
    end_with_the_first_rank()
    # What Lightning says of its own accord is left out; its warnings and what we say are not.
    rank_zero.log.addFilter(  # of either Lightning, whichever was imported first
        lambda record: record.levelno > logging.INFO or "lightning_onecycle" in record.pathname
    )
    for message in IGNORED:
        warnings.filterwarnings("ignore", message)
    directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        with signals_taken(), alone_in(directory):
            return run(cfg, directory)
    except OtherRun as error:
        log.error(f"train.py: {error}")
        sys.exit(1)
    except (UsageError, MisconfigurationException) as error:
        log.error(f"train.py: {error}")
        record_end(cfg, directory, str(error))
        sys.exit(1)
    except Diverged:
        say_how_it_ended(read_result(directory / RESULT), directory)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as error:
        # Ctrl-C and signals. Lightning leaves a fit with 1 on Ctrl-C, and a cluster's launcher that
        # puts the job back into the queue with a code of its own.
        record_end(cfg, directory, type(error).__name__, status="interrupted")
        say_how_it_ended(read_result(directory / RESULT), directory)
        if isinstance(error, Requeue):
            requeue()
        code = getattr(error, "code", None)
        sys.exit(130 if code in (None, 0, 1) else code)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if getattr(error, "errno", None) == errno.ENOSPC:
            log.error(f"train.py: the disk of {directory} is full, so that the run ends: {error}")
            with suppress(OSError):
                record_end(cfg, directory, reason)
            sys.exit(1)
        record_end(cfg, directory, reason)
        raise


def record_end(cfg: DictConfig, directory: Path, reason: str, status: Status = "failed") -> None:
    """Write how a run has ended that did not come to training, where it could say so itself.

    One that is resumed stays what it was, unless it is a sweep's job, which is to be told apart.
    """
    path = directory / RESULT
    if not cfg.resume or read_result(path).get("reason") == STARTING:
        record_failure(path, reason, status=status, overrides=options_of_this_run())


def run(cfg: DictConfig, directory: Path) -> float | None:
    """Build, fit and test what ``cfg`` describes; results go to ``directory``."""
    if cfg.resume == AUTO and settle_auto(cfg, directory):
        return say_it_is_over(directory)
    check(cfg)
    seed_everything(cfg.seed, workers=True, verbose=False)
    schedule = build(cfg, "schedule")
    name = HydraConfig.get().runtime.choices["schedule"]
    size = cfg.data.batch_size
    options = options_of_this_run()
    facts = {"schedule": name, "seed": cfg.seed, "batch_size": size, "overrides": options}
    record = RunRecord(directory / RESULT, **facts)
    scheduling = ScheduleCallback(schedule, budget=cfg.budget)
    callbacks = [
        *peak_of_a_saved_curve(cfg),
        scheduling,
        record,
        ShowPlan(directory, name, size),
        *(callback for callback in build(cfg, "callbacks").values() if callback is not None),
        *([KeepOptions(cfg, directory)] if cfg.resume else []),
    ]
    loggers = [logger for logger in build(cfg, "logger").values() if logger is not None]
    trainer = build(
        cfg,
        "trainer",
        callbacks=callbacks,
        logger=loggers,
        plugins=[AtomicCheckpointIO(), *plugins_of_the_cluster()],
        default_root_dir=directory,
    )
    check_processes(trainer)
    join_ranks(trainer)
    data = build(cfg, "data")
    load(data)
    optimizer = optimizer_of(cfg)
    task = Classifier(build(cfg, "model"), optimizer, cfg.data.num_classes, **cfg.task)
    if cfg.resume:
        check_resume(cfg, directory, task)
    connect(loggers)
    with failures_told_to(loggers):
        if cfg.lr_find.mode in ("search", "recipe"):
            search = search_peak(cfg, trainer, task, data, directory)
            record.facts["search_steps"] = search.steps
            scheduling.max_lr = peak_of(search.suggest(), cfg)
            if cfg.lr_find.mode == "recipe":
                scheduling.schedule = search.callback().schedule
                train_with(search, cfg)
                task.optimizer = optimizer_of(cfg)
                record.facts["weight_decay"] = cfg.optimizer.weight_decay
                record.facts["momentum"] = scheduling.schedule.momentum
        elif cfg.lr_find.mode != "off":
            found = find_peak(cfg, trainer, task, data, schedule, directory)
            if cfg.lr_find.mode == "only":
                record_range_test(facts, found, directory)
                finalize(loggers, "success")
                return found.lr
            scheduling.max_lr = peak_of(found, cfg)
    if cfg.lr_scaling.rule is not None:
        scheduling.max_lr = scaled_peak(cfg, trainer)
    was_over = is_over(read_result(directory / RESULT))
    try:
        trainer.fit(task, data, ckpt_path=directory / CHECKPOINT if cfg.resume else None)
        if was_over and not record.has_begun:
            rank_zero_only(log.info)("nothing is left to train: other options change nothing")
            return say_it_is_over(directory)
        trainer.test(task, data, verbose=False)
    finally:
        if record.has_begun:
            log_hyperparameters(loggers, cfg, record.result)
    if record.result["status"] == "diverged":  # its validation loss has
        raise Diverged(record.result["reason"])
    say_how_it_ended(record.result, directory)
    return record.result["metrics"].get("val/acc")


def say_it_is_over(directory: Path) -> float | None:
    """Say what has come of a run that is not run again; return what it returned."""
    result = read_result(directory / RESULT)
    rank_zero_only(log.info)(f"{result['status']} before, not run again")
    if result["status"] == "diverged":
        raise Diverged(result["reason"])
    say_how_it_ended(result, directory)
    return result["metrics"].get("val/acc")


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
        raise UsageError(named("lr_find", error)) from error
    show_curve(curve, found, trainer.loggers, directory)
    if (directory.parent / "multirun.yaml").is_file():
        draw_sweep(directory.parent)
    return found


def search_peak(
    cfg: DictConfig,
    trainer: Trainer,
    task: Classifier,
    data: LightningDataModule,
    directory: Path,
) -> Search:
    """Search, or go on with what there is of a search; leave its file and its pictures."""
    is_recipe = cfg.lr_find.mode == "recipe"
    path = directory / (RECIPE if is_recipe else SEARCH)
    names = ["cost", "min_lr", "max_lr", "early_stop_threshold", "val_batches"]
    names += ["weight_decays", "momenta"] if is_recipe else []
    found = OmegaConf.to_container(cfg.lr_find, resolve=True)
    options = {name: found[name] for name in names}
    if cfg.lr_find.num_training is not None:
        options["num_training"] = cfg.lr_find.num_training
    try:
        if cfg.resume and path.is_file():
            search = Search.load(path)
        else:
            search = Tuner(trainer).search(task, datamodule=data, file=path, **options)
    except ValueError as error:
        raise UsageError(named("lr_find", error)) from error
    if is_recipe:
        show_recipe(search, cfg, trainer.loggers, directory)
    else:
        show_search(search, trainer.loggers, directory)
    return search


def peak_of(found: Suggestion, cfg: DictConfig) -> float:
    """Return the peak that was found, or refuse to train without one."""
    if found.lr is None:
        raise UsageError(f"lr_find={cfg.lr_find.mode} found no peak to train at: {found.reason}")
    return found.lr


def scaled_peak(cfg: DictConfig, trainer: Trainer) -> float:
    """Return the peak for the effective batch size, from that for ``lr_scaling.batch_size``."""
    effective = cfg.data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
    lr, base, rule = cfg.optimizer.lr, cfg.lr_scaling.batch_size, cfg.lr_scaling.rule
    peak = scale_lr(lr, effective, base, rule)
    rank_zero_only(log.info)(
        f"{rule} scaling: peak {peak:.3g} for an effective batch size of {effective}, from"
        f" optimizer.lr={lr:g} for {base}"
    )
    return peak


@rank_zero_only
def record_range_test(facts: dict[str, Any], found: Suggestion, directory: Path) -> None:
    """Leave ``result.json`` of a run that is a range test alone."""
    result = {"status": "completed", "reason": None, "metrics": {"lr_find/max_lr": found.lr}}
    write_result(directory / RESULT, facts | result)


def finalize(loggers: Sequence[Logger], status: str) -> None:
    """Tell the loggers that the run is over, as a fit does at its end."""
    for logger in loggers:
        logger.finalize(status)


@contextmanager
def failures_told_to(loggers: Sequence[Logger]) -> Iterator[None]:
    """Tell the loggers of a run that ends before its fit, which tells them itself."""
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
        log.info(f"go on: {'the same command again' if is_auto else again}")
    log.info(f"results: {directory / RESULT}")
    if any((start / directory).glob("events.out.tfevents.*")):
        log.info(f"look: tensorboard --logdir {shlex.quote(str(directory))}")


if __name__ == "__main__":
    if "--version" in sys.argv:
        parts = {"torch": torch, "lightning": lightning, "hydra": hydra}
        versions = ", ".join(f"{name} {part.__version__}" for name, part in parts.items())
        print(f"lightning-onecycle {__version__} ({versions})")
        sys.exit()
    logging.raiseExceptions = False  # no traceback for each line that a full disk has no room for
    sys.argv[1:] = arguments_for_hydra(sys.argv[1:])
    main()
