"""A sweep's table as Markdown, for a terminal and for a page."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_onecycle.report.runs import Run, text

if TYPE_CHECKING:
    from lightning_onecycle.report.table import Group, Table

_LONGEST_REASON = 240  # characters
_METRICS = ("val/acc", "test/acc", "val/loss", "lr_find/max_lr")
_FACTS = {
    "max_lr": "peak LR",
    "weight_decay": "weight decay found",
    "momentum": "momentum found",
    "effective_batch_size": "effective batch size",
    "world_size": "world size",
    "steps": "steps",
}
# They count what a run has done, so they are of completed runs alone.
_DONE = {"steps"}


class Column(NamedTuple):
    """A heading, a cell for each group, and a sentence for the case that all cells are the same."""

    heading: str
    cells: list[str]
    once: bool = False


def markdown(table: Table) -> str:
    """Return a table of means over the seeds, best first, and what did not complete."""
    columns = [column for column in _columns(table) if any(column.cells)]
    shown = [column for column in columns if not column.once or _differs(column, table.groups)]
    parts = [_count(table.runs), _same(table, [c for c in columns if c not in shown])]
    parts.append(_grid(shown))
    parts.append(_order(table))
    if any(_repeated_seed(group) for group in table.groups):
        parts.append(
            "Runs in one row share a seed: their spread is not one over seeds, or a row has"
            " runs that differ by more than what was swept."
        )
    for heading, runs in (
        ("Not completed", [run for run in table.runs if not run.completed]),
        ("Completed, but", [run for run in table.runs if run.completed and run.reason]),
    ):
        if runs:
            parts.append(f"{heading}:\n\n" + "\n".join(map(_story, runs)))
    without = [f"- `{run.job}`: {', '.join(names)}" for run, names in _without_values(table)]
    if without:
        parts.append("In no mean, because not finite or not known:\n\n" + "\n".join(without))
    parts.append(f"This table again: `{command(table)}`")
    return "\n\n".join(part for part in parts if part) + "\n"


def percent(metric: str) -> bool:
    """Return whether a metric is an accuracy in [0, 1], which is shown in percent."""
    return re.search(r"(^|[/_])acc", metric) is not None


def labels(values: Sequence[Any]) -> list[str]:
    """Return each value with the fewest digits that distinguish them, at least four.

    Example:
        >>> labels([0.1, 0.0123456789, "sgd"]), labels([0.123451, 0.123452])
        (['0.1', '0.01235', 'sgd'], ['0.123451', '0.123452'])
    """
    different = len(set(map(text, values)))
    for digits in range(4, 17):
        short = [f"{v:.{digits}g}" if isinstance(v, float) else text(v) for v in values]
        if len(set(short)) == different:
            return short
    return [text(value) for value in values]


def options(table: Table) -> list[list[str]]:
    """Return for each swept key its value in each group."""
    columns = zip(*(group.options for group in table.groups), strict=True)
    return [labels(column) for column in columns]


def mean_and_std(group: Group, metric: str) -> str:
    """Return mean ± sample standard deviation, or less if there are too few completed runs.

    Where not all of them have a value, it says how many have.
    """
    mean, std = group.mean(metric), group.std(metric)
    if mean is None:
        return ""
    scale, digits = 1.0, ".4f" if mean == 0 or 1e-3 <= abs(mean) < 1e6 else ".2e"
    if percent(metric):
        scale, digits = 100.0, ".2f"
    result = " ± ".join(f"{scale * value:{digits}}" for value in (mean, std) if value is not None)
    n = len(group.values(metric))
    return result if n == len(group.completed) else f"{result} (n={n})"


def failures(runs: Sequence[Run]) -> str:
    """Return how many runs did not complete, by their status."""
    counts = Counter(run.status for run in runs if not run.completed)
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def command(table: Table) -> str:
    """Return the command that writes the table again."""
    directory = table.directory.resolve()
    if directory.is_relative_to(Path.cwd()):
        directory = directory.relative_to(Path.cwd())
    asked = [] if table.metric == "val/acc" else ["--metric", table.metric]
    asked += ["--lowest"] if table.lowest else []
    return shlex.join(["python", "-m", "lightning_onecycle.report", str(directory), *asked])


def _columns(table: Table) -> list[Column]:
    groups = table.groups
    columns = [Column(key, cells) for key, cells in zip(table.swept, options(table), strict=True)]
    columns.append(Column("n", [str(len(group.completed)) for group in groups]))
    for metric in _shown_metrics(table):
        heading = f"{metric} %" if percent(metric) else metric
        columns.append(Column(heading, [mean_and_std(group, metric) for group in groups]))
    columns += [
        Column(heading, [_fact(group, name) for group in groups], once=True)
        for name, heading in _FACTS.items()
        if not (name == "max_lr" and "optimizer.lr" in table.swept)
    ]
    columns.append(Column("steps/s", [_speed(group) for group in groups]))
    columns.append(Column("not completed", [failures(group.runs) for group in groups]))
    return columns


def _shown_metrics(table: Table) -> list[str]:
    return list(dict.fromkeys((table.metric, *_METRICS)))


def _differs(column: Column, groups: Sequence[Group]) -> bool:
    """Return whether the cells differ, apart from empty cells of groups without a completed run."""
    cells = zip(column.cells, groups, strict=True)
    return len({cell for cell, group in cells if cell or group.completed}) > 1


def _fact(group: Group, name: str) -> str:
    runs = group.completed if name in _DONE else group.runs
    values = [value for run in runs if (value := run.facts.get(name)) is not None]
    if not all(isinstance(value, (int, float)) for value in values):
        return " or ".join(sorted(set(map(text, values))))
    numbers = sorted(set(values))
    ends = numbers if len(numbers) < 2 else (numbers[0], numbers[-1])
    return " to ".join(f"{v:,}" if isinstance(v, int) else f"{v:.4g}" for v in ends)


def _speed(group: Group) -> str:
    rates = [run.facts.get("steps_per_second") for run in group.completed]
    known = [rate for rate in rates if isinstance(rate, (int, float))]
    return f"{sum(known) / len(known):,.4g}" if known else ""


def _count(runs: Sequence[Run]) -> str:
    jobs = f"{len(runs)} job{'s' * (len(runs) != 1)}"
    done = sum(run.completed for run in runs)
    missing = f", {len(runs) - done} not ({failures(runs)})" if done < len(runs) else ""
    return f"{jobs}: {done} completed{missing}."


def _same(table: Table, columns: Sequence[Column]) -> str:
    """Return a sentence with the options and values that all runs have in common."""
    first = next((run for run in table.runs if run.configured), table.runs[0])
    left_out = (*table.swept, "seed", "logger")
    keys = [key for key in (*first.choices, *first.overrides) if key not in left_out]
    chosen = {key: text(first.option(key)) for key in keys}
    said = [f"{key}={v}" for key, v in chosen.items() if v not in ("", "default", "off")]
    said += [f"{c.heading} {next(filter(None, c.cells))}" for c in columns]
    return f"The same in all: {', '.join(said)}." if said else ""


def _order(table: Table) -> str:
    """Return a sentence about the numbers and their order."""
    known = dict.fromkeys(name for run in table.runs if run.completed for name in run.metrics)
    if not known:
        return ""
    if not any(metric in known for metric in (table.metric, *_METRICS)):
        return (
            f"No completed run has {table.metric}. The runs have {', '.join(known)}:"
            " `python -m lightning_onecycle.report DIRECTORY --metric NAME` shows one."
        )
    better = "lowest" if table.lowest else "highest"
    first = f"; {better} {table.metric} first" if table.metric in known else ""
    return f"Means over the completed runs ± sample standard deviation{first}."


def _without_values(table: Table) -> Iterator[tuple[Run, list[str]]]:
    """Yield each completed run with those of its metrics that are shown and have no value."""
    for run in table.runs:
        names = [m for m in _shown_metrics(table) if run.metrics.get(m, 0.0) is None]
        if run.completed and names:
            yield run, names


def _repeated_seed(group: Group) -> bool:
    seeds = [text(run.seed) for run in group.completed]
    return len(set(seeds)) < len(seeds)


def _story(run: Run) -> str:
    """Return one line: how a run ended, and why."""
    steps, total = run.facts.get("steps"), run.facts.get("total_steps")
    end = f"{run.status} after {steps} of {total} steps" if steps and total else run.status
    reason = (run.reason or "").removeprefix(f"{run.status.capitalize()}: ")
    reason = textwrap.shorten(reason, _LONGEST_REASON, placeholder=" ...")
    return f"- `{run.job}`: {end}" + (f": {reason}" if reason else "")


def _grid(columns: Sequence[Column]) -> str:
    lists = [[cell.replace("|", "\\|") for cell in (c.heading, *c.cells)] for c in columns]
    widths = [max(map(len, cells)) for cells in lists]
    rows = zip(*lists, strict=True)
    lines = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
