"""The LR range test: its curve, the suggestions, and the conditions that it ran under."""

from typing import TYPE_CHECKING

from lightning_onecycle._lazy import lazy

if TYPE_CHECKING:
    from lightning_onecycle.range_test.conditions import Conditions
    from lightning_onecycle.range_test.curve import LRCurve
    from lightning_onecycle.range_test.finder import LRFinder
    from lightning_onecycle.range_test.live_conditions import check_peak, conditions_of
    from lightning_onecycle.range_test.suggest import Suggestion
    from lightning_onecycle.range_test.tuner import Tuner

_HOMES = {
    "conditions": ("Conditions",),
    "curve": ("LRCurve",),
    "finder": ("LRFinder",),
    "live_conditions": (
        "check_peak",
        "conditions_of",
    ),
    "suggest": ("Suggestion",),
    "tuner": ("Tuner",),
}

__all__ = [
    "Conditions",
    "LRCurve",
    "LRFinder",
    "Suggestion",
    "Tuner",
    "check_peak",
    "conditions_of",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
