"""The conditions of a run, read from its trainer, and compared with those of a peak."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import torch
from lightning.fabric.utilities import rank_zero_warn
from lightning.fabric.utilities.data import sized_len
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lightning_onecycle import _groups
from lightning_onecycle._lightning import lightning_of
from lightning_onecycle._loaders import batch_size_of
from lightning_onecycle._writer import writer_of
from lightning_onecycle.budget import accumulation_plan
from lightning_onecycle.phases import Schedule
from lightning_onecycle.range_test.conditions import Conditions, without_addresses
from lightning_onecycle.range_test.curve import LRCurve
from lightning_onecycle.search.result import Search

# What schedulers leave in a group, and what is written down by itself.
_NOT_A_SETTING = {
    "params",
    "lr",
    "learning_rate",
    "initial_lr",
    "max_lr",
    "min_lr",
    "base_momentum",
    "max_momentum",
}
_NO_MATTER = {"num_workers", "pin_memory", "persistent_workers", "root", "data_dir", "download"}


def conditions_of(
    trainer: Trainer, model: LightningModule, schedule: Schedule | None = None
) -> Conditions:
    """Return what a learning rate depends on in a fit that has just started.

    Args:
        trainer: A trainer whose optimizers and loaders are set up: from ``on_train_start`` on.
        model: What it trains.
        schedule: What it trains with. Its momentum at the peak is what counts; where it has none,
            that of the optimizer.

    Returns:
        The conditions.
    """
    (optimizer, *_) = trainer.optimizers
    momentum = None if schedule is None else schedule.peak_momentum
    own = _groups.momentum(optimizer.param_groups[0])
    loaders = CombinedLoader(trainer.train_dataloader).flattened
    sizes = {batch_size_of(loader) for loader in loaders}
    clip, algorithm = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
    networks = [
        f"{name}={type(child).__name__}"
        for name, child in model.named_children()
        if any(True for _ in child.parameters())
    ]
    return Conditions(
        optimizer=type(optimizer).__name__,
        groups=_settings(optimizer),
        # One that is switched off is not switched on by a schedule.
        momentum=momentum if momentum is not None and own else own,
        batch_size=sizes.pop() if len(sizes) == 1 else None,
        accumulation={str(k): n for k, n in accumulation_plan(trainer).scheduling.items()},
        world_size=trainer.world_size,
        precision=str(trainer.precision),
        gradient_clip=f"{getattr(algorithm, 'value', None) or 'norm'} {clip:g}" if clip else None,
        data=type(trainer.datamodule or getattr(loaders[0], "dataset", loaders[0])).__name__,  # type: ignore[attr-defined]
        data_settings=_data_settings(trainer, loaders),
        model=f"{type(model).__name__}({', '.join(networks)})",
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad and not is_lazy(p)),
        schedule="" if schedule is None else _text(schedule),
        flags={
            "automatic_optimization": model.automatic_optimization,
            "architecture": zlib.crc32(without_addresses(str(model)).encode()),
            **{f"hparams.{k}": v for k, v in model.hparams.items() if k not in _NOT_A_SETTING},
        },
        versions={"torch": torch.__version__, "lightning": lightning_of(trainer).__version__},
    )


def check_peak(
    curve: LRCurve | Search,
    trainer: Trainer,
    model: LightningModule,
    schedule: Schedule | None = None,
    *,
    allow_differences: bool = False,
) -> list[str]:
    """Compare the conditions of a range test with those of a training that takes its peak.

    Of the schedule only the momentum at the peak is compared. Other versions of the libraries give
    a message and no error.

    Args:
        curve: The range test's, or a search.
        trainer: As for `conditions_of`.
        model: As for `conditions_of`.
        schedule: What is trained with.
        allow_differences: Whether to warn instead of raising an error.

    Returns:
        A line for each difference.

    Raises:
        MisconfigurationException: If the conditions are not the same, or not known.
    """
    now = conditions_of(trainer, model, schedule)
    if curve.conditions is None:
        refused, told = ["the curve does not say what it was measured under"], []
    else:
        flags = _with_chosen_decay(curve, curve.conditions.flags, now.flags)
        then = replace(curve.conditions, schedule=now.schedule, flags=flags)
        told = then.compare(now)
        refused = replace(then, versions=now.versions).compare(now)
    if refused and not allow_differences:
        listed = "".join(f"\n  {line}" for line in refused)
        raise MisconfigurationException(
            f"The peak was found under other conditions than those of this training:{listed}\nRun"
            " a range test under these conditions, as a new LRFinder() does, or use the peak with"
            " allow_differences=True."
        )
    if refused or told:
        listed = "; ".join(told or refused)
        rank_zero_warn(f"The peak was found under other conditions: {listed}.")
    return told or refused


def _with_chosen_decay(
    found: LRCurve | Search, then: dict[str, Any], now: dict[str, Any]
) -> dict[str, Any]:
    """Return the flags with the weight decay that a recipe chose in the hparams that now have it.

    A module may save its weight decay under any name.
    """
    if not isinstance(found, Search) or found.recipe is None or found.weight_decay is None:
        return then
    own_and_chosen = found.recipe.own_weight_decay, found.weight_decay
    return {
        name: now[name] if (value, now.get(name)) == own_and_chosen else value
        for name, value in then.items()
    }


def _settings(optimizer: Optimizer) -> tuple[dict[str, Any], ...]:
    writer = writer_of(optimizer)
    groups = optimizer.param_groups
    peaks = [float(group["lr"]) for group in groups] if writer is None else writer.peaks.lrs
    decays = [None] * len(groups) if writer is None else writer.peaks.decays
    settings = []
    for group, peak, decay in zip(groups, peaks, decays, strict=False):
        values = {name: value for name, value in group.items() if name not in _NOT_A_SETTING}
        if "betas" in values:
            values["betas"] = values["betas"][1:]
        elif "momentum" in values:
            del values["momentum"]
        if decay is not None:
            values["weight_decay"] = decay
        # Peaks are products of floats: a last digit is no difference.
        ratio = float(f"{peak / max(peaks):.9g}") if max(peaks) > 0 else 1.0
        settings.append({**values, "lr_ratio": ratio})
    return tuple(settings)


def _data_settings(trainer: Trainer, loaders: list[Any]) -> dict[str, Any]:
    hparams = dict(getattr(trainer.datamodule, "hparams", {}))  # type: ignore[attr-defined]
    settings = {name: value for name, value in hparams.items() if name not in _NO_MATTER}
    return {
        **settings,
        "samples": [sized_len(getattr(loader, "dataset", loader)) for loader in loaders],
        # One batch is not all of them, though 1 == 1.0.
        "limit_train_batches": repr(trainer.limit_train_batches),
        "overfit_batches": repr(trainer.overfit_batches),  # type: ignore[attr-defined]
    }


def _text(schedule: Schedule) -> str:
    return "; ".join(
        f"{phase.fraction:.4g} {phase.anneal} lr {phase.lr[0]:.4g} to {phase.lr[1]:.4g}"
        for phase in schedule.phases
    )
