"""What runs leave on disk, and what a sweep's runs come to."""

from lightning_onecycle.report.divergence import Diverged, StopOnDivergence
from lightning_onecycle.report.record import (
    RunRecord,
    Status,
    read_result,
    record_failure,
    write_result,
)
from lightning_onecycle.report.table import Table, collect, write_results

__all__ = [
    "Diverged",
    "RunRecord",
    "Status",
    "StopOnDivergence",
    "Table",
    "collect",
    "read_result",
    "record_failure",
    "write_result",
    "write_results",
]
