"""Leslie Smith's 1cycle policy for PyTorch Lightning."""

# The names are imported at their first use: the table of a sweep needs neither torch nor Lightning.

import sys
from typing import TYPE_CHECKING

from lightning_onecycle._lazy import lazy

if TYPE_CHECKING:
    from lightning_onecycle.batch_norm import BatchNormRecalibration
    from lightning_onecycle.batch_size import BatchSizeSchedule, scale_lr
    from lightning_onecycle.callback import OneCycle, ScheduleCallback
    from lightning_onecycle.measure import (
        GeneralizationGap,
        GradientNoiseScale,
        NoiseScale,
        Sharpness,
        simple_noise_scale,
    )
    from lightning_onecycle.range_test import Conditions, LRCurve, LRFinder, Tuner
    from lightning_onecycle.report import Diverged, RunRecord, StopOnDivergence
    from lightning_onecycle.scheduler import ScheduleLR, scheduler_config
    from lightning_onecycle.schedules import (
        Phase,
        Point,
        Schedule,
        constant,
        lr_range,
        one_cycle,
        one_cycle_steady,
        step_decay,
        trapezoid,
        triangular,
        warmup_cosine,
    )
    from lightning_onecycle.search import Search

__version__ = "0.2.0"

_HOMES = {
    "batch_norm": ("BatchNormRecalibration",),
    "batch_size": ("BatchSizeSchedule", "scale_lr"),
    "callback": ("OneCycle", "ScheduleCallback"),
    "measure": (
        "GeneralizationGap",
        "GradientNoiseScale",
        "NoiseScale",
        "Sharpness",
        "simple_noise_scale",
    ),
    "range_test": ("Conditions", "LRCurve", "LRFinder", "Tuner"),
    "report": ("Diverged", "RunRecord", "StopOnDivergence"),
    "scheduler": ("ScheduleLR", "scheduler_config"),
    "schedules": (
        "Phase",
        "Point",
        "Schedule",
        "constant",
        "lr_range",
        "one_cycle",
        "one_cycle_steady",
        "step_decay",
        "trapezoid",
        "triangular",
        "warmup_cosine",
    ),
    "search": ("Search",),
}

__all__ = [
    "BatchNormRecalibration",
    "BatchSizeSchedule",
    "Conditions",
    "Diverged",
    "GeneralizationGap",
    "GradientNoiseScale",
    "LRCurve",
    "LRFinder",
    "NoiseScale",
    "OneCycle",
    "Phase",
    "Point",
    "RunRecord",
    "Schedule",
    "ScheduleCallback",
    "ScheduleLR",
    "Search",
    "Sharpness",
    "StopOnDivergence",
    "Tuner",
    "constant",
    "lr_range",
    "one_cycle",
    "one_cycle_steady",
    "scale_lr",
    "scheduler_config",
    "simple_noise_scale",
    "step_decay",
    "trapezoid",
    "triangular",
    "warmup_cosine",
]

__getattr__, __dir__ = lazy(__name__, _HOMES, first="lightning_onecycle._lightning")

if not sys.modules.keys().isdisjoint(("lightning", "pytorch_lightning")):
    # It looks at what the user has imported, also before `import lightning_onecycle.callback`.
    import lightning_onecycle._lightning  # noqa: F401
