"""Log a figure with each logger that can show a picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lightning.fabric.utilities import rank_zero_warn
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lightning_onecycle._lightning import of_either_lightning

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

_TENSORBOARD: tuple[type[Any], ...] = of_either_lightning(TensorBoardLogger)
_WANDB: tuple[type[Any], ...] = of_either_lightning(WandbLogger)
_MLFLOW: tuple[type[Any], ...] = of_either_lightning(MLFlowLogger)


def shows_figures(logger: Logger) -> bool:
    """Return whether a logger can show a picture."""
    return isinstance(logger, (*_TENSORBOARD, *_WANDB, *_MLFLOW))


def log_figure(
    loggers: Iterable[Logger], name: str, figure: Figure | SubFigure, step: int = 0
) -> None:
    """Log a figure: an image of TensorBoard and W&B, an artifact ``<name>.png`` of MLflow.

    A picture that a logger cannot store is a warning. It does not end the run.

    Args:
        loggers: Those that show no pictures are left out.
        name: The image's tag.
        figure: The same for all loggers.
        step: Where the image is on the logger's axis.
    """
    for logger in loggers:
        _log_to(logger, name, figure, step)


def _log_to(logger: Any, name: str, figure: Figure | SubFigure, step: int) -> None:
    try:
        if isinstance(logger, _TENSORBOARD):
            logger.experiment.add_figure(name, figure, step)
        elif isinstance(logger, _WANDB):
            logger.log_image(name, [figure], step)
        elif isinstance(logger, _MLFLOW):
            logger.experiment.log_figure(logger.run_id, figure, f"{name}.png")
    except Exception as error:  # of whatever a logger keeps its pictures with
        rank_zero_warn(
            f"{type(logger).__name__} could not log the figure {name!r}:"
            f" {type(error).__name__}: {error}"
        )
