"""Results of runs on disk, and the table of a sweep's runs."""

from typing import TYPE_CHECKING

from lightning_onecycle._lazy import lazy

if TYPE_CHECKING:
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

_HOMES = {
    "divergence": ("Diverged", "StopOnDivergence"),
    "record": ("RunRecord", "Status", "read_result", "record_failure", "write_result"),
    "table": ("Table", "read_table"),
    "write": ("write_results",),
}

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

__getattr__, __dir__ = lazy(__name__, _HOMES)
