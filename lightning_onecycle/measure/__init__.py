"""Measurements of a run, each a pure function and below it a callback."""

from typing import TYPE_CHECKING

from lightning_onecycle._lazy import lazy

if TYPE_CHECKING:
    from lightning_onecycle.measure.generalization import (
        GeneralizationGap,
        generalization_gap,
        onset,
    )
    from lightning_onecycle.measure.landscape import box_sharpness, top_eigenvalue
    from lightning_onecycle.measure.noise_scale import (
        GradientNoiseScale,
        NoiseScale,
        noise_factor,
        simple_noise_scale,
    )
    from lightning_onecycle.measure.sharpness import Sharpness

_HOMES = {
    "generalization": (
        "GeneralizationGap",
        "generalization_gap",
        "onset",
    ),
    "landscape": (
        "box_sharpness",
        "top_eigenvalue",
    ),
    "noise_scale": (
        "GradientNoiseScale",
        "NoiseScale",
        "noise_factor",
        "simple_noise_scale",
    ),
    "sharpness": ("Sharpness",),
}

__all__ = [
    "GeneralizationGap",
    "GradientNoiseScale",
    "NoiseScale",
    "Sharpness",
    "box_sharpness",
    "generalization_gap",
    "noise_factor",
    "onset",
    "simple_noise_scale",
    "top_eigenvalue",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
