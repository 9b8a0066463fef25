"""Flags and options that compose a run's configuration again."""

from __future__ import annotations

from hydra.conf import HydraConf

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
