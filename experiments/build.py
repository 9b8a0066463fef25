"""Build the objects that a configuration names, or say in one line what is wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from lightning_onecycle._checks import choice, number, whole
from lightning_onecycle.range_test.suggest import METHODS

CONF = Path(__file__).parents[1] / "conf"
BOOLEANS = (
    "task.decay_bias_and_norm",
    "optimizer.nesterov",
    "model.batch_norm",
    "data.drop_last",
    "schedule.cycle_momentum",
    "trainer.sync_batchnorm",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "lr_find.allow_differences",
)
OTHER_KEYS = ("seed", "resume", "budget", "lr_scaling", "task", "experiment")
GROUPS = ("schedule", "optimizer", "model", "data", "trainer", "callbacks", "logger", "lr_find")
# The least of whole numbers is 1; what else they may be.
WHOLE = {
    "accumulate_grad_batches": (),
    "max_epochs": (None, -1),
    "max_steps": (-1,),
    "check_val_every_n_epoch": (None,),
    "log_every_n_steps": (None, 0),
    "num_sanity_val_steps": (None, 0, -1),
}
GIVEN_BY_US = {
    "logger": "choose one with the group logger, or add one with +logger.NAME._target_=...",
    "callbacks": "add one with +callbacks.NAME._target_=...",
    "plugins": "add precision, strategy or accelerator as the trainer's key of that name",
    "default_root_dir": "it is hydra.run.dir",
}

# What each part of a group has, whichever Lightning it is from.
METHOD_OF_PARTS = {"callbacks": "on_train_start", "logger": "log_metrics"}

# A run's directory is its name where a logger's service wants one.
OmegaConf.register_new_resolver("base_name", lambda path: Path(path).name, replace=True)


class UsageError(ValueError):
    """The command line asks for what cannot be; one line names the key, the rule, the value."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


def check(cfg: DictConfig) -> None:
    """Refuse values that would fail only after training has begun, or not at all."""
    for key in GROUPS:
        if OmegaConf.select(cfg, key) is None:
            raise UsageError(f"{key} must be an option of its group, got none: see --help")
    for key in cfg.keys() - {*GROUPS, *OTHER_KEYS, "hydra"}:
        peak = " The peak is optimizer.lr." if key in ("max_lr", "lr") else ""
        rank_zero_warn(f"train.py does not read the key {key}: see --help.{peak}")
    trainer = cfg.trainer
    try:
        rule = "a whole number from 0 to 2**32 - 1"
        cfg.seed = int(number("seed", cfg.seed, rule, lambda v: v.is_integer() and 0 <= v < 2**32))
        for key in BOOLEANS:
            value = OmegaConf.select(cfg, key)
            if isinstance(value, str):  # Hydra reads "no" as text, which Python takes for true
                raise ValueError(f"{key} must be true or false, got {value!r}")
        choice("budget", cfg.budget, ("steps", "time"))
        modes = ("off", "only", "then_fit", "search", "recipe")
        choice("lr_find.mode", cfg.lr_find.mode, modes)
        choice("lr_find.method", cfg.lr_find.method, tuple(METHODS))
        number("optimizer.lr", cfg.optimizer.lr, "> 0", lambda v: v > 0)
        number("optimizer.weight_decay", cfg.optimizer.weight_decay, ">= 0", lambda v: v >= 0)
        if "momentum" in cfg.optimizer:
            momentum = cfg.optimizer.momentum
            number("optimizer.momentum", momentum, "in [0, 1)", lambda v: 0 <= v < 1)
        if "betas" in cfg.optimizer:
            _check_betas(cfg.optimizer.betas)
        for key in ("shape", "num_classes"):
            there = cfg.data.get(key)
            given = cfg.model.get(key, there)
            if given != there:
                raise ValueError(f"model.{key} must be data.{key}, which is {there}, got {given}")
        smoothing = cfg.task.label_smoothing
        number("task.label_smoothing", smoothing, "in [0, 1)", lambda v: 0 <= v < 1)
        cfg.data.batch_size = whole("data.batch_size", cfg.data.batch_size, 1)
        for key, others in WHOLE.items():
            if key in trainer and trainer[key] not in others:
                trainer[key] = whole(f"trainer.{key}", trainer[key], 1)
        choice("trainer.deterministic", trainer.get("deterministic"), (None, True, False, "warn"))
        _check_time(trainer.get("max_time"))
        choice("lr_scaling.rule", cfg.lr_scaling.rule, (None, "linear", "sqrt"))
        whole("lr_scaling.batch_size", cfg.lr_scaling.batch_size, 1)
        if trainer.get("limit_train_batches") is not None:
            number("trainer.limit_train_batches", trainer.limit_train_batches, "> 0", bool)
        for key in ("limit_val_batches", "limit_test_batches"):
            if trainer.get(key) is not None:
                number(f"trainer.{key}", trainer[key], ">= 0", lambda v: v >= 0)
    except ValueError as error:
        raise UsageError(str(error)) from None
    for key, place in GIVEN_BY_US.items():
        if key in trainer:
            raise UsageError(f"trainer.{key} must be left out, because train.py gives it: {place}")
    if cfg.lr_find.curve is not None and cfg.lr_find.mode != "off":
        raise UsageError("lr_find.curve must be null with a range test, which finds a curve itself")
    _check_used(cfg.lr_find)
    nothing_beside = cfg.lr_find.get("weight_decays") is cfg.lr_find.get("momenta") is None
    if cfg.lr_find.mode == "recipe" and nothing_beside:
        raise UsageError(
            "lr_find.weight_decays and lr_find.momenta must not both be null with lr_find=recipe:"
            " lr_find=search searches over peaks alone"
        )
    if cfg.lr_scaling.rule is not None and (
        cfg.lr_find.curve or cfg.lr_find.mode in ("then_fit", "search", "recipe")
    ):
        raise UsageError(
            "lr_scaling.rule must be null with a range test, which finds the peak for the batch"
            f" size that it runs at, got {cfg.lr_scaling.rule!r}"
        )
    if trainer.get("sync_batchnorm") and not torch.cuda.is_available():
        raise UsageError(
            "trainer.sync_batchnorm must be false without a GPU: torch.nn.SyncBatchNorm has no CPU"
            " version"
        )
    if cfg.resume not in (None, "auto") and cfg.lr_find.mode == "only":
        raise UsageError(
            "lr_find must not be 'only' with resume: a range test has no part of a run"
        )


