"""Leslie Smith's 1cycle policy for PyTorch Lightning."""

import lightning_onecycle._lightning  # noqa: F401  # first: it looks at what is imported already
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
