"""Write the table of a sweep's runs, and its picture."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from filelock import FileLock

from lightning_onecycle._files import write_whole, write_whole_bytes
from lightning_onecycle.report.comparison_plot import plot_comparison
from lightning_onecycle.report.runs import read_runs
from lightning_onecycle.report.table import Table, read_table

_LOCK = ".results.lock"


def write_results(
    directory: str | Path, *, metric: str = "val/acc", lowest: bool = False, plot: bool = True
) -> Table:
    """Write ``results.csv``, ``results.md`` and ``results.png`` of the runs below a directory.

    Each is replaced at once, never half; processes that do this at the same time take turns.

    Args:
        directory: Of a sweep, of a single run, or above some of these.
        metric: What the groups are ordered by, and what is drawn.
        lowest: Whether a lower value of it is better. Of a loss it always is.
        plot: Whether to draw the picture, which takes seconds; the rest takes milliseconds.

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
        ...     _ = write_results(directory)
        ...     sorted(path.name for path in Path(directory).glob("results.*"))
        ['results.csv', 'results.md']
    """
    directory = Path(directory)
    read_runs(directory)  # no lock is left where there is nothing to write
    with FileLock(directory / _LOCK):
        table = read_table(directory, metric=metric, lowest=lowest)
        write_whole(directory / "results.csv", table.to_csv())
        write_whole(directory / "results.md", table.to_markdown())
        if plot:
            try:
                picture = _picture(table)
            except ImportError as error:
                warnings.warn(f"{directory / 'results.png'} is not drawn: {error}", stacklevel=2)
            else:
                if picture is not None:
                    write_whole_bytes(directory / "results.png", picture)
    return table


def _picture(table: Table) -> bytes | None:
    figure = plot_comparison(table)
    if figure is None:
        return None
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
