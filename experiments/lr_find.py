"""What ``train.py`` writes of a range test or a search: a file, a picture, logs, a line."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from lightning_onecycle import LRCurve, Search
from lightning_onecycle._figures import log_figure
from lightning_onecycle.range_test import Suggestion
from lightning_onecycle.range_test.plot import plot_lr_curves

log = logging.getLogger(__name__)
CURVE, SEARCH = "lr_find.json", "search.json"


@rank_zero_only
def show_curve(
    curve: LRCurve, found: Suggestion, loggers: Sequence[Logger], directory: Path
) -> None:
    """Save the curve beside its picture, show both in the loggers, and print the suggestion."""
    curve.save(directory / CURVE)
    figure = curve.plot(suggest=True)
    figure.savefig(directory / "lr_find.png")
    _log(loggers, "lr_find/loss", zip(curve.lrs, curve.losses, strict=True), "lr_find/lr")
    log_figure(loggers, "lr_find", figure)
    log.info(f"LR range test, {len(curve.lrs)} steps: {curve.stopped}")
    if found.lr is None:
        log.info(f"no suggestion: {found.reason}")
    else:
        log.info(f"suggested peak: optimizer.lr={found.lr:.3g} ({found.reason})")
    log.info(f"look: {directory / 'lr_find.png'}")


@rank_zero_only
def show_search(search: Search, loggers: Sequence[Logger], directory: Path) -> None:
    """Leave the search's picture, show it in the loggers, and print what it suggests."""
    figure = search.plot()
    figure.savefig(directory / "lr_find.png")
    curve = search.curve
    complete = sorted((probe.lr, probe.loss) for probe in search.probes if probe.is_complete)
    _log(loggers, "lr_find/loss", zip(curve.lrs, curve.losses, strict=True), "lr_find/lr")
    _log(loggers, "lr_find/short_training", complete, "lr_find/short_training_lr")
    log_figure(loggers, "lr_find", figure)
    log.info(search)
    lr, reason = search.suggest()
    if lr is not None:
        log.info(f"suggested peak: optimizer.lr={lr:.3g} ({reason})")
    log.info(f"look: {directory / 'lr_find.png'}")


def _log(
    loggers: Sequence[Logger], name: str, points: Iterable[tuple[float, float]], of_lr: str
) -> None:
    """Log losses and the learning rates they are for, one after the other."""
    for index, (lr, loss) in enumerate(points):
        for logger in loggers:
            logger.log_metrics({name: loss, of_lr: lr}, index)
    for logger in loggers:
        logger.save()


@rank_zero_only
def draw_sweep(folder: Path) -> None:
    """Draw the curves of all jobs of a sweep in one picture, each named by what is its own.

    With ``-m optimizer.weight_decay=...`` that is the figure from which Smith chooses the weight
    decay: arXiv:1803.09820, section 4.4.
    """
    paths = sorted(folder.glob(f"*/{CURVE}"), key=lambda path: path.stat().st_mtime)
    read = [(path, _curve_and_options(path)) for path in paths]
    curves = {path: found[0] for path, found in read if found is not None}
    options = {path: found[1] for path, found in read if found is not None}
    if len(options) < 2:
        return
    common = set.intersection(*(set(of_job) for of_job in options.values()))
    labelled = {
        ", ".join(option for option in of_job if option not in common): curves[path]
        for path, of_job in options.items()
    }
    axes = plot_lr_curves(labelled)
    axes.figure.savefig(folder / "lr_find.png")
    log.info(f"all {len(options)} so far: {folder / 'lr_find.png'}")


def _curve_and_options(path: Path) -> tuple[LRCurve, list[str]] | None:
    try:
        return LRCurve.load(path), list(OmegaConf.load(path.parent / ".hydra" / "overrides.yaml"))
    except (OSError, ValueError) as error:
        log.info(f"left out of the picture of all: {path}: {error}")
        return None
