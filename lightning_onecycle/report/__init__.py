"""Results of runs on disk, and the table of a sweep's runs."""

from lightning_onecycle.report.divergence import Diverged, StopOnDivergence
from lightning_onecycle.report.record import (
    RunRecord,
    Status,
    read_result,
    record_failure,
    write_result,
)
from lightning_onecycle.report.table import Table, read_table
from lightning_onecycle.report.write import write_results

__all__ = [
    "Diverged",
    "RunRecord",
    "Status",
    "StopOnDivergence",
    "Table",
    "read_result",
    "read_table",
    "record_failure",
    "write_result",
    "write_results",
]
