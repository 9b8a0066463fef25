"""The table of a sweep: a row for each run, and a row for each group of runs that differ by seed."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from lightning_onecycle.report.runs import Run, read_runs

_LOCK = ".results.lock"


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone.

    Args:
        options: The values of the swept keys, in the order of `Table.swept`.
        runs: The runs, completed or not.

    Example:
        >>> runs = [Run(str(n), "completed", metrics={"val/acc": n / 4}) for n in (1, 3)]
        >>> group = Group((), tuple(runs))
        >>> group.mean("val/acc"), round(group.std("val/acc"), 3)
        (0.5, 0.354)
    """

    options: tuple[Any, ...]
    runs: tuple[Run, ...]

    @property
    def completed(self) -> tuple[Run, ...]:
        """The runs that came to their end; the others count for no mean."""
        return tuple(run for run in self.runs if run.completed)

    def values(self, metric: str) -> list[float]:
        """Return the metric of each completed run that has one."""
        values = (run.metrics.get(metric) for run in self.completed)
        return [value for value in values if value is not None]

    def mean(self, metric: str) -> float | None:
        """Return the mean over the completed runs, or None if none has the metric."""
        values = self.values(metric)
        return statistics.fmean(values) if values else None

    def std(self, metric: str) -> float | None:
        """Return the sample standard deviation (n - 1), or None for fewer than two values."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Table:
    """What the runs of a sweep came to.

    Args:
        directory: Where the runs are.
        runs: A run for each row of ``results.csv``.
        swept: The keys whose values differ between the runs, the seed apart.
        groups: A group for each row of ``results.md``, best first.
        metric: What the groups are ordered by.
        lowest: Whether a lower value of it is better.
    """

    directory: Path
    runs: tuple[Run, ...]
    swept: tuple[str, ...]
    groups: tuple[Group, ...]
    metric: str = "val/acc"
    lowest: bool = False

    def to_csv(self) -> str:
        """Return a row for each run: swept keys, facts, metrics, status, reason."""
        raise NotImplementedError

    def to_markdown(self) -> str:
        """Return a row for each group, with means and standard deviations over the seeds."""
        raise NotImplementedError


def collect(directory: str | Path, *, metric: str = "val/acc", lowest: bool = False) -> Table:
    """Read the runs at or below a directory and group them over their seeds.

    Args:
        directory: A sweep's, a single run's, or one that holds some of these.
        metric: What the groups are ordered by.
        lowest: Whether a lower value of it is better.

    Returns:
        The table.

    Raises:
        FileNotFoundError: If there is no such directory, or no run in it.
    """
    runs = read_runs(directory)
    return Table(Path(directory), runs, (), (), metric, lowest)


def write_results(
    directory: str | Path, *, metric: str = "val/acc", lowest: bool = False, plot: bool = True
) -> Table:
    """Write ``results.csv``, ``results.md`` and ``results.png`` of the runs below a directory.

    Each is replaced at once, never half; processes that do this at the same time take turns.

    Args:
        directory: A sweep's, a single run's, or one that holds some of these.
        metric: What the groups are ordered by, and what is drawn.
        lowest: Whether a lower value of it is better.
        plot: Whether to draw the picture, which takes seconds; the rest takes milliseconds.

    Returns:
        The table.

    Raises:
        FileNotFoundError: If there is no such directory, or no run in it.
    """
    directory = Path(directory)
    collect(directory)  # before a lock is left where there is nothing to lock
    with FileLock(directory / _LOCK):
        table = collect(directory, metric=metric, lowest=lowest)
    return table
