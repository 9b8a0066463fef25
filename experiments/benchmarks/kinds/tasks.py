"""Short trainings of many kinds: a problem of `problems`, an optimizer and a number of steps.

A task that is changed needs a new name, for results go by the name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from experiments.benchmarks.kinds import fresh, further, nets, problems
from experiments.benchmarks.kinds.problems import Problem, characters, forecast


@dataclass(frozen=True)
class Task:
    """A short training.

    Attributes:
        name: What it is called in the results.
        make: Returns the problem. The seed of torch decides about the initial weights.
        optimizer: A key of `OPTIMIZERS`.
        steps: Optimizer steps of the training.
        batch_size: Examples in a batch.
        weight_decay: Of all parameters.
        tuned: Whether rules were designed on it; the other tasks were kept apart.
    """

    name: str
    make: Callable[[], Problem]
    optimizer: str
    steps: int
    batch_size: int
    weight_decay: float = 0.0
    tuned: bool = True

    def longer(self, times: int) -> Task:
        """Return the same task with more steps."""
        return replace(self, name=f"{self.name}-x{times}", steps=times * self.steps)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "muon": getattr(torch.optim, "Muon", None),  # from torch 2.9 on
}


one_layer = partial(characters, partial(nets.Transformer, layers=1), "code", 48)
gru = partial(characters, nets.CharGRU, "code")
# The spread of kinds is the point: no two tasks share net, loss, data and optimizer.
_SUNSPOTS = Task("sunspots-gru-adam", partial(forecast, nets.GRU, "sunspots", 22), "adam", 280, 32)
TASKS = (
    Task("help-transformer-adamw", partial(characters, nets.Transformer), "adamw", 250, 16, 0.1),
    Task("help-transformer-sgd", partial(characters, nets.Transformer), "sgd", 250, 16, 1e-4),
    Task("help-lstm-adam", partial(characters, nets.LSTM), "adam", 300, 16),
    Task("help-conv-rmsprop", partial(characters, nets.CausalConv), "rmsprop", 400, 16),
    Task("fashion-vit-adamw", problems.fashion_vit, "adamw", 220, 64, 0.05),
    Task("digits-finetuning-sgd", problems.fine_tuned, "sgd", 200, 32, 1e-4),
    Task("diabetes-mlp-adamw", problems.diabetes, "adamw", 300, 32, 0.01),
    _SUNSPOTS,
    _SUNSPOTS.longer(3),
    _SUNSPOTS.longer(10),
    Task("co2-conv-sgd", partial(forecast, nets.forecaster, "co2", 52), "sgd", 400, 32, 1e-4),
    Task("elnino-density-adam", problems.forecast_density, "adam", 400, 32),
    Task("fashion-autoencoder-adamw", problems.autoencoder, "adamw", 300, 64, 0.01),
    Task("digits-vae-adam", problems.variational, "adam", 1200, 64),
    Task("fashion-factors-adam", problems.factors, "adam", 500, 256),
    Task("digits-views-adamw", problems.views, "adamw", 240, 64, 0.01),
    Task("cancer-mlp-nadam", problems.cancer, "nadam", 200, 32),
    Task("digits-mlp-muon", problems.digits_muon, "muon", 300, 64),
    Task("code-transformer-nadam", one_layer, "nadam", 250, 16),
    Task("code-finetuning-adamw", problems.fine_tuned_text, "adamw", 250, 16, 0.01),
    Task("visits-poisson-adamw", problems.visits, "adamw", 500, 64, 0.01),
    Task("fashion-denoising-adam", problems.denoising, "adam", 250, 16),
    Task("digits-triplets-sgd", problems.triplets, "sgd", 300, 64, 1e-4),
    Task("digits-points-adam", problems.points, "adam", 300, 64),
    Task("sunspots-quantiles-rmsprop", problems.quantiles, "rmsprop", 300, 32),
    Task("text-bag-adagrad", problems.origins, "adagrad", 300, 64),
    Task("code-gru-adamw", gru, "adamw", 300, 16, 0.01),
    Task("fashion-mixer-adam", problems.mixer, "adam", 250, 64),
    Task("fashion-inpainting-sgd", problems.inpainting, "sgd", 400, 64, 1e-4),
    Task("digits-rows-rmsprop", problems.rows, "rmsprop", 300, 64),
    Task("help-masked-nadam", problems.masked, "nadam", 800, 16),
    Task("fashion-views-adamw", problems.clothes_views, "adamw", 250, 64, 0.01),
    Task("digits-margin-sgd", problems.margin, "sgd", 300, 64, 5e-4),
    Task("visits-quantiles-adam", problems.visit_quantiles, "adam", 500, 64),
    Task("wine-mlp-sgd", further.wine, "sgd", 200, 16, 1e-3),
    Task("voters-mlp-adamw", further.voters, "adamw", 300, 32, 0.01),
    Task("code-tags-adamw", further.tags, "adamw", 250, 16, 0.01),
    Task("help-neighbours-adam", further.neighbours, "adam", 600, 256),
    Task("fashion-masks-nadam", further.masks, "nadam", 250, 32),
    Task("fashion-angles-sgd", further.angles, "sgd", 300, 64, 5e-4),
    Task("digits-diffusion-adamw", further.diffusion, "adamw", 1000, 64, 0.01),
    Task("digits-flow-rmsprop", further.flow, "rmsprop", 300, 64),
    # Kept apart: all rules were chosen before.
    Task("modules-textcnn-adamw", fresh.modules, "adamw", 300, 32, 0.01, tuned=False),
    Task("words-seq2seq-adam", fresh.backwards, "adam", 400, 64, tuned=False),
    Task("sentences-gated-sgd", fresh.sentences, "sgd", 400, 32, tuned=False),
    Task("trees-graph-rmsprop", fresh.trees, "rmsprop", 400, 32, tuned=False),
    Task("fashion-distillation-sgd", fresh.distillation, "sgd", 300, 64, 5e-4, tuned=False),
    Task("fashion-rotations-adamw", fresh.rotations, "adamw", 250, 32, 0.01, tuned=False),
    Task("photo-field-radam", fresh.photo, "radam", 500, 256, tuned=False),
    Task("series-mixture-adamw", fresh.mixtures, "adamw", 300, 64, 0.01, tuned=False),
)  # fmt: skip
