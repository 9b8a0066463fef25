"""A search for the peak: a range test, and short trainings after it."""

from lightning_onecycle.search.probe import Probe
from lightning_onecycle.search.result import Search

__all__ = ["Probe", "Search"]
