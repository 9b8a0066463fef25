"""One search in this process: a range test, then probes, each without a trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric.utilities import rank_zero_info
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_onecycle._checks import number
from lightning_onecycle.phases import Schedule
from lightning_onecycle.range_test.run import UserFit, progress_bar
from lightning_onecycle.range_test.short_fit import ShortFit
from lightning_onecycle.range_test.trial import RangeTest
from lightning_onecycle.search.continued import begun, keep_in, like_before
from lightning_onecycle.search.fits import BY_TRAINING, ProbeFit, Survey
from lightning_onecycle.search.plan import (
    FEWEST_STEPS,
    Plan,
    Round,
    anchor,
    next_peak,
    part_of_peak,
    plan,
    rounds,
)
from lightning_onecycle.search.probe import Probe, best_of, lowest_as_good, of_length
from lightning_onecycle.search.recipe_settings import checked_grid, checked_momenta
from lightning_onecycle.search.result import Search

_LOWEST = 0.0099
"""Where no probe comes to its end, the last peak is a hundredth of the first."""


def search_options(
    cost: Any,
    file: str | Path | None,
    range_test: dict[str, Any],
    num_training: int | None,
    weight_decays: Any = None,
    momenta: Any = None,
) -> dict[str, Any]:
    """Return the options that `run_search` takes, or refuse them.

    Args:
        cost: As for `Tuner.search`.
        file: As for `Tuner.search`.
        range_test: What `checked` returns.
        num_training: Steps of the range test, where they are given.
        weight_decays: As for `Tuner.search`.
        momenta: As for `Tuner.search`.
    """
    return {
        "cost": number("cost", cost, "> 0", lambda v: v > 0),
        "file": None if file is None else Path(file),
        "range_test": range_test,
        "num_training": num_training,
        "range_options": {name: value for name, value in range_test.items() if name != "schedule"}
        | {"num_training": num_training},
        "weight_decays": checked_grid(weight_decays),
        "momenta": checked_momenta(momenta),
    }


def run_search(user_fit: UserFit, options: dict[str, Any]) -> Search:
    """Run a search in this process, and leave no trace.

    Args:
        user_fit: The training to come.
        options: What `search_options` returns.

    Returns:
        The search.
    """
    trainer = user_fit.trainer
    fit: Callable[[ShortFit], None] = user_fit.without_trace
    survey = Survey(**options["range_test"])
    fit(survey)
    cost, file, total = options["cost"], options["file"], survey.total_steps
    budget = math.floor(cost * total + 1e-9)
    planned = _plan(total, budget, options["num_training"])
    keep = partial(keep_in, file, trainer)
    found = None if file is None else begun(trainer, file, survey, options["range_options"])
    if found is None:
        rank_zero_info(_announcement(planned, cost, budget, total))
    else:
        rank_zero_info(
            f"The search of {file} continues after {found.steps:,} of {budget:,} steps and"
            f" {len(found.probes)} short training{'s' * (len(found.probes) != 1)}."
        )
        fit = like_before(found, fit)
    with progress_bar(trainer, budget, "search") as bar:
        if found is None:
            of_search = {
                "num_training": planned.range_test,
                "most_steps": budget,
                "schedule": survey.schedule,
            }
            test = RangeTest(**options["range_test"] | of_search, bar=bar)
            fit(test)
            found = keep(
                Search(
                    test.curve(),
                    total_steps=total,
                    steps=test.attempted,
                    schedule=survey.schedule,
                    range_options=options["range_options"],
                )
            )
        elif bar is not None:
            bar.update(found.steps)
        found = replace(found, cost=cost)
        left = budget - found.steps + sum(probe.steps for probe in found.probes)
        after = rounds(total, left, found.probe_steps)
        assert survey.schedule is not None
        return short_trainings(found, budget, after, survey.schedule, fit, keep, bar)


def short_trainings(
    found: Search,
    budget: int,
    planned: Sequence[Round],
    schedule: Schedule,
    fit: Callable[[ShortFit], None],
    keep: Callable[[Search], Search],
    bar: Any,
    weight_decay: float | None = None,
) -> Search:
    """Go on with the rounds of probes, for as long as they are worth it and the budget allows.

    A round begins with the peak of the round before. All rounds but the last leave the rest of the
    budget to the longer ones.
    """
    curve = found.curve
    first = curve.suggestion() or anchor(curve.lrs, curve.smoothed(), curve.diverged)
    if not planned or first is None:
        note = _why_no_probes(first, budget - found.steps, found.total_steps)
        return keep(replace(found, note=note))
    found = replace(found, probe_steps=planned[0].length, note="")
    for index, (length, count) in enumerate(planned):
        is_last = index == len(planned) - 1
        done = of_length(found.probes, length)
        best = best_of(done)
        while found.steps + length <= budget:
            is_enough = not is_last and best is not None and len(done) >= count
            peak = None if is_enough else next_peak(done, first, upwards=index > 0)
            if peak is None:
                break
            if best is None and peak < _LOWEST * first:
                break
            probe = ProbeFit(peak, length, schedule, best, bar, weight_decay=weight_decay)
            fit(probe)
            found = keep(
                replace(
                    found,
                    probes=(*found.probes, comparable(found, probe)),
                    steps=found.steps + probe.attempted,
                    judged_by=probe.judged_by if probe.scores else found.judged_by,
                )
            )
            done = of_length(found.probes, length)
            best = best_of(done)
        if is_last or best is None:
            break
        chosen = lowest_as_good(done, best)
        longer = planned[index + 1].length
        first = chosen.lr * part_of_peak(length, longer, best.over_fit, found.conditions)
    return found


def comparable(found: Search, fit: ProbeFit) -> Probe:
    """Return what came of a probe, if it is judged as those before it were.

    Raises:
        MisconfigurationException: If a search of a file goes on with other validation data.
    """
    probe = fit.probe()
    stages = found.recipe.stages if found.recipe else ()
    before = best_of([*found.probes, *(one for stage in stages for one in stage.probes)])
    if before is None or not probe.is_complete:
        return probe
    is_same = fit.judged_by == found.judged_by
    if is_same and (fit.judged_by == BY_TRAINING or len(probe.scores) == len(before.scores)):
        return probe
    raise MisconfigurationException(
        f"The search has compared the {found.judged_by} of {len(before.scores)} batches, and now"
        f" there is the {fit.judged_by} of {len(probe.scores)}. Give it the same validation data"
        " as before, or another file."
    )


def _plan(total: int, budget: int, num_training: int | None) -> Plan:
    if budget < (num_training or 3):
        raise ValueError(
            f"cost must be enough for the {num_training or 3} steps of a range test, got"
            f" {budget} of the training's {total}"
        )
    return plan(total, budget, num_training)


def _announcement(planned: Plan, cost: float, budget: int, total: int) -> str:
    after = [f"then about {of.probes} short trainings of {of.length:,}" for of in planned.rounds]
    then = ", ".join(after) or "and no short training, which does not fit in"
    return (
        f"The search takes at most {budget:,} steps, {cost:.3g} times the training's {total:,}: a"
        f" range test of up to {planned.range_test:,}, {then}."
    )


def _why_no_probes(first: float | None, left: int, total: int) -> str:
    if first is None:
        return "the range test shows no rate to begin with"
    if total < 2 * FEWEST_STEPS:
        return f"a short training has {FEWEST_STEPS} steps at least, and half of {total} are fewer"
    return (
        f"the {max(left, 0):,} steps beside the range test are too few for two short trainings of"
        f" an eighth of the {total:,} steps, and of {FEWEST_STEPS} at least"
    )
