"""A search for the peak: a range test, and short trainings after it."""

from typing import TYPE_CHECKING

from lightning_onecycle._lazy import lazy

if TYPE_CHECKING:
    from lightning_onecycle.search.probe import Probe
    from lightning_onecycle.search.result import Search

_HOMES = {
    "probe": ("Probe",),
    "result": ("Search",),
}

__all__ = ["Probe", "Search"]

__getattr__, __dir__ = lazy(__name__, _HOMES)
