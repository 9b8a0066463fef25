"""The trainings of `noise`: 1cycle with three batch sizes, and copies that drift apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from statistics import fmean
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments.build import build
from experiments.figures.claims import where
from experiments.figures.runs import RESULTS, configuration, jobs, train
from experiments.figures.style import BLUE, GREEN, ORANGE
from experiments.rows import Row, add, read
from lightning_onecycle import GradientNoiseScale
from lightning_onecycle.measure import noise_factor, simple_noise_scale

EXPERIMENT = "noise"
CYCLE = RESULTS / "noise_cycle.csv"
DRIFT = RESULTS / "noise_drift.csv"
BATCHES = {32: BLUE, 128: ORANGE, 512: GREEN}
SEEDS = (0, 1, 2)
COLUMNS = ("grad_variance", "grad_sq", "noise_factor", "noise_factor_momentum", "sgd_noise")

# Of the copies that drift apart.
WARM_UP, WARM_UP_LR, WARM_UP_BATCH = 300, 0.05, 128  # steps from the initial weights
COPIES = 12
TIME = 4.0  # steps x lr / (1 - momentum)
HYPER = ((0.02, 0.0), (0.04, 0.0), (0.004, 0.8), (0.008, 0.8))  # lr, momentum
PARTS = tuple((i / 10, (i + 1) / 10) for i in range(10))  # of the run, for averages
DRAWN = 100  # batches for the variance of a single step


class Noise(Callback):
    """Keep what `GradientNoiseScale` finds, with the learning rate; list it behind that.

    The scale itself is left out: a ratio of averages that are taken later (`noise_scale`).
    """

    def __init__(self, measurement: GradientNoiseScale) -> None:
        self.measurement = measurement
        self.rows: list[Row] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Take what was measured before this step."""
        if trainer.global_step % self.measurement.every_n_steps == 0:
            group = trainer.optimizers[0].param_groups[0]
            values = {"lr": group["lr"], "momentum": group["momentum"]}
            values |= {name: self.measurement.latest[f"measure/{name}"] for name in COLUMNS}
            rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
            self.rows.append({"step": trainer.global_step, **rounded})


def noise_scale(rows: Sequence[Row]) -> float:
    """Return tr(covariance) over the squared gradient, both averaged; infinite below the noise.

    Example:
        >>> noise_scale([{"grad_variance": 3, "grad_sq": -1}, {"grad_variance": 5, "grad_sq": 3}])
        4.0
    """
    trace, square = (fmean(row[name] for row in rows) for name in ("grad_variance", "grad_sq"))
    return trace / square if square > 0 else math.inf


def run_cycles() -> None:
    """Train 1cycle with each batch size, as far as it is not there yet."""
    for job in jobs(EXPERIMENT):
        cfg = configuration(f"experiment={EXPERIMENT}", *job, "trainer.enable_progress_bar=false")
        key = {"batch": cfg.data.batch_size, "seed": cfg.seed}
        if where(read(CYCLE), **key):
            continue
        measurement = build(cfg.callbacks, "noise_scale")
        noise = Noise(measurement)
        _, diverged, seconds, tested = train(cfg, measurement, noise)
        accuracy = math.nan if diverged else tested["test/acc"]
        add(CYCLE, (key | row | {"test/acc": accuracy} for row in noise.rows))
        print(*key.values(), f"{seconds} s", noise.rows[-1], accuracy, flush=True)


# ---- copies that drift apart --------------------------------------------------------------------


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Return all values as one vector."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def total_variance(vectors: Sequence[Tensor]) -> float:
    """Return the trace of the covariance of vectors, unbiased.

    Example:
        >>> total_variance([torch.tensor([0.0, 1.0]), torch.tensor([2.0, 1.0])])
        2.0
    """
    return torch.stack(list(vectors)).var(dim=0).sum().item()


def gradient(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the mean loss, as one vector."""
    loss = cross_entropy(net(images), labels)
    return flat(torch.autograd.grad(loss, list(net.parameters())))


def drift(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    lr: float,
    momentum: float,
    batch: int,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Return the weights of a copy after some steps on images that ``generator`` draws."""
    net = deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)
    for _ in range(steps):
        drawn = torch.randint(len(images), (batch,), generator=generator)
        optimizer.zero_grad()
        cross_entropy(net(images[drawn]), labels[drawn]).backward()
        optimizer.step()
    return flat(list(net.parameters()))


def start(seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a net that was trained for some steps, and all its training images and labels."""
    cfg = configuration(f"experiment={EXPERIMENT}", "data.augment=null", f"seed={seed}")
    seed_everything(seed, workers=True, verbose=False)
    data, net = build(cfg, "data"), build(cfg, "model")
    data.setup("fit")
    everything = (data.train.images, data.train.labels)
    batch = tuple(part[data.train.indices] for part in everything)
    images, labels = data.on_after_batch_transfer(batch, 0)
    generator = torch.Generator().manual_seed(seed)
    weights = drift(net, images, labels, WARM_UP_LR, 0.9, WARM_UP_BATCH, WARM_UP, generator)
    nn.utils.vector_to_parameters(weights, net.parameters())
    return net, images, labels


def steps_for(lr: float, momentum: float) -> int:
    """Return the steps that take `TIME`.

    Example:
        >>> steps_for(0.02, 0.0), steps_for(0.004, 0.8)
        (200, 200)
    """
    return round(TIME * (1 - momentum) / lr)


def run_drift() -> None:
    """Let the copies drift, as far as that is not there yet."""
    for seed in SEEDS:
        wanted = [
            (lr, momentum, batch)
            for lr, momentum in HYPER
            for batch in BATCHES
            if not where(read(DRIFT), seed=seed, lr=lr, momentum=momentum, batch=batch)
        ]
        if not wanted:
            continue
        net, images, labels = start(seed)
        trace = simple_noise_scale(*_two_norms(net, images, labels, seed)).trace
        for lr, momentum, batch in wanted:
            steps = steps_for(lr, momentum)
            generators = [
                torch.Generator().manual_seed(1000 * (seed + 1) + copy) for copy in range(COPIES)
            ]
            ends = [
                drift(net, images, labels, lr, momentum, batch, steps, generator)
                for generator in generators
            ]
            drawn = (
                torch.randint(len(images), (batch,), generator=generators[0]) for _ in range(DRAWN)
            )
            gradients = [gradient(net, images[i], labels[i]) for i in drawn]
            row = {"seed": seed, "lr": lr, "momentum": momentum, "batch": batch, "steps": steps}
            values = {
                "noise_factor": noise_factor(lr, batch, momentum),
                "trace": trace,
                "step_variance": lr**2 * total_variance(gradients),
                "weight_variance": total_variance(ends),
            }
            row |= {name: float(f"{value:.6g}") for name, value in values.items()}
            add(DRIFT, [row])
            print(*row.values(), flush=True)


def _two_norms(
    net: nn.Module, images: Tensor, labels: Tensor, seed: int, small: int = 50
) -> tuple[float, float, int, int]:
    """Return the squared norms that `simple_noise_scale` takes: of parts, and of all images."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    parts = [gradient(net, images[i], labels[i]) for i in order.split(small)]
    mean = torch.stack(parts).mean(0)
    squares = torch.stack([part.dot(part) for part in parts])
    return squares.mean().item(), mean.dot(mean).item(), small, len(images)
