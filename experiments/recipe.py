"""What ``train.py lr_find=recipe`` writes of a recipe: keys, a table, a picture, a command."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from experiments.build import UsageError, build
from experiments.resume import options_of_this_run
from lightning_onecycle import Search
from lightning_onecycle._figures import log_figure
from lightning_onecycle._files import write_whole
from lightning_onecycle.search.files import load_curve_or_search

log = logging.getLogger(__name__)
RECIPE = "recipe.json"


def winner(search: Search, cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration's keys with the values that a recipe has found.

    The schedule's keys are left out where they do not make its momentum: not every schedule has
    one.
    """
    keys: dict[str, Any] = {"optimizer.lr": search.suggestion()}
    if search.weight_decay is not None:
        keys["optimizer.weight_decay"] = search.weight_decay
    if search.momentum is not None and "max_momentum" in cfg.schedule:
        ends, peak = search.momentum
        momentum = {"cycle_momentum": True, "base_momentum": peak, "max_momentum": ends}
        changed = OmegaConf.merge(cfg, {"schedule": momentum})
        if build(changed, "schedule") == build(cfg, "schedule").with_momentum(ends, peak):
            keys |= {f"schedule.{name}": value for name, value in momentum.items()}
    return keys


def refuse_other_settings(path: str, cfg: DictConfig) -> None:
    """Refuse a saved recipe's peak without the weight decay and the momentum of its winner.

    Raises:
        UsageError: With the options to give.
        OSError: If the file cannot be read.
        ValueError: If it holds neither a curve nor a search.
    """
    found = load_curve_or_search(path)
    if not isinstance(found, Search) or found.recipe is None:
        return
    keys = {key: value for key, value in winner(found, cfg).items() if key != "optimizer.lr"}
    if any(OmegaConf.select(cfg, key) != value for key, value in keys.items()):
        raise UsageError(
            f"lr_find.curve: {path} is a recipe, whose peak is for other settings than these: give"
            f" also {' '.join(f'{key}={_text(value)}' for key, value in keys.items())}"
        )


def train_with(search: Search, cfg: DictConfig) -> None:
    """Write what a recipe has found into the configuration."""
    for key, value in winner(search, cfg).items():
        OmegaConf.update(cfg, key, value)


@rank_zero_only
def show_recipe(
    search: Search, cfg: DictConfig, loggers: Sequence[Logger], directory: Path
) -> None:
    """Leave table and picture, show both in the loggers, and print the command of the training."""
    keys = {key: value for key, value in winner(search, cfg).items() if value is not None}
    text = search.report()
    if "optimizer.lr" in keys:
        text += f"\n```bash\n{_command(keys)}\n```\n"
    write_whole(directory / "recipe.md", text)
    figure = search.plot()
    figure.savefig(directory / "recipe.png")
    log_figure(loggers, "recipe", figure)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("recipe", text)
    log.info(search)
    log.info(f"look: {directory / 'recipe.md'}, {directory / 'recipe.png'}")
    if "optimizer.lr" in keys:
        log.info(f"the same without the recipe: {_command(keys)}")
    if search.momentum is not None and "schedule.max_momentum" not in keys:
        log.info("no key of this schedule has the momentum that was found; this run trains with it")


def _command(keys: dict[str, Any]) -> str:
    """Return the command of this run, with what was found in place of the recipe."""
    kept = [
        option
        for option in options_of_this_run()
        if (name := option.lstrip("+~").partition("=")[0]) not in keys
        and name.partition(".")[0] != "lr_find"
    ]
    found = [f"{key}={_text(value, digits=4)}" for key, value in keys.items()]
    return " ".join(["python train.py", *map(shlex.quote, [*kept, *found])])


def _text(value: bool | float, digits: int = 12) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.{digits}g}"
