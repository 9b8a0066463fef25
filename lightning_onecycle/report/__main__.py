"""``python -m lightning_onecycle.report DIR``: prints and writes the table of a sweep again."""

from __future__ import annotations

import argparse
import io
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_onecycle.report.table import read_table
from lightning_onecycle.report.write import write_results

_PROGRAM = "python -m lightning_onecycle.report"
_FILES = ("results.csv", "results.md", "results.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of a directory's runs, and write ``results.csv``, ``.md`` and ``.png``."""
    parser = argparse.ArgumentParser(_PROGRAM, description=main.__doc__)
    parser.add_argument("directory", help="a sweep's, a single run's, or one that holds some")
    parser.add_argument("--metric", default="val/acc", help="what to order by and to draw")
    parser.add_argument("--lowest", action="store_true", help="lower is better, as for a loss")
    options = vars(parser.parse_args(arguments))
    if isinstance(sys.stdout, io.TextIOWrapper):  # "±" is not in every terminal's alphabet
        sys.stdout.reconfigure(errors="replace")
    try:
        table = read_table(**options)
    except (OSError, ValueError) as error:
        sys.exit(f"{_PROGRAM}: {error}")
    print(table.to_markdown())
    try:
        write_results(**options)
    except OSError as error:  # the table is what was asked for
        print("results are not written:", error)
        return
    root = Path(options["directory"])
    if not any(run.events for run in table.runs):
        print("no results.png: no run has event files of TensorBoard, from which it is drawn")
    print("results:", *filter(Path.is_file, map(root.joinpath, _FILES)))


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # of `| head`: no traceback
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main()
