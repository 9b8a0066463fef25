"""All the traps, in the order of their numbers within each section."""

from __future__ import annotations

from experiments.benchmarks.traps import curve, state
from experiments.benchmarks.traps.trap import Trap

TRAPS: list[Trap] = [
    trap for module in (curve, state) for trap in module.SECTION.traps.values()
]
