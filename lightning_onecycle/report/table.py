"""The table of a sweep's runs, one by one and grouped over their seeds."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_onecycle.report.markdown import markdown
from lightning_onecycle.report.runs import Run, read_runs, text

# What `RunRecord` finds out by itself: it does not tell runs apart.
_MEASURED = {
    "total_steps",
    "steps",
    "max_lr",
    "world_size",
    "effective_batch_size",
    "epochs",
    "fit_seconds",
    "steps_per_second",
}


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone.

    Args:
        options: The values of the swept keys, in the order of the table's ``swept``.
        runs: The runs, completed or not.

    Example:
        >>> from lightning_onecycle.report.runs import Run
        >>> runs = [Run(str(n), "completed", metrics={"val/acc": n / 4}) for n in (1, 3)]
        >>> group = Group((), tuple(runs))
        >>> group.mean("val/acc"), round(group.std("val/acc"), 3)
        (0.5, 0.354)
    """

    options: tuple[Any, ...]
    runs: tuple[Run, ...]

    @property
    def completed(self) -> tuple[Run, ...]:
        """The completed runs; the others are in no mean."""
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
    """The table of a sweep's runs.

    Args:
        directory: Where the runs are.
        runs: A run for each row of ``results.csv``.
        swept: The keys whose values differ between the runs, the seed apart.
        groups: A group for each row of ``results.md``, best first.
        metric: What the groups are ordered by.
        lowest: Whether a lower value of it is better. Of a loss it always is.
    """

    directory: Path
    runs: tuple[Run, ...]
    swept: tuple[str, ...]
    groups: tuple[Group, ...]
    metric: str = "val/acc"
    lowest: bool = False

    def to_csv(self) -> str:
        """Return a row for each run: job, swept keys, seed, facts, metrics, status, reason."""
        rows = [
            {
                **run.metrics,
                **run.facts,
                **{key: run.option(key) for key in self.swept},
                **{"job": run.job, "seed": run.seed, "status": run.status, "reason": run.reason},
            }
            for run in self.runs
        ]
        facts = (name for run in self.runs for name in run.facts)
        metrics = (name for run in self.runs for name in run.metrics)
        ends = ("status", "reason")
        names = dict.fromkeys(("job", *self.swept, "seed", *facts, *metrics))
        columns = [name for name in names if name not in ends] + [*ends]
        file = io.StringIO()
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: text(value) for name, value in row.items()} for row in rows)
        return file.getvalue()

    def to_markdown(self) -> str:
        """Return a row for each group, with means and standard deviations over the seeds."""
        return markdown(self)


def read_table(directory: str | Path, *, metric: str = "val/acc", lowest: bool = False) -> Table:
    """Read the runs at or below a directory and group them over their seeds.

    Args:
        directory: A sweep's, a single run's, or one that holds some of these.
        metric: What the groups are ordered by.
        lowest: Whether a lower value of it is better. Of a loss it always is.

    Returns:
        The table.

    Raises:
        FileNotFoundError: If there is no such directory, or no run in it.
        ValueError: If no run has the metric.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     _ = Path(directory, "result.json").write_text('{"status": "completed"}')
        ...     print(read_table(directory).to_markdown().splitlines()[0])
        1 job: 1 completed.
    """
    runs = read_runs(directory)
    known = dict.fromkeys(name for run in runs for name in run.metrics)
    if known and metric not in (*known, "val/acc"):
        raise ValueError(f"metric must be one of {', '.join(map(repr, known))}, got {metric!r}")
    lowest = lowest or "loss" in metric
    swept = tuple(_swept(runs))
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(text(run.option(key)) for key in swept), []).append(run)
    ordered = sorted(
        (
            Group(tuple(members[0].option(key) for key in swept), tuple(members))
            for members in groups.values()
        ),
        key=lambda group: _rank(group, metric, lowest),
    )
    return Table(Path(directory), runs, swept, tuple(ordered), metric, lowest)


def _swept(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the keys and config groups whose values differ, the seed apart."""
    runs = [run for run in runs if run.configured] or runs
    keys = dict.fromkeys(key for run in runs for key in run.overrides)
    keys |= dict.fromkeys(key for run in runs for key in run.choices)
    if not keys:  # no command line: what the runs were told about themselves
        keys = dict.fromkeys(key for run in runs for key in run.facts if key not in _MEASURED)
    for key in keys:
        if key != "seed" and len({text(run.option(key)) for run in runs}) > 1:
            yield key


def _rank(group: Group, metric: str, lowest: bool) -> tuple[bool, bool, float]:
    mean = group.mean(metric)
    value = 0.0 if mean is None else mean if lowest else -mean
    return not group.completed, mean is None, value
