"""What probes say of the peak of a training, and why. Pure Python; `Search.suggest` explains it."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_onecycle.range_test.conditions import Conditions
from lightning_onecycle.range_test.suggest import Suggestion
from lightning_onecycle.search.plan import next_peak, part_of_peak
from lightning_onecycle.search.probe import Probe, best_of, lowest_as_good, of_length

_NOTABLE = 0.005  # over-fitting that the reason mentions
_SAME = 10.0**0.1  # a factor between peaks that are the same


def peak_of_round(
    probes: Sequence[Probe], total_steps: int, judged_by: str, conditions: Conditions | None
) -> Suggestion:
    """Return the peak that probes of one length suggest, or None and why there is none.

    Args:
        probes: One or more.
        total_steps: Optimizer steps of the training.
        judged_by: What the losses are.
        conditions: Of the training.
    """
    complete = [probe for probe in probes if probe.is_complete]
    best = best_of(complete)
    if best is None:
        lowest = min(probe.lr for probe in probes)
        what = f"no training of {probes[0].length:,} steps came to its end with a finite loss"
        return Suggestion(None, f"{what}, down to a peak of {lowest:.3g}")
    if len(complete) > 1 and all(probe.loss == best.loss for probe in complete):
        return Suggestion(None, f"the {judged_by} is {best.loss:.4g} at every peak")
    chosen = lowest_as_good(complete, best)
    of = f"of {len(probes)} training{'s' * (len(probes) > 1)} of {chosen.length:,} steps"
    if chosen is best:
        why = f"{chosen.lr:.3g} has the lowest {judged_by}, {best.loss:.4g}, {of}"
    else:
        why = (
            f"the {judged_by} at {chosen.lr:.3g}, {chosen.loss:.4g}, is as good as the lowest,"
            f" {best.loss:.4g} at {best.lr:.3g}, {of}"
        )
        if len(complete) > 2 and all(probe.is_as_good_as(best) for probe in complete):
            why += ", which hardly differ"
    part = part_of_peak(chosen.length, total_steps, best.over_fit, conditions)
    return _scaled(chosen, part, best.over_fit, why)


def beyond(probes: Sequence[Probe]) -> str:
    """Return which peak, beyond all that were tried, would have come next, or nothing.

    Args:
        probes: Those of all rounds.
    """
    last = of_length(probes, max(probe.length for probe in probes))
    tried = [probe.lr for probe in probes]
    wanted = next_peak(last, last[0].lr)
    if len(last) < 2 or wanted is None or min(tried) / _SAME <= wanted <= max(tried) * _SAME:
        return ""
    where = "higher" if wanted > max(tried) else "lower"
    return f"the cost left no room for a {where} one, {wanted:.3g}"


def peak_of_probe(
    chosen: Probe, total_steps: int, judged_by: str, conditions: Conditions | None
) -> Suggestion:
    """Return the peak that the setting of one probe suggests: the winner of a recipe."""
    why = f"the {judged_by} is {chosen.loss:.4g} after {chosen.steps:,} steps"
    part = part_of_peak(chosen.length, total_steps, chosen.over_fit, conditions)
    return _scaled(chosen, part, chosen.over_fit, why)


def _scaled(chosen: Probe, part: float, over_fit: float, why: str) -> Suggestion:
    if part == 1.0:
        return Suggestion(chosen.lr, why)
    more = " and over-fits more" if over_fit > _NOTABLE else ""
    longer = f"{part:.2g} times {chosen.lr:.3g}, because the training is longer{more}"
    return Suggestion(chosen.lr * part, f"{longer}; {why}")
