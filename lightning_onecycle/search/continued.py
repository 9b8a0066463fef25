"""A search in a file: it is saved after each part, and goes on under the same conditions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from lightning_onecycle.range_test.short_fit import ShortFit
from lightning_onecycle.search.fits import Survey
from lightning_onecycle.search.recipe import Recipe
from lightning_onecycle.search.result import Search

_SAME_LOSS = 1e-3
"""A part of a loss: what the order of sums on a device, or another version, may change."""


def keep_in(file: Path | None, trainer: Trainer, found: Search) -> Search:
    """Save a search if it has a file, on the first rank, and return it."""
    if file is not None and trainer.is_global_zero:
        found.save(file)
    return found


def begun(
    trainer: Trainer,
    file: Path,
    survey: Survey,
    range_options: Mapping[str, Any],
    recipe: Recipe | None = None,
) -> Search | None:
    """Return the search that a file holds, the same on all ranks, or None without a file.

    Raises:
        MisconfigurationException: If it ran under other conditions.
    """
    found: Any = trainer.strategy.broadcast(_read(file) if trainer.is_global_zero else None)
    if isinstance(found, Exception):
        raise found
    then = None if found is None else (found.recipe or found.curve).conditions
    if then is None or survey.conditions is None:
        return None
    differences = replace(then, versions=survey.conditions.versions).compare(survey.conditions)
    if found.total_steps != survey.total_steps:
        differences.append(f"total_steps: {found.total_steps}, now {survey.total_steps}")
    for name in ("weight_decays", "momenta"):
        tried, asked = (getattr(of or Recipe(), name) for of in (found.recipe, recipe))
        if tried != asked:
            differences.append(f"{name}: {tried or 'none'}, now {asked or 'none'}")
    for name, value in found.range_options.items():
        if value != range_options[name]:
            differences.append(f"{name}: {value}, now {range_options[name]}")
    if differences:
        listed = "".join(f"\n  {line}" for line in differences)
        raise MisconfigurationException(
            f"{file} holds a search under other conditions:{listed}\nGive another file."
        )
    return found


def _read(file: Path) -> Search | Exception | None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=file.parent).close()
    except OSError as error:
        return ValueError(f"file must be where a file can be written, got {str(file)!r}: {error}")
    try:
        return Search.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return error  # for all ranks, which would wait for the first


def like_before(found: Search, fit: Callable[[ShortFit], None]) -> Callable[[ShortFit], None]:
    """Return ``fit``, which refuses other weights or data than the search has had so far.

    All fits of a search begin with the same weights and the same batch, so that their first losses
    are the same. If they differ, each fit has other data, and nothing is refused.

    Args:
        found: The search, as it was saved.
        fit: Takes the steps of a short fit.
    """
    recipe = found.recipe or Recipe()
    curves = [found.curve, *(test.curve for test in recipe.tests)]
    probes = [*found.probes, *(probe for stage in recipe.stages for probe in stage.probes)]
    losses = [*(curve.losses for curve in curves), *(probe.losses for probe in probes)]
    first = [of_a_fit[0] for of_a_fit in losses if of_a_fit]

    def checked(short_fit: ShortFit) -> None:
        """Run the fit, and compare its first loss with that of the saved search."""
        fit(short_fit)
        if short_fit.losses and not _is_same(short_fit.losses[0], first[0]):
            raise MisconfigurationException(
                f"The search began with a training loss of {first[0]:.6g}, and continues with one"
                f" of {short_fit.losses[0]:.6g}: with other weights or data its losses cannot be"
                " compared. Call seed_everything before the module is made, give the same data, or"
                " give another file."
            )

    is_known = first and all(math.isfinite(loss) and _is_same(loss, first[0]) for loss in first)
    return checked if is_known else fit


def _is_same(loss: float, other: float) -> bool:
    return math.isclose(loss, other, rel_tol=_SAME_LOSS)
