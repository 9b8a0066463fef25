"""What is trained: eight problems of many kinds, each at three budgets a factor of 4 apart.

The data come with Python, scikit-learn and statsmodels, Fashion-MNIST with Debian. A task that is
changed needs a new name, for results go by the name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from experiments.benchmarks.kinds import nets, problems
from experiments.benchmarks.kinds.data import fashion
from experiments.benchmarks.kinds.problems import Problem, characters, classify, forecast
from experiments.models import ResNet

BUDGETS = (1, 4, 16)
"""Lengths of a training, in those of the shortest."""


class Task(NamedTuple):
    """A problem and how it is trained.

    Attributes:
        name: What it is called in the results.
        make: Returns the problem. The seed of torch decides about the initial weights.
        optimizer: ``"sgd"`` (Nesterov, momentum .9) or ``"adamw"``.
        steps: Optimizer steps of the shortest training.
        batch_size: Examples in a batch.
        weight_decay: Of all parameters.
        half: Which of two halves it is in: candidates are chosen on one and judged on the other.
        in_errors: Whether what counts is the part of wrong answers in per cent; else the loss.
    """

    name: str
    make: Callable[[], Problem]
    optimizer: str
    steps: int
    batch_size: int
    weight_decay: float
    half: int
    in_errors: bool = False

    def trivial(self, problem: Problem) -> float:
        """Return what a predictor has that does not look at its input; of ten classes, errors."""
        return 90.0 if self.in_errors else problem.trivial


def small_clothes(num_train: int) -> tuple[Tensor, ...]:
    """Return clothes of 14 by 14 pixels."""
    x, y, x_val, y_val = fashion(num_train, 3000)
    return F.avg_pool2d(x, 2), y, F.avg_pool2d(x_val, 2), y_val


def clothes_by_resnet() -> Problem:
    """Tell clothes apart by four residual convolutions with batch norm."""
    return classify(partial(ResNet, (1, 14, 14), 10, (1, 1), 8, 2), small_clothes(2000))


def clothes_by_perceptron() -> Problem:
    """Tell clothes apart by a perceptron."""
    return classify(partial(nets.mlp, 196, 128, 10), small_clothes(4000))


one_layer = partial(nets.Transformer, layers=1)
TASKS = (
    Task("fashion-resnet-sgd", clothes_by_resnet, "sgd", 50, 32, 5e-4, 0, in_errors=True),
    Task("fashion-mlp-adamw", clothes_by_perceptron, "adamw", 60, 64, 0.01, 1, in_errors=True),
    Task("help-transformer-adamw", partial(characters, one_layer), "adamw", 40, 16, 0.1, 0),
    Task("co2-conv-sgd", partial(forecast, nets.forecaster, "co2", 52), "sgd", 75, 32, 1e-4, 1),
    Task("diabetes-mlp-adamw", problems.diabetes, "adamw", 75, 32, 0.01, 0),
    Task("fashion-autoencoder-adamw", problems.autoencoder, "adamw", 40, 64, 0.01, 1),
    Task("digits-finetuning-sgd", problems.fine_tuned, "sgd", 40, 32, 1e-4, 0),
    Task("visits-quantiles-adamw", problems.visit_quantiles, "adamw", 100, 64, 0.01, 1),
)
