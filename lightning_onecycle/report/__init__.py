"""What runs leave on disk."""

from lightning_onecycle.report.record import Diverged, RunRecord

__all__ = ["Diverged", "RunRecord"]
