"""``resume=DIR`` and ``resume=auto``: a run that continues in its own directory."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from experiments.build import CONF, UsageError
from experiments.launch import options_for_all_ranks
from lightning_onecycle._files import write_whole
from lightning_onecycle.report import read_result
from lightning_onecycle.sweep.command_line import config_flags, hydra_options
from lightning_onecycle.sweep.job_files import (
    GIVEN,
    RUN_LOCK,
    difference,
    is_over,
    parsed,
    remember,
    start_anew,
)
from lightning_onecycle.sweep.lock import alone
from lightning_onecycle.sweep.ranks import is_first

CHECKPOINT = Path("checkpoints", "last.ckpt")
RESULT = "result.json"
RECORD = ".hydra"
AUTO = "auto"
# What a schedule writes to the optimizer; all else it takes from the checkpoint.
WRITTEN_ANEW = {"lr", "weight_decay"}
# How a peak is chosen from a curve, and which one.
OF_THE_PEAK = {"method", "curve", "allow_differences"}
# What decides neither which images are trained on nor which are held out.
OF_THE_BATCHES = {"augment", "batch_size", "drop_last", "num_workers", "root", "seed"}


class OtherRun(UsageError):
    """The directory is that of another run, whose files are left as they are."""


def from_the_start(directory: Path) -> str:
    """Return what to do where a run has no checkpoint yet."""
    options = shlex.join([f"hydra.run.dir={directory}", f"resume={AUTO}"])
    return f"the same command again, with {options}"


def arguments_for_hydra(arguments: list[str]) -> list[str]:
    """Return the command line with flags first, and with a resumed run's own options.

    Hydra takes flags only before the options or behind them. With ``resume=DIR``, the flags and
    options that the run was started with come before those given now. A key that is given anew
    replaces the earlier one, a group that is chosen anew also its keys, and the run goes on in its
    own directory.
    """
    flags: list[str] = []
    options: list[str] = []
    for before, argument in pairwise(["", *arguments]):
        is_value = before.startswith("-") and "=" not in argument and argument[:1] not in "~+"
        (flags if argument.startswith("-") or is_value else options).append(argument)
    for option in options:
        key, _, value = option.partition("=")
        if value == "null" and (CONF / key).is_dir():  # for which Hydra has a traceback
            sys.exit(f"train.py: {key} must be an option of its group, got null: see --help")
    several_jobs = bool({"-m", "--multirun"} & set(flags))
    places = [o.partition("=")[2] for o in options if o.startswith("hydra.run.dir=")]
    if not several_jobs:
        options += options_for_all_ranks(options)
    given = [option for option in options if option.lstrip("+").startswith("resume=")]
    name = _unquoted(given[-1].partition("=")[2]) if given else ""
    if name in ("", "null"):
        return [*flags, *options]
    if several_jobs:
        sys.exit(
            f"train.py: resume must be given to a single run, got {name!r} with --multirun: a sweep"
            " continues by itself in its own hydra.sweep.dir"
        )
    if name == AUTO:
        if not any(option.startswith("hydra.run.dir=") for option in options):
            sys.exit(
                "train.py: resume=auto needs a directory that is the same each time, in"
                " hydra.run.dir=DIR"
            )
        return [*flags, *options]
    directory = Path(name)
    record = directory / RECORD
    for needed in (directory / CHECKPOINT, record / "overrides.yaml", record / "hydra.yaml"):
        if not needed.is_file():
            has_begun = (record / "overrides.yaml").is_file()
            hint = f". Give {from_the_start(directory)}" if has_begun else ""
            if (directory / "multirun.yaml").is_file():
                hint = f". It is a sweep's: give the sweep's command with hydra.sweep.dir={name}"
            sys.exit(
                f"train.py: resume must be the directory of a run that has saved a checkpoint, got"
                f" {name!r}: there is no {needed}{hint}"
            )
    for place in map(_unquoted, places):  # Lightning gives the run's own to further ranks
        if Path(place).resolve() != directory.resolve():
            sys.exit(
                f"train.py: hydra.run.dir must be left out with resume, got {place!r}: the run goes"
                f" on in its own directory, {directory}"
            )
    quoted = "'" + str(directory).replace("'", "\\'") + "'"
    here = [
        f"resume={quoted}",
        "hydra.mode=RUN",
        f"hydra.run.dir={quoted}",
        "hydra.output_subdir=null",
    ]
    options = [option for option in options if option not in [*given, *here]]
    try:
        hydra = _read(record / "hydra.yaml", dict).hydra
        started_with = _read(record / "overrides.yaml", list)
    except UsageError as error:
        sys.exit(f"train.py: {error}")
    earlier = without_resume(started_with)
    # Lightning gives what is given here to further ranks, which come through here again.
    earlier_flags = [flag for flag in _flags_of_the_run(hydra) if flag not in flags]
    sources = [Path(s.path) for s in hydra.runtime.config_sources if s.schema == "file"]
    given_anew = _given_anew([*earlier, *hydra_options(hydra)], options, [CONF, *sources])
    return [*earlier_flags, *flags, *given_anew, *here]


def _read(path: Path, kind: type) -> Any:
    """Return a file of the record, or refuse with one line that names it."""
    try:
        content = OmegaConf.load(path)
    except Exception as error:  # whatever a damaged file makes of it
        raise UsageError(f"resume: {path} cannot be read: {error}") from error
    # OmegaConf reads an empty file as an empty dictionary.
    if not isinstance(OmegaConf.to_container(content), kind) or content == {}:
        raise UsageError(f"resume: {path} must hold the {kind.__name__} that Hydra wrote there")
    return content


def _flags_of_the_run(hydra: DictConfig) -> list[str]:
    """Return the run's flags, without the ``conf/`` that comes with ``train.py`` anyway."""

    def is_ours(flag: str) -> bool:
        name, _, path = flag.partition("=")
        return name == "--config-path" and Path(path).with_name("train.py").is_file()

    return [flag for flag in config_flags(hydra) if not is_ours(flag)]


