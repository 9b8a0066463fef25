"""Train a network with a schedule: ``python train.py schedule=onecycle data=digits``.

Composes ``conf/``, builds what it names, finds a peak if asked to, fits, tests, and leaves
``result.json``.
"""

from __future__ import annotations

import gc
import signal

if __name__ == "__main__":
    gc.disable()  # almost half of the imports' time is the collector's, which finds nothing
    # The imports take seconds. Until `signals_taken`, Ctrl-C ends the program without a traceback,
    # and SIGUSR1, on which a SLURM job goes back into the queue, is kept for later.
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # not ignored, as with nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

import errno
import logging
import sys
import threading
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import hydra
import lightning
import lightning_utilities.core.rank_zero as rank_zero
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from experiments.build import (
    UsageError,
    build,
    check,
    connect,
    load,
    optimizer_of,
)
from experiments.callbacks import ShowPlan
from experiments.checkpoint_io import AtomicCheckpointIO
from experiments.ending import (
    failures_told_to,
    finalize,
    log_hyperparameters,
    record_range_test,
    say_how_it_ended,
)
from experiments.interrupt import Requeue, requeue, signals_taken
from experiments.launch import (
    check_processes,
    end_with_the_first_rank,
    join_ranks,
    plugins_of_the_cluster,
)
from experiments.peak import (
    find_peak,
    peak_of,
    peak_of_a_saved_curve,
    scaled_peak,
    search_peak,
)
from experiments.recipe import train_with
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
    RunRecord,
    ScheduleCallback,
    __version__,
    sweep,
)
from lightning_onecycle.report import Status, read_result, record_failure
from lightning_onecycle.report.record import STARTING
from lightning_onecycle.sweep.job_files import is_over
from lightning_onecycle.sweep.ranks import is_first

log = logging.getLogger("train")
IGNORED = (
    ".*does not have many workers",
    "Checkpoint directory .* exists and is not empty",
    "The number of training batches .* is smaller than the logging",
    ".*isinstance.treespec, LeafSpec",
    "Encountered `nan` values in tensor",
    "The `srun` command is available on your system",
)


def end_of_a_thread(ended: threading.ExceptHookArgs) -> None:
    """Print why a thread has ended, but where it found the disk full, as the run will say itself.

    TensorBoard writes in a thread, and raises its error again in the run.
    """
    if getattr(ended.exc_value, "errno", None) != errno.ENOSPC:
        threading.__excepthook__(ended)


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
    threading.excepthook = end_of_a_thread
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
        if is_first():  # only that holds the directory, which may be another run's
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
            log.error(f"train.py: the disk of {directory} is full, so the run ends: {error}")
            with suppress(OSError):
                record_end(cfg, directory, reason)
            sys.exit(1)
        record_end(cfg, directory, reason)
        raise


def record_end(cfg: DictConfig, directory: Path, reason: str, status: Status = "failed") -> None:
    """Write how a run has ended that did not begin to train.

    The record of a resumed run stays as it is, unless the run is a job of a sweep.
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
        ShowPlan(directory, name, size),  # before the clock of the record starts
        record,
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
                if search.momentum is not None:  # a resumed run may have another schedule
                    scheduling.schedule = schedule.with_momentum(*search.momentum)
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
            rank_zero_only(log.info)(
                "nothing is left to train: give a larger trainer.max_epochs to go on"
            )
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
    """Print the result of a run that is not run again; return its metric."""
    result = read_result(directory / RESULT)
    rank_zero_only(log.info)(f"{result['status']} before, not run again")
    if result["status"] == "diverged":
        raise Diverged(result["reason"])
    say_how_it_ended(result, directory)
    return result["metrics"].get("val/acc")


if __name__ == "__main__":
    gc.enable()
    gc.freeze()  # what is imported stays
    if "--version" in sys.argv:
        parts = {"torch": torch, "lightning": lightning, "hydra": hydra}
        versions = ", ".join(f"{name} {part.__version__}" for name, part in parts.items())
        print(f"lightning-onecycle {__version__} ({versions})")
        sys.exit()
    logging.raiseExceptions = False  # no traceback for each line that a full disk has no room for
    sys.argv[1:] = arguments_for_hydra(sys.argv[1:])
    main()
