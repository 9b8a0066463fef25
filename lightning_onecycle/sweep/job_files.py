"""The files in a job's directory by which a later sweep continues it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lightning_onecycle.report import read_result, write_result
from lightning_onecycle.report.record import is_complete

LOCK = ".sweep.lock"
"""In a sweep's directory; touched when a sweep starts in it."""
RUN_LOCK = ".run.lock"
"""In a single run's directory; held by the process that works there."""
RESULT = "result.json"
GIVEN = ".job.json"
"""In a job's directory: what it was given. Whoever writes ``result.json`` need not know it."""
CHECKPOINT = Path("checkpoints", "last.ckpt")
# What a run without a checkpoint leaves, and the next run writes again.
_LEFT = (RESULT, "lr_find.json", "lr_find.png", "schedule.png", "events.out.tfevents.*")


class JobFailed(CompactHydraException):
    """A job of a sweep has failed. The others run, and Hydra then raises the first failure."""


def is_over(result: Mapping[str, Any]) -> bool:
    """Return whether a run has come to an end that another run would only repeat."""
    return is_complete(result) or result.get("status") == "diverged"


def remember(directory: Path, overrides: Sequence[str], cfg: DictConfig) -> None:
    """Write the options and the configuration of a job, for a later sweep in the same directory."""
    given = {"overrides": list(overrides), "config": OmegaConf.to_yaml(cfg)}
    write_result(directory / GIVEN, given)


def changes(directory: Path, cfg: DictConfig) -> str:
    """Return as text what has changed in a job's configuration, whose files may change."""
    text = read_result(directory / GIVEN).get("config")
    if text is None:
        return ""
    then, now = (dict(_leaves(OmegaConf.to_container(c))) for c in (OmegaConf.create(text), cfg))
    return ", ".join(
        f"{key} {then.get(key)}, now {now.get(key)}"
        for key in {**then, **now}
        if then.get(key) != now.get(key) and key != "resume"
    )


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict):
        yield key, node
        return
    for name, value in node.items():
        yield from _leaves(value, f"{key}.{name}" if key else str(name))


def start_anew(directory: Path) -> None:
    """Remove the files of a run without a checkpoint, so that nothing is there twice."""
    for path in (path for pattern in _LEFT for path in directory.glob(pattern)):
        path.unlink(missing_ok=True)


def take_over(directory: Path, root: Path, overrides: Sequence[str]) -> None:
    """Move to a job's directory what the same job has done in another, under another number.

    A sweep over more seeds or schedules numbers its jobs again.

    Args:
        directory: Where the job is to run now. One in which it has run already is left alone.
        root: The sweep's directory. What no sweep has written there is left alone, and so is a
            symbolic link.
        overrides: What the job is given.
    """
    if (directory / RESULT).is_file() or (directory / CHECKPOINT).is_file():
        return
    began = (root / LOCK).stat().st_mtime if (root / LOCK).is_file() else 0.0
    for other in root.iterdir():
        if (
            other != directory
            and not other.is_symlink()
            and _options(other) == parsed(overrides)
            and other.stat().st_mtime < began
            and _is_of_a_sweep(other)
        ):
            taken = directory / ".taken"
            try:
                other.rename(taken)
            except FileNotFoundError:  # by another job with the same options
                continue
            for path in list(taken.iterdir()):
                if not (directory / path.name).exists():
                    path.rename(directory / path.name)
            shutil.rmtree(taken)
            return


def refuse_other_options(directory: Path, name: str, overrides: Sequence[str]) -> None:
    """Refuse to write over the result of a job that had other options.

    Args:
        directory: The job's.
        name: What the job is called.
        overrides: What it is given now.

    Raises:
        JobFailed: If it was given others. Hydra's record of them is put back.
    """
    earlier, given = _options(directory), parsed(overrides)
    has_run = (directory / RESULT).is_file() or (directory / CHECKPOINT).is_file()
    if earlier == given or not has_run:
        return
    rule = (
        "not run, because hydra.sweep.dir must be a new directory for a sweep with other options,"
        f" got that of one whose {name}"
    )
    if earlier is None:
        raise JobFailed(f"{rule} has run, and nothing there says with what options")
    restore_record(directory, _given(directory) or [])
    raise JobFailed(f"{rule} {difference(earlier, given)}")


def restore_record(directory: Path, overrides: Sequence[str]) -> None:
    """Restore Hydra's record of a run's options, after a later run has overwritten it."""
    hydra = HydraConfig.get()
    record = directory / str(hydra.output_subdir)
    if record.is_dir():
        loader = GlobalHydra.instance().config_loader()
        cfg = loader.load_configuration(hydra.job.config_name, list(overrides), RunMode.RUN)
        OmegaConf.save(OmegaConf.create(list(overrides)), record / "overrides.yaml")
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        OmegaConf.save(cfg, record / "config.yaml")


def _given(directory: Path) -> list[str] | None:
    kept = read_result(directory / GIVEN) or read_result(directory / RESULT)
    return kept.get("overrides")


def _options(directory: Path) -> set[str] | None:
    given = _given(directory)
    return None if given is None else parsed(given)


def parsed(overrides: Sequence[str]) -> set[str]:
    """Return the options as Hydra understands them: a sweep says False, and a person false."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {f"{o.get_key_element()}={o.value()}" for o in parsed}


def _is_of_a_sweep(directory: Path) -> bool:
    try:
        hydra = OmegaConf.load(directory / ".hydra" / "hydra.yaml").hydra
    except (OSError, AttributeError):
        return False
    return hydra.mode == RunMode.MULTIRUN.name and hydra.runtime.output_dir == str(directory)


def difference(earlier: set[str], given: set[str]) -> str:
    """Return as text which options a run had, and which it lacked."""
    had, lacked = (", ".join(sorted(side)) for side in (earlier - given, given - earlier))
    if not had:
        return f"did not have {lacked}"
    return f"had {had} and not {lacked}" if lacked else f"had {had}"
