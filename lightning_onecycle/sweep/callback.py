"""The Hydra callback of a sweep: before its first job, and after its last."""

from __future__ import annotations

import atexit
import hashlib
import logging
import math
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from lightning_onecycle.report import read_result, read_table, write_results
from lightning_onecycle.sweep.job_files import CHECKPOINT, LOCK, RESULT, RUN_LOCK, is_over
from lightning_onecycle.sweep.lock import take
from lightning_onecycle.sweep.processes import signals_of_the_end
from lightning_onecycle.sweep.queue import wait_for_earlier_jobs, watch_over_jobs
from lightning_onecycle.sweep.ranks import Launch, is_of_slurm

log = logging.getLogger(__name__)
_PROBE_BYTES = 1_000_000
_LONGEST_NAME = 200  # bytes; file systems have 255


class Sweep(Callback):
    """Check that results can be written, name jobs by what is swept, print the table at the end.

    The table is printed however the sweep ends. (Hydra's own ``on_multirun_end`` is not called when
    a job has failed.) List it in the configuration::

        hydra:
          callbacks:
            sweep:
              _target_: lightning_onecycle.sweep.Sweep
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a directory that cannot be written to, or that an earlier run is in.

        Hydra writes its record before a run begins, so here is decided whether it may.
        """
        directory = Path(config.hydra.run.dir)
        _check_writable("hydra.run.dir", directory)
        is_free = take(directory / RUN_LOCK)
        resume, has_checkpoint = config.get("resume", ""), (directory / CHECKPOINT).is_file()
        has_run = has_checkpoint or is_over(read_result(directory / RESULT))
        if resume is None and has_run:
            sys.exit(
                f"hydra.run.dir must be a new directory, got that of an earlier run, {directory}"
                + (": give resume=DIR to continue it" if has_checkpoint else "")
            )
        if not is_free or (resume and has_run):
            config.hydra.output_subdir = None  # The record stays that of the earlier run.

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a directory that another sweep uses, and watch over the jobs."""
        launch = Launch.of_this_process()
        if launch is not None and launch.processes > 1:
            sys.exit(
                f"a sweep must be started as one process, got {launch.processes} from {launch.by}:"
                " its jobs start ranks of their own"
            )
        root = Path(config.hydra.sweep.dir)
        _check_writable("hydra.sweep.dir", root)
        if not take(root / LOCK):
            sys.exit(f"hydra.sweep.dir must be free, got {root}: another sweep is at work in it")
        (root / LOCK).touch()
        for number in signals_of_the_end():  # between jobs, and with other launchers
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        if is_of_slurm():  # which sends SIGUSR1 to all processes of a job; the run handles it
            signal.signal(signal.SIGUSR1, lambda number, _: None)
        # A cluster's launcher may start its processes in another directory.
        paths = [os.path.abspath(sys.path[0]), os.environ.get("PYTHONPATH")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        _name_by_what_is_swept(config)
        jobs = _say_what_comes(config, root)
        atexit.register(_print_table, root, jobs)
        atexit.register(_ignore_signals)  # runs first; the table takes a second
        if "submitit" in config.hydra.launcher._target_:
            watch_over_jobs()
        if config.hydra.launcher._target_.endswith("SlurmLauncher"):
            wait_for_earlier_jobs(config.hydra.launcher.submitit_folder)


def file_name(text: str) -> str:
    """Return the text as a directory's name, without slashes and what needs quotes.

    Where it is too long, its end is a hash. Hydra's configurations have it as ``${file_name:...}``.

    Example:
        >>> file_name("data.root=/data,note='a b'")
        'data.root=_data,note=_a b_'
    """
    name = re.sub(r"""[/\\'"`$\x00-\x1f]""", "_", text)
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{name.encode()[:_LONGEST_NAME].decode(errors='ignore')}-{digest}"


OmegaConf.register_new_resolver("file_name", file_name, replace=True)


def _check_writable(key: str, directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=directory) as probe:  # ranks may do so at the same time
            probe.write(bytes(_PROBE_BYTES))
    except OSError as error:
        sys.exit(f"{key} must be a directory that can be written to, got {directory}: {error}")


def _name_by_what_is_swept(config: DictConfig) -> None:
    """Leave out of ``hydra.job.override_dirname`` what is the same in all jobs."""
    overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    same = [o.key_or_group for o in overrides if not o.is_sweep_override()]
    is_swept = len(same) < len(overrides) or config.hydra.sweeper.get("params")
    if same and is_swept:
        quoted = ",".join(f"'{key}'" for key in same)
        # Hydra composes each job again, from the sweep's overrides.
        config.hydra.overrides.hydra.append(
            f"hydra.job.config.override_dirname.exclude_keys=[{quoted}]"
        )


def _say_what_comes(config: DictConfig, root: Path) -> int:
    """Print a line before Hydra composes all jobs, which takes some tenths of a second for each.

    Return how many there will be, or 0 where a sweeper decides as it goes.
    """
    if not config.hydra.sweeper._target_.endswith("BasicSweeper"):
        return 0
    swept = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    counts = {
        o.get_key_element(): len(list(o.sweep_string_iterator())) if o.is_discrete_sweep() else 1
        for o in parser.parse_overrides([*swept, *config.hydra.overrides.task])
    }
    jobs = math.prod(counts.values())
    print(f"{jobs:,} job{'s' * (jobs != 1)} in {root}; Hydra composes them first", flush=True)
    return jobs


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _say_what_is_left(root: Path, statuses: list[str], jobs: int) -> None:
    if jobs > len(statuses):
        print(f"{jobs - len(statuses):,} of {jobs:,} jobs have not begun", flush=True)
    if jobs > len(statuses) or {"interrupted", "failed"} & set(statuses):
        option = shlex.quote(f"hydra.sweep.dir={root}")
        print(f"continue: the same command with {option}", flush=True)


def _print_table(root: Path, jobs: int = 0) -> None:
    try:
        table = read_table(root)
    except FileNotFoundError:
        print(f"no job of {root} has begun", flush=True)
        return
    print(f"\n{table.to_markdown()}", flush=True)
    _say_what_is_left(root, [run.status for run in table.runs], jobs)
    try:
        write_results(root, plot=False)
        print(f"results: {root / 'results.md'}", flush=True)
        if any(root.rglob("events.out.tfevents.*")):
            print(f"look: tensorboard --logdir {shlex.quote(str(root))}", flush=True)
        write_results(root)
    except OSError as error:
        print(f"results are not written: {error}", flush=True)
