"""`Recipe`: what the stages of Smith's recipe tried, and what each of them chose. Pure Python."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from lightning_onecycle.range_test.conditions import Conditions
from lightning_onecycle.range_test.curve import LRCurve
from lightning_onecycle.search.probe import FEWEST_PAIRS, Probe, is_clearly_larger
from lightning_onecycle.search.recipe_plan import ROUNDS
from lightning_onecycle.search.recipe_settings import Momentum

WEIGHT_DECAY, MOMENTUM = "weight decay", "momentum"
# Parts of what has been gained: what noise may hide, also where it is not known, and no difference.
_SMALL, _SMALL_WITHOUT_NOISE, _NO_DIFFERENCE = 0.02, 0.005, 0.002
_AROUND = 0.2  # decades around the lowest loss
_SAME_RATE = 10.0**0.2  # rates that are closer together are not told apart


class DecayTest(NamedTuple):
    """A range test with one weight decay."""

    weight_decay: float | None
    curve: LRCurve
    steps: int


class Stage(NamedTuple):
    """The probes that are compared with each other."""

    name: str
    probes: tuple[Probe, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """What the recipe tried before and after the search over peaks.

    Args:
        weight_decays: The grid, rising. Empty: the optimizer's own alone.
        momenta: Pairs of momentum at the ends and at the peak. Empty: the schedule's own alone.
        own_weight_decay: The optimizer's, before the recipe.
        own_momentum: The pair of the schedule, or of the optimizer where that has none.
        conditions: What the training would run under without the recipe.
        tests: The range tests.
        stages: What came after the search over peaks, in this order.
        notes: What was left out, and what to look at.
        tested: The weight decays that have a range test, or are to have one.
        test_steps: Optimizer steps of each range test, at most.
    """

    weight_decays: tuple[float, ...] = ()
    momenta: tuple[Momentum, ...] = ()
    own_weight_decay: float | None = None
    own_momentum: Momentum | None = None
    conditions: Conditions | None = None
    tests: tuple[DecayTest, ...] = ()
    stages: tuple[Stage, ...] = ()
    notes: tuple[str, ...] = ()
    tested: tuple[float | None, ...] = ()
    test_steps: int = 0

    # ---- the range tests --------------------------------------------------------------------

    def thrown_away(self) -> dict[float | None, str]:
        """Return the weight decays whose curves are clearly behind, each with the reason.

        Those are curves without a suggestion, and those that are above the lowest one even where
        they are lowest themselves: by more than the noise, and by 2 % of its fall. All tests see
        the same batches, so their losses are compared step by step. Where no curve has a
        suggestion, none is thrown away.
        """
        shown = [test.curve for test in self.tests if test.curve.suggestion() is not None]
        if not shown:
            return {}
        best = min(shown, key=_lowest)
        reasons = {}
        for test in self.tests:
            lr, reason = test.curve.suggest()
            if lr is None:
                reasons[test.weight_decay] = f"no suggestion: {reason}"
            elif _is_behind(test.curve, best):
                lowest = f"{_lowest(test.curve):.4g}"
                reasons[test.weight_decay] = (
                    f"its lowest loss, {lowest}, is clearly above {_lowest(best):.4g}"
                )
        return reasons

    @property
    def kept(self) -> list[DecayTest]:
        """The tests whose weight decays the curves cannot tell apart, or all where none shows."""
        gone = self.thrown_away()
        return [test for test in self.tests if test.weight_decay not in gone]

    @property
    def candidates(self) -> list[float | None]:
        """The weight decays that are not thrown away, tested or not."""
        gone = self.thrown_away()
        return [decay for decay in self.weight_decays or (None,) if decay not in gone]

    @property
    def start(self) -> DecayTest:
        """The test with the weight decay that the search over peaks begins with.

        Of those that are kept, it is the one that is stable up to the largest rate, where half of
        the fall is lost again (Smith, arXiv:1803.09820, section 4.4). Of several it is the
        optimizer's own, or else the one in the middle.
        """
        kept = self.kept
        stable = kept
        if any(test.curve.suggestion() is not None for test in kept):
            largest = max(_edge(test.curve) for test in kept)
            stable = [test for test in kept if _edge(test.curve) * _SAME_RATE >= largest]
        decay = self.own_or_middle([test.weight_decay for test in stable])
        return next(test for test in stable if test.weight_decay == decay)

    def own_or_middle(self, decays: Sequence[float | None]) -> float | None:
        """Return the optimizer's own weight decay if it is among these, or the middle one."""
        own = self.own_weight_decay
        return own if own in decays else decays[(len(decays) - 1) // 2]

    # ---- the stages after the search over peaks ------------------------------------------------

    def stage(self, name: str) -> Stage:
        """Return a stage, without probes if it has not begun."""
        return next((stage for stage in self.stages if stage.name == name), Stage(name))

    def with_probe(self, name: str, probe: Probe) -> Recipe:
        """Return the recipe with one more probe in a stage."""
        stage = self.stage(name)
        grown = Stage(name, (*stage.probes, probe))
        if not stage.probes:
            return replace(self, stages=(*self.stages, grown))
        return replace(self, stages=tuple(grown if s is stage else s for s in self.stages))

    def winner(self, first: Probe, before: str = "") -> Probe:
        """Return the best probe after all stages, or before one of them.

        The best probe before a stage stays the best, unless a probe of the stage is better: by a
        standard error over the batches or by 2 % of what it has gained, and by 0.2 % of that at
        least; where the noise is not known, by 0.5 %. Of longer probes that are as good as the
        best, the one with the fewest departures from the defaults wins, and then the one with the
        lowest peak.

        Args:
            first: The probe that the search over peaks chose.
            before: The name of a stage, or nothing.
        """
        standing = first
        for stage in self.stages:
            if stage.name == before:
                break
            standing = self.chosen(stage, standing)
        return standing

    def chosen(self, stage: Stage, standing: Probe) -> Probe:
        """Return the best probe after a stage; ``standing`` is the best before it."""
        is_longer = stage.name in ROUNDS
        rivals = ranked(stage.probes if is_longer else (standing, *stage.probes))
        if not rivals:
            return standing
        equal = [probe for probe in rivals if _is_equal(probe, rivals[0])]
        if is_longer:
            return min(equal, key=self._departures)
        return standing if standing in equal else rivals[0]

    def _departures(self, probe: Probe) -> tuple[bool, bool, float]:
        is_other = bool(self.weight_decays) and probe.weight_decay != self.start.weight_decay
        return probe.momentum is not None, is_other, probe.lr

    def conditions_with(
        self, weight_decay: float | None, momentum: Momentum | None
    ) -> Conditions | None:
        """Return the conditions of a training with these. None: the own one."""
        conditions = self.conditions
        if conditions is not None and weight_decay is not None:
            conditions = conditions.with_weight_decay(weight_decay)
        if conditions is not None and momentum is not None:
            conditions = replace(conditions, momentum=momentum[1])
        return conditions

    def remarks(self, weight_decay: float | None) -> list[str]:
        """Return the notes, and what to look at."""
        grid, own, found = self.weight_decays, self.own_weight_decay, list(self.notes)
        for stage in self.stages:
            if stage.name in ROUNDS and not ranked(stage.probes):
                none = "none came to its end; the peak is that of shorter ones"
                found.append(f"{stage.name}: {none}, and may be too high")
        if grid and own not in (None, *grid):
            found.append(f"the optimizer's own weight decay, {own:g}, was not tried")
        if len(grid) > 1 and weight_decay in (grid[0], grid[-1]) and weight_decay:
            beyond = "smaller" if weight_decay == grid[0] else "larger"
            end = f"weight decay {weight_decay:g} lies at the end of the grid"
            found.append(f"{end}: try {beyond} ones")
        return found

    # ---- JSON -----------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as `json.dump` takes it."""
        return {
            "weight_decays": self.weight_decays,
            "momenta": self.momenta,
            "own_weight_decay": self.own_weight_decay,
            "own_momentum": self.own_momentum,
            "conditions": None if self.conditions is None else self.conditions.to_dict(),
            "tested": self.tested,
            "test_steps": self.test_steps,
            "tests": [{**test._asdict(), "curve": test.curve.to_dict()} for test in self.tests],
            "stages": [
                {"name": stage.name, "probes": [probe.to_dict() for probe in stage.probes]}
                for stage in self.stages
            ],
            "notes": self.notes,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Make a recipe of what `to_dict` returned.

        Raises:
            KeyError: If something is missing.
            ValueError: If a value is out of range.
        """
        conditions, own = values["conditions"], values["own_momentum"]
        return cls(
            weight_decays=tuple(values["weight_decays"]),
            momenta=tuple(tuple(pair) for pair in values["momenta"]),
            own_weight_decay=values["own_weight_decay"],
            own_momentum=None if own is None else tuple(own),
            conditions=None if conditions is None else Conditions.from_dict(conditions),
            tested=tuple(values.get("tested", ())),
            test_steps=values.get("test_steps", 0),
            tests=tuple(
                DecayTest(test["weight_decay"], LRCurve.from_dict(test["curve"]), test["steps"])
                for test in values["tests"]
            ),
            stages=tuple(
                Stage(stage["name"], tuple(Probe.from_dict(probe) for probe in stage["probes"]))
                for stage in values["stages"]
            ),
            notes=tuple(values["notes"]),
        )


def ranked(probes: Iterable[Probe]) -> list[Probe]:
    """Return the complete probes, the best first."""
    return sorted((probe for probe in probes if probe.is_complete), key=lambda p: p.loss)


def is_near(probe: Probe, best: Probe, part: float = _SMALL) -> bool:
    """Return whether a loss is larger by less than a part of what the best has gained."""
    return probe.rank <= best.rank + part * best.gain


def _is_equal(probe: Probe, best: Probe) -> bool:
    if min(len(probe.scores), len(best.scores)) < FEWEST_PAIRS:
        return is_near(probe, best, _SMALL_WITHOUT_NOISE)
    if is_near(probe, best, _NO_DIFFERENCE):
        return True
    return is_near(probe, best) and not is_clearly_larger(probe.scores, best.scores, errors=1.0)


def _lowest(curve: LRCurve) -> float:
    reading = curve.reading()
    return reading.losses[reading.low]


def _edge(curve: LRCurve) -> float:
    reading = curve.reading()
    return reading.lrs[reading.edge] if reading.lrs else 0.0


def _is_behind(curve: LRCurve, best: LRCurve) -> bool:
    """Return whether a curve is above the best one where it is lowest itself."""
    reading, of_best = curve.reading(), best.reading()
    fall = max(of_best.losses[: of_best.low + 1]) - _lowest(best)
    if _lowest(curve) <= _lowest(best) + _SMALL * fall:
        return False
    low = math.log10(reading.lrs[reading.low])
    pairs = [
        (loss, of_best)
        for lr, loss, of_best in zip(curve.lrs, curve.losses, best.losses, strict=False)
        if abs(math.log10(lr) - low) <= _AROUND
    ]
    return is_clearly_larger([loss for loss, _ in pairs], [of_best for _, of_best in pairs])
