"""What runs leave on disk."""

from lightning_onecycle.report.divergence import Diverged, StopOnDivergence
from lightning_onecycle.report.record import RunRecord

__all__ = ["Diverged", "RunRecord", "StopOnDivergence"]
