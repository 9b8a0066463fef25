"""Measurements of a run, each a pure function and below it a callback."""

from lightning_onecycle.measure.generalization import GeneralizationGap

__all__ = ["GeneralizationGap"]
