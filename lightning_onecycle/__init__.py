"""Leslie Smith's 1cycle policy for PyTorch Lightning."""

from lightning_onecycle.callback import OneCycle, ScheduleCallback
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
    "OneCycle",
    "Phase",
    "Point",
    "Schedule",
    "ScheduleCallback",
    "ScheduleLR",
    "constant",
    "lr_range",
    "one_cycle",
    "scheduler_config",
    "step_decay",
    "trapezoid",
    "triangular",
    "warmup_cosine",
]