def _given_anew(earlier: list[str], options: list[str], sources: list[Path]) -> list[str]:
    """Return the options of a run of which some are given anew.

    A key is that of a group where one of the ``sources`` has a directory of its name.
    An option takes the place of the earlier one with its key. Where that has added the key, with
    ``+key=value``, the new one adds it too, and one that deletes it stands behind it. A group of
    which the same option is given again keeps its keys.
    """
    keys = {_key(option) for option in options if option not in earlier}
    groups = {key for key in keys if any((source / key).is_dir() for source in sources)}
    result = [option for option in earlier if _key(option).split(".")[0] not in groups]
    for option in options:
        same = [o for o in result if _key(o) == _key(option)]
        result = [o for o in result if o not in same]
        added = next((o for o in same if o.startswith("+")), None)
        if added is not None and option.startswith("~"):
            result.append(added)
        elif added is not None and not option.startswith("++"):
            option = added[: len(added) - len(added.lstrip("+"))] + option.lstrip("+")
        result.append(option)
    return result


def _key(option: str) -> str:
    return option.lstrip("+~").partition("=")[0]


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
            stack.enter_context(alone(directory / RUN_LOCK))
        except Timeout:
            raise OtherRun(
                f"hydra.run.dir must be free, got {directory}: another process is at work in it"
            ) from None
        yield


def settle_auto(cfg: DictConfig, directory: Path) -> bool:
    """Replace ``resume=auto`` by the directory, or by null to start; return if the run is over.

    Raises:
        OtherRun: If the run there was given other options.
    """
    result, has_checkpoint = read_result(directory / RESULT), (directory / CHECKPOINT).is_file()
    if is_over(result) or has_checkpoint:
        kept = result.get("overrides")
        if kept is None:  # it is damaged or missing
            kept = _read(directory / RECORD / "overrides.yaml", list)
        earlier, given = parsed(without_resume(kept)), parsed(options_of_this_run())
        if earlier != given:
            raise OtherRun(
                f"hydra.run.dir must be a new directory for other options, got {directory}, whose"
                f" run {difference(earlier, given)}: give resume=DIR to continue with others"
            )
    elif is_first():
        start_anew(directory)
    cfg.resume = str(directory) if has_checkpoint else None
    return is_over(result)


