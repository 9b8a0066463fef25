"""All the traps, in the order of their numbers within each section."""

from __future__ import annotations

from experiments.benchmarks.traps import curve, finder_curve, finder_run, loops, state
from experiments.benchmarks.traps.trap import Trap

TRAPS: list[Trap] = [
    trap
    for module in (curve, state, loops, finder_curve, finder_run)
    for trap in module.SECTION.traps.values()
]