def _check_used(lr_find: DictConfig) -> None:
    """Refuse keys that are given and would change nothing.

    Without a range test a message lists them: other jobs of a sweep over ``lr_find`` may need them.
    """
    mode, has_curve = lr_find.mode, lr_find.curve is not None
    used = {"mode", "curve"} if mode == "off" else {*lr_find} - {"method", "allow_differences"}
    used |= {"allow_differences"} if has_curve else set()
    used |= {"method"} if has_curve or mode in ("only", "then_fit") else set()
    for key, default in OmegaConf.load(CONF / "lr_find" / "off.yaml").items():
        given = lr_find.get(key, default)
        if key not in used and given != default:
            if mode == "off" and not has_curve:
                rank_zero_warn(f"lr_find.{key}={given} changes nothing with lr_find=off.")
                continue
            by = "lr_find.curve" if has_curve else f"lr_find={mode}"
            raise UsageError(
                f"lr_find.{key} must be left out with {by}, which does not use it, got {given!r}"
            )


def _check_betas(value: Any) -> None:
    rule = "optimizer.betas must be two numbers in [0, 1)"
    if not OmegaConf.is_list(value) or len(value) != 2:
        raise ValueError(f"{rule}, got {value!r}")
    for index, beta in enumerate(value):
        number(f"optimizer.betas[{index}]", beta, "in [0, 1)", lambda v: 0 <= v < 1)


def _check_time(value: Any) -> None:
    """Refuse a time limit that Lightning cannot read, or that is over before the first batch."""
    given = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    try:
        seconds = Timer(given).time_remaining() if given is not None else None
    except (MisconfigurationException, TypeError, AttributeError):
        seconds = 0.0
    if seconds is not None and seconds <= 0:
        rule = "trainer.max_time must be DD:HH:MM:SS or, as {minutes: 5}, keys of a timedelta"
        raise ValueError(f"{rule}, and > 0, got {given!r}")


def build(cfg: DictConfig, key: str, **more: Any) -> Any:
    """Instantiate one group; a refusal by what it builds names the group's key."""
    try:
        built = instantiate(cfg[key], **more, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        of_a_logger = key == "logger" and cause is not None  # each service has errors of its own
        refusals = (ValueError, TypeError, ImportError, MisconfigurationException)
        if of_a_logger or isinstance(cause, refusals):
            place = re.search(r"full_key: (\S+)", str(error))  # as callbacks.batch_norm
            raise UsageError(named(place[1] if place else key, cause)) from error
        raise
    for name, part in built.items() if key in METHOD_OF_PARTS else ():
        if part is not None and not hasattr(part, METHOD_OF_PARTS[key]):
            kind = key.removesuffix("s")
            raise UsageError(f"{key}.{name} must be null or a {kind} of Lightning's, got {part!r}")
    return built


def connect(loggers: Sequence[Logger]) -> None:
    """Start the loggers of a service now: it may want a key, or not be there.

    Those that write into the run's directory have nothing to refuse.
    """
    for logger in loggers:
        if not isinstance(logger, (TensorBoardLogger, CSVLogger)):
            try:
                _ = logger.experiment
            except Exception as error:
                raise UsageError(f"logger: {type(logger).__name__}: {error}") from error


def optimizer_of(cfg: DictConfig) -> Any:
    """Build the optimizer's constructor, and try it before anything depends on it."""
    make = build(cfg, "optimizer")
    try:
        make([torch.zeros(1, requires_grad=True)])
    except (ValueError, TypeError) as error:
        raise UsageError(f"optimizer: {error}") from error
    return make


def load(data: LightningDataModule) -> None:
    """Read the data now, so that missing or damaged files are reported first."""
    try:
        if rank_zero_only.rank == 0:
            data.prepare_data()
        data.setup("fit")
        data.train_dataloader()  # refuses a batch larger than the data
    except (ValueError, OSError) as error:
        raise UsageError(named("data", error)) from error


def named(key: str, cause: Exception) -> str:
    """Put the group before a refusal: ``data.batch_size must be ...``, or ``data: ...``."""
    return f"{key}{'.' if re.match(r'[a-z_]+ must be ', str(cause)) else ': '}{cause}"
