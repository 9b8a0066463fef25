"""``resume=DIR`` and ``resume=auto``: a run that goes on in its own directory."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from filelock import Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from experiments.build import UsageError
from experiments.launch import options_for_all_ranks
from lightning_onecycle.report import read_result
from lightning_onecycle.sweep.earlier import listed, parsed, restore_record, start_anew
from lightning_onecycle.sweep.lock import alone
from lightning_onecycle.sweep.ranks import is_first

CONF = Path(__file__).parents[1] / "conf"
CHECKPOINT = Path("checkpoints", "last.ckpt")
RESULT = "result.json"
AUTO = "auto"


class OtherRun(UsageError):
    """The directory is that of another run, whose files are left as they are."""


def arguments_for_hydra(arguments: list[str]) -> list[str]:
    """Return the command line with flags first, and with a resumed run's own options.

    Hydra takes flags only before the options or behind them. With ``resume=DIR``, the options
    that the run was started with come before those given now, except those of a group that is
    chosen anew, and it goes on in its own directory.
    """
    flags: list[str] = []
    options: list[str] = []
    for before, argument in pairwise(["", *arguments]):
        is_value = before.startswith("-") and "=" not in argument and argument[:1] not in "~+"
        (flags if argument.startswith("-") or is_value else options).append(argument)
    several_jobs = bool({"-m", "--multirun"} & set(flags))
    if not several_jobs:
        options += options_for_all_ranks(options)
    given = [option for option in options if option.lstrip("+").startswith("resume=")]
    name = _unquoted(given[-1].partition("=")[2]) if given else ""
    if name in ("", "null"):
        return [*flags, *options]
    if several_jobs:
        sys.exit(
            f"train.py: resume must be given to a single run, got {name!r} with --multirun: a sweep"
            " goes on by itself in its own hydra.sweep.dir"
        )
    if name == AUTO:
        if not any(option.startswith("hydra.run.dir=") for option in options):
            sys.exit(
                "train.py: resume=auto needs a directory that is the same each time, in"
                " hydra.run.dir=DIR"
            )
        return [*flags, *options]
    directory = Path(name)
    started_with = directory / ".hydra" / "overrides.yaml"
    for needed in (directory / CHECKPOINT, started_with):
        if not needed.is_file():
            sys.exit(
                f"train.py: resume must be the directory of a run that has saved a checkpoint, got"
                f" {name!r}: there is no {needed}"
            )
    quoted = "'" + str(directory).replace("'", "\\'") + "'"
    here = [f"resume={quoted}", f"hydra.run.dir={quoted}", "hydra.output_subdir=null"]
    options = [option for option in options if option not in [*given, *here]]
    groups = {o.partition("=")[0] for o in options if (CONF / o.partition("=")[0]).is_dir()}
    earlier = [str(option) for option in OmegaConf.load(started_with)]
    # Lightning gives what is given here to further ranks, which come through here again.
    earlier = [o for o in earlier if o not in options and o.split(".")[0] not in groups]
    return [*flags, *earlier, *options, *here]


def _unquoted(value: str) -> str:
    """Return a value without the quotes that Hydra would take away, if it has them."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return str(OverridesParser.create().parse_override(f"resume={value}").value())
    return value


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Hold a run's directory, so that no second process trains in it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(alone(directory / ".run.lock"))
        except Timeout:
            raise OtherRun(
                f"hydra.run.dir must be free, got {directory}: another process is at work in it"
            ) from None
        yield


def settle_auto(cfg: DictConfig, directory: Path) -> bool:
    """Make of ``resume=auto`` the directory to go on in, or null to start; return if it is over.

    Raises:
        OtherRun: If the run there was given other options.
    """
    result, has_checkpoint = read_result(directory / RESULT), (directory / CHECKPOINT).is_file()
    completed = result.get("status") == "completed" and not result.get("reason")
    is_over = completed or result.get("status") == "diverged"
    if is_over or has_checkpoint:
        options = result.get("overrides", [])
        earlier, given = parsed(options), parsed(_options_of_this_run())
        if earlier != given:
            if is_first() and "overrides" in result:
                restore_record(directory, options)
            raise OtherRun(
                f"hydra.run.dir must be a new directory for other options, got {directory}, whose"
                f" run had {listed(earlier - given)} and not {listed(given - earlier)}: give"
                " resume=DIR to go on with others"
            )
    elif is_first():
        start_anew(directory)
    cfg.resume = str(directory) if has_checkpoint else None
    return is_over


def _options_of_this_run() -> list[str]:
    return [o for o in HydraConfig.get().overrides.task if not o.startswith("resume=")]


def check_directory(cfg: DictConfig, directory: Path) -> None:
    """Refuse to run over an earlier run, or to go on from a checkpoint that is damaged.

    Hydra's record of a resumed run becomes that of the options it goes on with.
    """
    checkpoint = directory / CHECKPOINT
    if not cfg.resume:
        if checkpoint.is_file():
            options = read_result(directory / RESULT).get("overrides")
            if is_first() and options is not None:
                restore_record(directory, options)
            raise OtherRun(
                f"hydra.run.dir must be a new directory, got that of an earlier run, {directory}:"
                " give resume=DIR to go on with it"
            )
        return
    try:
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of it
        raise UsageError(f"resume: {checkpoint} cannot be read: {error}") from error
    if is_first() and (directory / ".hydra").is_dir():
        options = _options_of_this_run()
        OmegaConf.save(OmegaConf.create(options), directory / ".hydra" / "overrides.yaml")
        OmegaConf.save(cfg, directory / ".hydra" / "config.yaml")
