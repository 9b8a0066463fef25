"""The peak that a run trains at: of a range test, a search, a saved curve or a scaling rule."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from experiments.build import UsageError, named
from experiments.lr_find import CURVE, SEARCH, draw_sweep, show_curve, show_search
from experiments.recipe import RECIPE, refuse_other_settings, show_recipe
from experiments.task import Classifier
from lightning_onecycle import LRCurve, LRFinder, Schedule, Search, Tuner, scale_lr
from lightning_onecycle.range_test import Suggestion

log = logging.getLogger(__name__)


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


def peak_of_a_saved_curve(cfg: DictConfig) -> list[LRFinder]:
    """Return the callback that takes the peak from ``lr_find.curve`` and compares conditions."""
    if cfg.lr_find.curve is None:
        return []
    try:
        refuse_other_settings(cfg.lr_find.curve, cfg)
        return [
            LRFinder(
                cfg.lr_find.curve,
                method=cfg.lr_find.method,
                allow_differences=cfg.lr_find.allow_differences,
            )
        ]
    except UsageError:
        raise
    except (ValueError, OSError) as error:
        raise UsageError(f"lr_find.curve: {error}") from error
