"""Leslie Smith's 1cycle policy for PyTorch Lightning."""

from lightning_onecycle.batch_size import BatchNormRecalibration
from lightning_onecycle.callback import OneCycle, ScheduleCallback
from lightning_onecycle.measure import GeneralizationGap
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
    step_decay,
    trapezoid,
    triangular,
    warmup_cosine,
)

__all__ = [
    "BatchNormRecalibration",
    "Conditions",
    "Diverged",
    "GeneralizationGap",
    "LRCurve",
    "LRFinder",
    "OneCycle",
    "Phase",
    "Point",
    "RunRecord",
    "Schedule",
    "ScheduleCallback",
    "ScheduleLR",
    "StopOnDivergence",
    "Tuner",
    "constant",
    "lr_range",
    "one_cycle",
    "scheduler_config",
    "step_decay",
    "trapezoid",
    "triangular",
    "warmup_cosine",
]
