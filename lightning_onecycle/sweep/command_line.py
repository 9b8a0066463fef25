"""A run's command line: its program, its configuration flags, and what was swept."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

_FLAGS = {"main": "--config-path", "command-line": "--config-dir"}
# They say where a run is and what started it, not what it is.
_OF_THE_START = (
    "hydra.mode",
    "hydra.sweep",
    "hydra/sweeper",
    "hydra.launcher",
    "hydra/launcher",
    "hydra.run.dir",
    "hydra.output_subdir",
)


def config_flags(hydra: HydraConf) -> list[str]:
    """Return the flags that name the configuration and the directories it is read from.

    Args:
        hydra: Hydra's own configuration of the run: ``HydraConfig.get()``, or the node ``hydra`` of
            its ``hydra.yaml``.
    """
    directories = [
        f"{_FLAGS[source.provider]}={source.path}"
        for source in hydra.runtime.config_sources
        if source.schema == "file" and source.provider in _FLAGS
    ]
    return [f"--config-name={hydra.job.config_name}", *directories]


def hydra_options(hydra: HydraConf) -> list[str]:
    """Return the options about Hydra itself that hold for a run wherever it is started."""
    options = hydra.overrides.hydra
    return [o for o in options if not o.lstrip("+~").startswith(_OF_THE_START)]


def program_of(task: Callable[..., Any]) -> list[str]:
    """Return the start of a command line: the module or the file that the task is from."""
    spec = getattr(sys.modules.get(task.__module__), "__spec__", None)
    if spec is not None:
        return [sys.executable, "-m", spec.name.removesuffix(".__main__")]
    return [sys.executable, os.path.abspath(task.__code__.co_filename)]


def swept() -> dict[str, Any]:
    """Return what sets this job apart from the others of its sweep; nothing in a single run.

    The second job of ``-m schedule=onecycle,step trainer.max_epochs=5`` has
    ``{"schedule": "step"}``.
    """
    hydra = HydraConfig.get()
    same = [*hydra.job.config.override_dirname.exclude_keys, "resume"]
    if hydra.mode != RunMode.MULTIRUN and same == ["resume"]:
        return {}
    overrides = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    return {o.key_or_group: o.value() for o in overrides if o.key_or_group not in same}
