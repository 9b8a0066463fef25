"""Runs on disk: directories with a ``result.json`` or the configuration of a run."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")
RESULT, CONFIG = "result.json", ".hydra"
_CACHED = 16_384  # files; a long sweep is looked at after each job
_STARTING = re.compile(r"resume$|hydra[./]")
# Where Hydra writes ``hydra.runtime.choices``.
_CHOICES = re.compile(r"^  runtime:\n(?:    .*\n)*?    choices:\n((?:      .*\n)+)", re.MULTILINE)
# libyaml is ten times as fast; wheels of PyYAML have it.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Run:
    """A run: its facts, how it ended, and its configuration.

    Args:
        job: The name of its directory, below the one that was asked for.
        status: ``"completed"``, or how it ended otherwise.
        reason: Why it did not complete, or None.
        facts: What ``result.json`` says besides, such as ``steps`` and ``world_size``.
        metrics: The last value of each metric, or None where it was not finite.
        overrides: What the command line said about the run, by its key.
        choices: The option of each config group.
        config: The composed configuration, as nested dictionaries.
        events: TensorBoard's event files, oldest first.

    Example:
        >>> run = Run("0-lr=0.1", "completed", config={"optimizer": {"lr": 0.1}})
        >>> run.option("optimizer.lr"), run.option("model.width")
        (0.1, None)
    """

    job: str
    status: str
    reason: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[Path, ...] = ()

    @property
    def completed(self) -> bool:
        """Whether the run came to its end."""
        return self.status == "completed"

    @property
    def configured(self) -> bool:
        """Whether its configuration is known."""
        return bool(self.config or self.choices)

    @property
    def seed(self) -> Any:
        """The seed, or None if it is not known."""
        seed = self.facts.get("seed")
        return self.option("seed") if seed is None else seed

    def option(self, key: str) -> Any:
        """Return the value of a key of the configuration, or the option of a config group.

        Where the configuration does not know it, it is what the command line or the facts say.
        """
        if key in self.choices:
            return self.choices[key]
        node: Any = self.config
        for part in key.split("."):
            if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
                node = node[int(part)]
            elif isinstance(node, dict) and part in node:
                node = node[part]
            else:
                return self.overrides.get(key, self.facts.get(key))
        return self.overrides.get(key, node) if isinstance(node, dict) else node


def read_runs(directory: str | Path) -> tuple[Run, ...]:
    """Read each run at or below a directory; its reason says what is missing or damaged.

    Args:
        directory: Of a sweep, of a single run, or above some of these.

    Returns:
        The runs, in the order of their names, numbers by their value.

    Raises:
        FileNotFoundError: If there is no such directory, or no run in it.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"directory must be a directory with runs, got {str(directory)!r}")
    found = dict(_find(directory))
    if not found:
        raise FileNotFoundError(
            f"directory must hold a run, with {RESULT} or {CONFIG}/, got {str(directory)!r}"
        )
    runs = (_read(path, _name(path, directory), events) for path, events in found.items())
    return tuple(sorted(runs, key=lambda run: _natural(run.job)))


def once_per_file(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """Read a file again only when it has been written or replaced since."""

    @lru_cache(_CACHED)
    def remembered(path: Path, inode: int, size: int, mtime_ns: int) -> T:
        return read(path)

    def cached(path: Path) -> T:
        """Read the file, or return what was read from it in its present state."""
        state = path.stat()
        return remembered(path, state.st_ino, state.st_size, state.st_mtime_ns)

    return cached


def _find(directory: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield each run's directory with the event files that are its own."""
    runs: dict[Path, list[Path]] = {}
    owner: dict[Path, Path | None] = {}
    for root, folders, files in os.walk(directory, followlinks=True):
        path = Path(root)
        is_run = CONFIG in folders or RESULT in files
        owner[path] = path if is_run else owner.get(path.parent)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and (
                not (path / name).is_symlink()
                or (owner[path] is None and _is_a_run_elsewhere(path / name, directory))
            )
        ]
        if is_run:
            runs[path] = []
        of = owner[path]
        if of is not None:
            runs[of] += [path / name for name in files if "tfevents" in name]
    for path, events in runs.items():
        yield path, sorted(events, key=lambda file: _natural(file.name))


def _is_a_run_elsewhere(link: Path, directory: Path) -> bool:
    """Return whether a job has been moved and linked to; other links may lead anywhere."""
    is_run = (link / CONFIG).is_dir() or (link / RESULT).is_file()
    return is_run and not link.resolve().is_relative_to(directory.resolve())


def _name(path: Path, directory: Path) -> str:
    return directory.resolve().name if path == directory else str(path.relative_to(directory))


def _natural(name: str) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]


def _read(path: Path, job: str, events: list[Path]) -> Run:
    facts, problem = _result(path / RESULT)
    metrics, status, reason = (facts.pop(name, None) for name in ("metrics", "status", "reason"))
    given = _settings(path / CONFIG / "overrides.yaml") or facts.get("overrides")
    facts.pop("overrides", None)
    choices = _settings(path / CONFIG / "hydra.yaml", _choices)
    if problem or not isinstance(status, str):
        status, reason = "failed", problem or f"{RESULT} has no status"
    return Run(
        job=job,
        status=status,
        reason=None if reason is None else str(reason),
        facts=facts,
        metrics={name: _finite(value) for name, value in _mapping(metrics).items()},
        overrides=_overrides(given),
        choices=_about_the_run(_mapping(choices)),
        config=_mapping(_settings(path / CONFIG / "config.yaml")),
        events=tuple(events),
    )


@once_per_file
def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@once_per_file
def _yaml(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a safe loader


def _result(path: Path) -> tuple[dict[str, Any], str | None]:
    """Return the content of ``result.json``, or an empty dict and the problem."""
    try:
        result = _json(path)
    except FileNotFoundError:
        return {}, f"no {path.name}"
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"{path.name} cannot be read: {error}"
    if not isinstance(result, dict):
        return {}, f"{path.name} cannot be read: not a JSON object"
    return dict(result), None


@once_per_file
def _choices(path: Path) -> Any:
    """Return the option of each config group, which ``hydra.yaml`` has in one part of many."""
    content = path.read_text(encoding="utf-8")
    part = _CHOICES.search(content)
    if part is not None:
        return yaml.load(part[1], _Loader)
    choices = yaml.load(content, _Loader)
    for name in ("hydra", "runtime", "choices"):
        choices = _mapping(choices).get(name)
    return choices


def _settings(path: Path, read: Callable[[Path], Any] = _yaml) -> Any:
    """Return what a YAML file holds, or None: a run can do without its configuration."""
    try:
        return read(path)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None


def _overrides(items: Any) -> dict[str, str]:
    """Return the command line's ``key=value`` by key; a deletion, ``~key``, has no value."""
    listed = items if isinstance(items, list) else []
    pairs = (item.partition("=") for item in listed if isinstance(item, str))
    return _about_the_run({key.lstrip("+~"): value for key, _, value in pairs})


def _about_the_run(keys: dict[str, Any]) -> dict[str, Any]:
    """Leave out options that say how the run was started or resumed."""
    return {key: value for key, value in keys.items() if not _STARTING.match(key)}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def text(value: Any) -> str:
    """Return a value as on the command line; an empty string for None.

    Example:
        >>> [text(value) for value in (0.1, 2.0, True, None, [256, 128], "sgd")]
        ['0.1', '2', 'true', '', '[256, 128]', 'sgd']
    """
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, dict) and "_target_" in value:
        return str(value["_target_"]).rpartition(".")[2]
    return value if isinstance(value, str) else json.dumps(value, default=str)
