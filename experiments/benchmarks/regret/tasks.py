"""The 35 tasks: short trainings of image nets, and how one of them is trained."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.optim import SGD, AdamW

from experiments.benchmarks.trainers import EndAtNaN, quiet_trainer
from experiments.data import Digits, FashionMNIST
from experiments.data.base import InMemoryDataModule
from experiments.models import MLP, LeNet, ResNet
from experiments.task import Classifier
from lightning_onecycle import BatchNormRecalibration, OneCycle

SEEDS = (0, 1, 2)
CHANCE = 0.1


@dataclass(frozen=True)
class Task:
    """A short training. A task that is changed needs a new name, for results go by the name.

    Attributes:
        name: What it is called in the results.
        tuned: Whether rules were designed on it; the other tasks were kept apart.
        data: ``"digits"`` or ``"fashion"``.
        net: A key of `NETS`.
        optimizer: ``"sgd"`` (Nesterov) or ``"adamw"``.
        weight_decay: Of all parameters.
        batch_size: Images in a batch.
        epochs: Length of the training.
        train_size: Images to train on; None: all.
    """

    name: str
    tuned: bool
    data: str
    net: str
    optimizer: str
    weight_decay: float
    batch_size: int
    epochs: int
    train_size: int | None = None


# The rule was chosen on the tuned tasks. The last seven were trained after it, and are kept apart.
TASKS = (
    Task("digits-mlp_bn-sgd", True, "digits", "mlp_bn", "sgd", 1e-4, 64, 30),
    Task("digits-mlp-adamw", True, "digits", "mlp", "adamw", 0.1, 64, 30),
    Task("fashion-mlp-sgd", True, "fashion", "mlp", "sgd", 5e-4, 128, 10, 4000),
    Task("fashion-mlp_bn-sgd-256", True, "fashion", "mlp_bn", "sgd", 1e-3, 256, 12, 5000),
    Task("fashion-lenet-sgd", True, "fashion", "lenet", "sgd", 5e-4, 64, 5, 3000),
    Task("fashion-lenet-sgd-256", True, "fashion", "lenet", "sgd", 0.0, 256, 10, 3000),
    Task("fashion-resnet-sgd", True, "fashion", "resnet", "sgd", 1e-3, 128, 6, 4000),
    Task("fashion-resnet-sgd-32", True, "fashion", "resnet", "sgd", 1e-4, 32, 3, 3000),
    Task("fashion-mlp_bn-adamw", True, "fashion", "mlp_bn", "adamw", 0.01, 128, 10, 4000),
    Task("fashion-resnet-adamw", True, "fashion", "resnet", "adamw", 0.05, 64, 5, 3000),
    Task("fashion-lenet-adamw", True, "fashion", "lenet", "adamw", 0.01, 32, 3, 3000),
    Task("digits-mlp-sgd-32", True, "digits", "mlp", "sgd", 0.0, 32, 20),
    Task("fashion-mlp-adamw-256", True, "fashion", "mlp", "adamw", 0.1, 256, 15, 5000),
    Task("digits-mlp_bn-sgd-256", True, "digits", "mlp_bn", "sgd", 1e-3, 256, 60),
    Task("digits-mlp_bn-adamw-32", True, "digits", "mlp_bn", "adamw", 0.01, 32, 20),
    Task("fashion-mlp-sgd-32", True, "fashion", "mlp", "sgd", 1e-4, 32, 5, 2000),
    Task("fashion-mlp_bn-sgd-64", True, "fashion", "mlp_bn", "sgd", 5e-3, 64, 8, 2000),
    Task("fashion-lenet-sgd-32", True, "fashion", "lenet", "sgd", 1e-3, 32, 3, 2000),
    Task("fashion-mlp-adamw-64", True, "fashion", "mlp", "adamw", 0.01, 64, 6, 3000),
    Task("fashion-resnet-sgd-64", True, "fashion", "resnet", "sgd", 5e-4, 64, 5, 2000),
    Task("fashion-resnet-adamw-32", True, "fashion", "resnet", "adamw", 0.01, 32, 3, 2000),
    Task("digits-mlp-sgd-128", True, "digits", "mlp", "sgd", 5e-4, 128, 30),
    Task("digits-mlp_bn-adamw", True, "digits", "mlp_bn", "adamw", 0.05, 64, 15),
    Task("fashion-mlp-sgd-256", True, "fashion", "mlp", "sgd", 1e-3, 256, 15, 4000),
    Task("fashion-mlp_bn-adamw-64", True, "fashion", "mlp_bn", "adamw", 0.05, 64, 6, 3000),
    Task("fashion-lenet-adamw-128", True, "fashion", "lenet", "adamw", 0.1, 128, 8, 4000),
    Task("fashion-lenet-sgd-128", True, "fashion", "lenet", "sgd", 1e-4, 128, 6, 3000),
    Task("fashion-resnet-sgd-256", True, "fashion", "resnet", "sgd", 5e-4, 256, 10, 4000),
    Task("digits-mlp-adamw-128", False, "digits", "mlp", "adamw", 0.01, 128, 40),
    Task("digits-mlp_bn-sgd-32", False, "digits", "mlp_bn", "sgd", 5e-4, 32, 15),
    Task("fashion-mlp-sgd-64", False, "fashion", "mlp", "sgd", 5e-4, 64, 6, 3000),
    Task("fashion-mlp_bn-sgd-128", False, "fashion", "mlp_bn", "sgd", 1e-4, 128, 10, 4000),
    Task("fashion-mlp_bn-adamw-256", False, "fashion", "mlp_bn", "adamw", 0.1, 256, 12, 5000),
    Task("fashion-lenet-adamw-64", False, "fashion", "lenet", "adamw", 0.05, 64, 5, 3000),
    Task("fashion-resnet-sgd-128", False, "fashion", "resnet", "sgd", 1e-4, 128, 8, 3000),
)

NETS = {
    "mlp": partial(MLP, num_classes=10, batch_norm=False),
    "mlp_bn": partial(MLP, num_classes=10),
    "lenet": partial(LeNet, num_classes=10),
    "resnet": partial(ResNet, num_classes=10, blocks=(1, 1, 1), width=16, stem_stride=2),
}


def build(task: Task, seed: int, lr: float) -> tuple[Classifier, InMemoryDataModule]:
    """Return the module and the data of one run of ``task``."""
    sizes = {"batch_size": task.batch_size, "train_size": task.train_size}
    data: InMemoryDataModule
    if task.data == "digits":
        data = Digits(num_val=600, seed=seed, **sizes)
    else:
        data = FashionMNIST(num_val=2000, seed=seed, **sizes)
    optimizer: Any
    if task.optimizer == "sgd":
        optimizer = partial(SGD, momentum=0.9, nesterov=True)
    else:
        optimizer = partial(AdamW, betas=(0.9, 0.99))
    optimizer = partial(optimizer, lr=lr, weight_decay=task.weight_decay)
    torch.manual_seed(seed)
    return Classifier(NETS[task.net](data.shape), optimizer, num_classes=10), data


def make_trainer(task: Task, *callbacks: Callback, folder: str | None = None) -> Trainer:
    """Return a trainer for ``task`` that validates at the end only and writes nothing.

    Args:
        task: What is to be trained.
        *callbacks: Besides the one that sees to batch-norm statistics.
        folder: Where somebody else's finder may write.
    """
    return quiet_trainer(
        *callbacks,
        BatchNormRecalibration(),
        max_epochs=task.epochs,
        check_val_every_n_epoch=task.epochs,
        default_root_dir=folder,
    )


def train(task: Task, seed: int, lr: float) -> dict[str, Any]:
    """Train 1cycle at the peak ``lr``; return the validation accuracy, chance if it diverged."""
    module, data = build(task, seed, lr)
    end = EndAtNaN()
    trainer = make_trainer(task, OneCycle(), end)
    began = time.perf_counter()
    trainer.fit(module, datamodule=data)
    accuracy = CHANCE if end.diverged else float(trainer.callback_metrics["val/acc"])
    seconds = round(time.perf_counter() - began, 2)
    return {"acc": round(accuracy, 6), "diverged": end.diverged, "seconds": seconds}
