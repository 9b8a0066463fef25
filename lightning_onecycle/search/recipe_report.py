"""A recipe as a table in Markdown: what each stage tried, and what became of it. Pure Python."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from lightning_onecycle.search.plan import part_of_peak
from lightning_onecycle.search.probe import Probe
from lightning_onecycle.search.recipe import MOMENTUM, WEIGHT_DECAY, Recipe, Stage
from lightning_onecycle.search.recipe_plan import FIRST_ROUND, ROUNDS
from lightning_onecycle.search.recipe_settings import Setting, describe

if TYPE_CHECKING:
    from lightning_onecycle.search.result import Search

RANGE_TESTS, PEAKS = "range tests", "peak"


class Row(NamedTuple):
    """One thing that a stage tried. Without a finite loss ``loss`` is None."""

    stage: str
    tried: str
    loss: float | None
    steps: int
    outcome: str
    is_kept: bool = False


def report(search: Search) -> str:
    """Return what was tried, kept and thrown away, as a table in Markdown.

    Args:
        search: One with a recipe.

    Returns:
        A heading with what was found, the table and the notes.

    Raises:
        ValueError: If the search has no recipe.
    """
    recipe = _recipe_of(search)
    found = rows(search)
    steps: dict[str, int] = {}
    for row in found:
        steps[row.stage] = steps.get(row.stage, 0) + row.steps
    lines = [
        f"# {describe(search.suggestion(), search.weight_decay, search.momentum)}",
        "",
        f"{search.steps:,} steps were spent for a training of {search.total_steps:,}. The loss is"
        f" the {search.judged_by}; of a range test it is the lowest training loss, smoothed.",
        "",
        "| stage | tried | loss | steps | outcome |",
        "|---|---|---|---|---|",
    ]
    before = ""
    for row in found:
        stage = "" if row.stage == before else f"{row.stage}: {steps[row.stage]:,} steps"
        before = row.stage
        loss = "" if row.loss is None else f"{row.loss:.4g}"
        outcome = f"**{row.outcome}**" if row.is_kept else row.outcome
        lines.append(f"| {stage} | {row.tried} | {loss} | {row.steps or ''} | {outcome} |")
    remarks = recipe.remarks(search.weight_decay)
    lines += ["", *(f"- {remark}" for remark in remarks)] if remarks else []
    lines += ["", f"Why this peak: {search.suggest().reason}."]
    return "\n".join(lines) + "\n"


def rows(search: Search) -> list[Row]:
    """Return what the stages of a recipe tried, in their order.

    Raises:
        ValueError: If the search has no recipe.
    """
    recipe = _recipe_of(search)
    found = _rows_of_tests(recipe)
    standing = search.first
    if standing is None:
        return found + [
            _row(PEAKS, probe, f"thrown away: {probe.stopped}") for probe in search.probes
        ]
    stages = [(Stage(PEAKS, search.probes), standing)]
    for stage in recipe.stages:
        standing = recipe.chosen(stage, standing)
        stages.append((stage, standing))
    before = None
    for stage, chosen in stages:
        if before is not None and stage.name not in ROUNDS:
            as_it_was = before if before.momentum else replace(before, momentum=recipe.own_momentum)
            row = _row(stage.name, as_it_was, _outcome(before, chosen), is_kept=before == chosen)
            found.append(row._replace(tried=f"{row.tried}, as before", steps=0))
        for probe in stage.probes:
            outcome = _outcome(probe, chosen)
            if probe != chosen and stage.name not in ROUNDS and _goes_on(recipe, probe):
                outcome = outcome.replace("thrown away", "kept for the longer trainings")
            found.append(_row(stage.name, probe, outcome, is_kept=probe == chosen))
        before = chosen
    return found


def _recipe_of(search: Search) -> Recipe:
    if search.recipe is None:
        raise ValueError(
            "search must have a recipe, got one over peaks alone: print(search) shows it"
        )
    return search.recipe


def _rows_of_tests(recipe: Recipe) -> list[Row]:
    gone, start = recipe.thrown_away(), recipe.start
    found = []
    for test in recipe.tests:
        own = "the optimizer's own weight decay"
        tried = own if test.weight_decay is None else f"weight decay {test.weight_decay:g}"
        levels = test.curve.reading().losses
        outcome = "kept: the curves do not tell them apart"
        if test is start:
            outcome = "kept: the peaks start from it"
        elif test.weight_decay in gone:
            outcome = f"thrown away: {gone[test.weight_decay]}"
        lowest = min(levels) if levels else None
        found.append(Row(RANGE_TESTS, tried, lowest, test.steps, outcome, test is start))
    return found


def _goes_on(recipe: Recipe, probe: Probe) -> bool:
    """Return whether the setting of a probe is trained again for longer, at a lower peak."""

    def is_same(longer: Probe) -> bool:
        """Whether a longer training has the setting of this one, at the lowered peak."""
        part = part_of_peak(
            probe.steps, longer.steps, probe.over_fit, recipe.start.curve.conditions
        )
        lr = probe.lr * part
        return Setting.of(probe)[1:] == Setting.of(longer)[1:] and math.isclose(lr, longer.lr)

    return any(is_same(longer) for longer in recipe.stage(FIRST_ROUND).probes)


def _row(stage: str, probe: Probe, outcome: str, *, is_kept: bool = False) -> Row:
    loss = probe.loss if probe.is_complete else None
    return Row(stage, _tried(stage, probe), loss, probe.steps, outcome, is_kept)


def _tried(stage: str, probe: Probe) -> str:
    if stage == WEIGHT_DECAY:
        return f"weight decay {probe.weight_decay:g}"
    is_short = stage in (PEAKS, MOMENTUM)
    return describe(probe.lr, None if is_short else probe.weight_decay, probe.momentum)


def _outcome(probe: Probe, chosen: Probe) -> str:
    if probe == chosen:
        return "kept"
    if not probe.is_complete:
        return f"thrown away: {probe.stopped}"
    apart = probe.loss - chosen.loss
    if apart < 0:
        return f"thrown away: lower by {-apart:.2g}, which is no clear difference"
    return f"thrown away: higher by {apart:.2g}"
