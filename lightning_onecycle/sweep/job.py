"""One job of a sweep: whether it has to run, where it runs, and its result."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lightning_onecycle.report import (
    Status,
    read_result,
    record_failure,
    write_result,
    write_results,
)
from lightning_onecycle.report.record import STARTING
from lightning_onecycle.sweep import job_files
from lightning_onecycle.sweep.command_line import config_flags, hydra_options, program_of
from lightning_onecycle.sweep.job_files import CHECKPOINT, GIVEN, RESULT, JobFailed
from lightning_onecycle.sweep.lock import alone
from lightning_onecycle.sweep.processes import (
    can_fork,
    fit_to_be_forked,
    is_on_one_device,
    run_as_a_command,
    run_in_a_fork,
)
from lightning_onecycle.sweep.ranks import rank_of_many, take_rank

log = logging.getLogger(__name__)
Task = Callable[[DictConfig], Any]

_LOCK = ".job.lock"
_METRIC = "val/acc"
_SECONDS_BETWEEN_PICTURES = 30.0


def job(*, share: Task | None = None) -> Callable[[Task], Task]:
    """Let the function that ``hydra.main`` runs be a job of a sweep.

    A job that trains on one device runs in a fork of the sweep's process. Any other job runs as a
    command of its own: Lightning starts further ranks by repeating the command line, and that of a
    sweep would start the whole sweep again. If the launcher of a cluster has started a process for
    each job, or for each rank, the job runs there.

    A job's directory has ``result.json``, as `lightning_onecycle.RunRecord` writes it, and
    ``checkpoints/last.ckpt``. To continue from the checkpoint, the configuration needs a key
    ``resume``, which is set to the directory.

    Args:
        share: Called with the configuration of each job before the fork, to fill caches for all
            forks: data that are read once, modules that are imported once. Its errors are ignored,
            because the job meets them again.

    Returns:
        A decorator. In a sweep the decorated function returns the metric ``val/acc`` of
        ``result.json`` for the sweeper, or None if the job has diverged. It raises `JobFailed` if
        the job has failed.
    """

    def decorate(task: Task) -> Task:
        """Wrap the task."""
        program = program_of(task)  # now: a launcher may take the task to another process

        @functools.wraps(task)
        def run(cfg: DictConfig) -> Any:
            """Run a job of a sweep in its own process, and a single run here."""
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                with _failures_told(Path(HydraConfig.get().runtime.output_dir)):
                    return task(cfg)
            return Job.now(program).run(task, cfg, share)

        return run

    return decorate


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        directory: Its own.
        root: The sweep's.
        overrides: What it was given, on the command line or by the sweeper.
        program: How a command line starts that runs the same program.
    """

    directory: Path
    root: Path
    overrides: tuple[str, ...]
    program: tuple[str, ...] = ()

    @classmethod
    def now(cls, program: Sequence[str] = ()) -> Job:
        """Return the job that Hydra is running."""
        hydra = HydraConfig.get()
        root = Path(os.path.abspath(Path(hydra.runtime.cwd, hydra.sweep.dir)))
        directory, overrides = Path(hydra.runtime.output_dir), tuple(hydra.overrides.task)
        return cls(directory, root, overrides, tuple(program))

    @property
    def name(self) -> str:
        """The name of its directory below that of the sweep."""
        return str(self.directory.relative_to(self.root))

    @property
    def result(self) -> dict[str, Any]:
        """The content of its ``result.json``, or an empty dict."""
        return read_result(self.directory / RESULT)

    @property
    def is_over(self) -> bool:
        """Whether it has come to an end that another run would only repeat."""
        return job_files.is_over(self.result)

    @property
    def can_go_on(self) -> bool:
        """Whether it has a checkpoint."""
        return (self.directory / CHECKPOINT).is_file()

    def run(self, task: Task, cfg: DictConfig, share: Task | None = None) -> float | None:
        """Run the job unless it is over; return its metric.

        Args:
            task: What `job` has decorated.
            cfg: The job's configuration.
            share: See there.

        Raises:
            JobFailed: If it has not come to its end.
        """
        try:
            rank = rank_of_many(cfg)
        except ValueError as error:
            self._record_failure(str(error))
            raise JobFailed(f"{self.name}: {error}") from None
        if rank is not None:
            return self._run_as_a_rank(rank, task, cfg)
        with self._alone():
            job_files.take_over(self.directory, self.root, self.overrides)
            job_files.refuse_other_options(self.directory, self.name, self.overrides)
            if (self.is_over or self.can_go_on) and (now := job_files.changes(self.directory, cfg)):
                log.warning(f"{self.name} began with another configuration: {now}")
            if self.is_over:
                log.info(f"{self.name}: {self.result['status']} before, not run again")
                return self.outcome()
            try:
                self._prepare(cfg)
                self._run_in_a_process(task, cfg, share)
            finally:
                self._write_table(plot=_is_due(self.root / "results.png"))
            return self.outcome()

    def outcome(self) -> float | None:
        """Return the metric that it has left.

        Raises:
            JobFailed: If it has neither completed nor diverged.
        """
        result = self.result
        if result.get("status") == "diverged":
            return None  # Optuna's sweeper does not accept NaN
        if not self.is_over:
            reason = result.get("reason") or f"it has left no {RESULT} that says how it ended"
            raise JobFailed(f"{self.name}: {reason}")
        value = result.get("metrics", {}).get(_METRIC)
        return None if value is None else float(value)

    def command(self, *, goes_on: bool = False) -> list[str]:
        """Return the command line of the job as a single run.

        Args:
            goes_on: Whether the run continues from the job's checkpoint.
        """
        hydra = HydraConfig.get()
        directory = "'" + str(self.directory).replace("\\", "\\\\").replace("'", "\\'") + "'"
        given = [f"resume={directory}"] if goes_on else list(self.overrides)
        # Hydra's record of the job is in the directory already, and says that it is of a sweep.
        where = ["hydra.mode=RUN", f"hydra.run.dir={directory}", "hydra.output_subdir=null"]
        own = hydra_options(hydra)
        return [*self.program, *config_flags(hydra), *given, *own, *where]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(alone(self.directory / _LOCK))
            except Timeout:
                raise JobFailed(f"{self.name}: another process is at work on it") from None
            yield

    def _prepare(self, cfg: DictConfig, rank: int | None = None) -> None:
        """Continue from its checkpoint, or start again without one."""
        if self.can_go_on:
            log.info(f"{self.name}: continues from its checkpoint")
            if "resume" in cfg:
                cfg.resume = str(self.directory)
        if rank:
            return  # the first rank writes the files
        job_files.remember(self.directory, self.overrides, cfg)
        if not self.can_go_on:
            job_files.start_anew(self.directory)
        elif self.result:  # in case it ends before it can write so itself
            write_result(self.directory / RESULT, self.result | {"reason": STARTING})

    def _run_as_a_rank(self, rank: int, task: Task, cfg: DictConfig) -> float | None:
        take_rank()
        with self._alone():
            job_files.refuse_other_options(self.directory, self.name, self.overrides)
            if not self.is_over:
                self._prepare(cfg, rank)
                try:
                    self._run_here(task, cfg)
                finally:
                    if rank == 0:
                        self._write_table()
        return self.outcome()

    def _write_table(self, plot: bool = True) -> None:
        try:
            write_results(self.root, plot=plot)
        except OSError as error:  # a full disk, which does not change the job's own result
            log.error(f"the table of {self.root} is not written: {error}")

    def _run_in_a_process(self, task: Task, cfg: DictConfig, share: Task | None) -> None:
        if is_on_one_device(cfg) and "SUBMITIT_EXECUTOR" in os.environ:
            self._run_here(task, cfg)  # it has a process, and that is told of a preemption
            return
        if is_on_one_device(cfg) and can_fork():
            if share is not None:
                with fit_to_be_forked(), contextlib.suppress(Exception):
                    share(cfg)
            end = run_in_a_fork(functools.partial(self._run_here, task, cfg, exits=True))
        else:
            end = run_as_a_command(self.command(goes_on=bool(cfg.get("resume"))))
        if end.signal is not None:
            self._record_failure(signal.Signals(end.signal).name, status="interrupted")
            sys.exit(128 + end.signal)
        if end.code < 0:
            self._record_failure(f"killed by {signal.Signals(-end.code).name}")
        elif end.code:
            self._record_failure(f"exit code {end.code}")

    def _run_here(self, task: Task, cfg: DictConfig, exits: bool = False) -> None:
        try:
            task(cfg)
        except Exception as error:
            log.error("".join(traceback.format_exception(error)).rstrip())
            self._record_failure(f"{type(error).__name__}: {error}")
            if exits:
                sys.exit(1)
        except SystemExit as error:
            # Other codes than those of a program are a launcher's, which puts the job back in line.
            if exits or error.code not in (None, 0, 1):
                raise
            if error.code:
                self._record_failure(f"exit code {error.code}")

    def _record_failure(self, reason: str, status: Status = "failed") -> None:
        options = list(self.overrides)
        try:
            record_failure(self.directory / RESULT, reason, status=status, overrides=options)
        except OSError as error:  # a full disk
            log.error(f"{self.name}: {reason}, which is not written: {error}")


@contextlib.contextmanager
def _failures_told(directory: Path) -> Iterator[None]:
    """Record why a job that is a single run has failed; its sweep cannot know."""
    try:
        yield
    except Exception as error:
        if (directory / GIVEN).is_file():
            given = read_result(directory / GIVEN)["overrides"]
            reason = f"{type(error).__name__}: {error}"
            record_failure(directory / RESULT, reason, overrides=given)
        raise


def _is_due(picture: Path) -> bool:
    """Return whether it is worth the time to draw it again, with jobs still to come."""
    if not picture.is_file():
        return True
    return time.time() - picture.stat().st_mtime > _SECONDS_BETWEEN_PICTURES
