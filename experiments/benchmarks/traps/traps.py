"""All the traps: those that are numbered, by their numbers, and then those of other peers."""

from __future__ import annotations

from experiments.benchmarks.traps import (
    curve,
    finder_curve,
    finder_leaves,
    finder_run,
    logs,
    loops,
    others,
    others_fastai,  # noqa: F401 # their cases are in the section of `others`
    others_torch,  # noqa: F401
    state,
)
from experiments.benchmarks.traps.trap import Trap

SECTIONS = (
    *(
        curve.SECTION,
        state.SECTION,
        loops.SECTION,
        finder_curve.SECTION,
        finder_run.SECTION,
        finder_leaves.SECTION,
    ),
    *(logs.SECTION, logs.SUPPLY, others.SECTION),
)
TRAPS: list[Trap] = [
    trap
    for section in SECTIONS
    for trap in sorted(section.traps.values(), key=lambda trap: (len(trap.number), trap.number))
]
