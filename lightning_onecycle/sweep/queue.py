"""The jobs of a sweep that submitit submits: their names, and how each has ended."""

from __future__ import annotations

import atexit
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from lightning_onecycle.sweep.job_files import JobFailed

_SECONDS_BETWEEN_QUESTIONS = 10.0
_SECONDS_FOR_FILES = 5.0  # until a result is seen on another machine


def watch_over_jobs() -> None:
    """Have Hydra's submitit launchers name what they submit, and wait for all of it.

    By themselves they print nothing, and give up at the first job that ends without a result,
    although others run. Without SLURM's accounting they wait for a cancelled job for ever.
    """
    from submitit import AutoExecutor
    from submitit.core.utils import FailedJobError

    submit = AutoExecutor.map_array

    def map_array(self: Any, function: Any, *arguments: Iterable[Any]) -> list[_Watched]:
        """Submit the jobs, print the number and the log of each, and watch over them."""
        given = [list(values) for values in arguments]
        try:
            jobs = submit(self, function, *given)
        except FailedJobError as error:
            sys.exit(
                _refusal("; ".join(str(error).strip().splitlines()), self._executor.parameters)
            )
        same = set.intersection(*(set(options) for options in given[0])) if jobs[1:] else set()
        watched = [
            _Watched(job, tuple(option for option in options if option not in same))
            for job, options in zip(jobs, given[0], strict=True)
        ]
        for job in watched:
            print(f"job {job.id}: {' '.join(job.options)}; log: {job.log}", flush=True)
        atexit.register(_say_what_is_left, watched)
        return watched

    AutoExecutor.map_array = map_array  # type: ignore[method-assign, assignment]


def _refusal(message: str, parameters: Mapping[str, Any]) -> str:
    """Return a line on what SLURM has refused to submit."""
    message = "; ".join(message.strip().splitlines())
    gpus = parameters.get("gpus_per_node")
    if gpus and re.search(r"\(gres\)|node configuration is not available", message):
        return (
            f"hydra.launcher.gpus_per_node must be what the nodes have, got {gpus}: on nodes"
            " without GPUs give hydra.launcher.gpus_per_node=null trainer.accelerator=cpu"
            f" ({message})"
        )
    return f"hydra.launcher must be what SLURM accepts: {message}"


def wait_for_earlier_jobs(submitit_folder: str) -> None:
    """Wait for the SLURM jobs of a sweep whose own process has ended before them.

    Args:
        submitit_folder: Where submitit keeps each job's files, with its ``%j`` for the job.
    """
    folder = Path(submitit_folder.partition("%")[0])
    ids = [path.name for path in folder.glob("*") if re.fullmatch(r"\d+(_\d+)?", path.name)]
    left = in_the_queue(ids)
    if left:
        print(
            f"jobs of an earlier start are still in the queue: {', '.join(sorted(left))}; waiting"
            f" for their end ({_cancel(left)} ends them)",
            flush=True,
        )
    while left:
        time.sleep(_SECONDS_BETWEEN_QUESTIONS)
        left = in_the_queue(ids)


def in_the_queue(ids: Sequence[str]) -> set[str]:
    """Return which of these SLURM jobs wait or run; all of them where SLURM does not answer."""
    if not ids:
        return set()
    jobs = ",".join({name.partition("_")[0] for name in ids})
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={jobs}"]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode == 0:
        return set(answer.stdout.split()) & set(ids)
    return set() if "Invalid job id" in answer.stderr else set(ids)


@dataclass(frozen=True)
class _Watched:
    """A submitted job, as Hydra's launcher looks at it, with what sets it apart from the others."""

    job: Any
    options: tuple[str, ...]

    @property
    def id(self) -> str:
        """Its number in SLURM."""
        return str(self.job.job_id)

    @property
    def log(self) -> Path:
        """The file with the output of the first rank."""
        return Path(self._first.paths.stdout)

    @property
    def _first(self) -> Any:
        return self.job.task(0)  # the first rank

    @property
    def has_result(self) -> bool:
        """Whether the first rank has written its result."""
        return bool(self._first.paths.result_pickle.exists())

    @property
    def is_alive(self) -> bool:
        """Whether the job waits or runs."""
        from submitit import SlurmJob

        if isinstance(self.job, SlurmJob):
            return bool(in_the_queue([self.id]))
        return not self.job.done()

    def results(self) -> list[JobReturn]:
        """Wait for the job's end, and return the result of its first rank."""
        asked = time.monotonic()
        while not self.has_result:
            time.sleep(1.0)
            if time.monotonic() - asked > _SECONDS_BETWEEN_QUESTIONS:
                asked = time.monotonic()
                if not self.is_alive:
                    time.sleep(_SECONDS_FOR_FILES)
                    break
        try:
            if self.has_result:
                return list(self._first.results())
            reason = "it was cancelled or killed, or its node has failed"
        except Exception as error:  # of submitit: it was put back into the queue too often
            reason = str(error)
        message = f"job {self.id} has left no result: {reason}; log: {self.log}"
        print(message, flush=True)
        failed = JobReturn(overrides=self.options, status=JobStatus.FAILED)
        failed.return_value = JobFailed(message)
        return [failed]


def _say_what_is_left(jobs: Sequence[_Watched]) -> None:
    left = [job.id for job in jobs if not job.has_result and job.is_alive]
    if left:
        print(
            f"left in the queue, where they continue: {', '.join(left)}. {_cancel(left)} ends them;"
            " the same command again waits for them.",
            flush=True,
        )


def _cancel(ids: Iterable[str]) -> str:
    return f"scancel {' '.join(sorted({name.partition('_')[0] for name in ids}))}"