def options_of_this_run() -> list[str]:
    """Return what the run was given on the command line, or by a sweep."""
    return without_resume(HydraConfig.get().overrides.task)


def without_resume(options: Iterable[str]) -> list[str]:
    """Return options without the one that says where a run goes on."""
    return [option for option in options if _key(option) != "resume"]


def check_resume(cfg: DictConfig, directory: Path, module: LightningModule) -> None:
    """Refuse a checkpoint that is damaged, or is of other data, another optimizer or model.

    With another split, images of the test or the validation would have been trained on.
    """
    path = directory / CHECKPOINT
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of it
        raise UsageError(f"resume: {path} cannot be read: {error}") from error
    run = _read(directory / RECORD / "config.yaml", dict)
    _refuse_changes("data", run, cfg, allowed=OF_THE_BATCHES)
    if run.lr_find.mode == cfg.lr_find.mode != "off":  # what it has found is used again
        found = {"lr", "weight_decay"} if cfg.lr_find.get("weight_decays") else {"lr"}
        hint = f": lr_find={cfg.lr_find.mode} has found another. Give lr_find=off, too"
        _refuse_changes("optimizer", run, cfg, allowed={*cfg.optimizer} - found, hint=hint)
        _refuse_changes("lr_find", run, cfg, allowed=OF_THE_PEAK)
    _refuse_changes("optimizer", run, cfg, allowed=WRITTEN_ANEW)
    _refuse_changes("task", run, cfg, allowed={"label_smoothing"})
    saved = {name: value.shape for name, value in checkpoint["state_dict"].items()}
    if saved != {name: value.shape for name, value in module.state_dict().items()}:
        _refuse_changes("model", run, cfg)
        raise UsageError(f"resume: {path} does not hold the weights of this model")


def _refuse_changes(
    group: str,
    run: DictConfig,
    now: DictConfig,
    allowed: Collection[str] = (),
    hint: str = "",
) -> None:
    """Refuse other values than the run's, the class first: with it other keys change, too."""
    was, given = (OmegaConf.to_container(cfg[group], resolve=True) for cfg in (run, now))
    for name in sorted({*was, *given}.difference(allowed), key=lambda name: name != "_target_"):
        if was.get(name) != given.get(name):
            key = group if name == "_target_" else f"{group}.{name}"
            raise UsageError(
                f"{key} must stay {was.get(name)} with resume, got {given.get(name)}{hint}"
            )


class KeepOptions(Callback):
    """Write the options of a resumed run into its record, once it has trained on a batch.

    Before that they may still be refused, and the run has to continue with its earlier options.
    """

    def __init__(self, cfg: DictConfig, directory: Path) -> None:
        self.cfg = deepcopy(cfg)  # a recipe writes what it has found into the original
        self.directory = directory
        self.record = directory / RECORD
        self._kept = False

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write what Hydra has written where the run began, each file at once."""
        hydra = HydraConfig.get()
        if self._kept or hydra.output_subdir is not None:  # then Hydra has written it
            return
        self._kept = True
        options = OmegaConf.create(options_of_this_run())
        written = OmegaConf.load(self.record / "hydra.yaml")
        written.hydra.overrides = hydra.overrides
        written.hydra.job.config_name = hydra.job.config_name
        for name in ("config_sources", "choices"):
            written.hydra.runtime[name] = hydra.runtime[name]
        write_whole(self.record / "config.yaml", OmegaConf.to_yaml(self.cfg))
        write_whole(self.record / "hydra.yaml", OmegaConf.to_yaml(written))
        write_whole(self.record / "overrides.yaml", OmegaConf.to_yaml(options))
        if (self.directory / GIVEN).is_file():  # a job of a sweep, which holds it to its options
            remember(self.directory, options, self.cfg)
