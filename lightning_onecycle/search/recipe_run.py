"""Smith's recipe in this process: range tests and probes in stages, each without a trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from lightning.fabric.utilities import rank_zero_info

from lightning_onecycle.range_test.curve import LRCurve
from lightning_onecycle.range_test.run import UserFit, progress_bar
from lightning_onecycle.range_test.short_fit import ShortFit
from lightning_onecycle.range_test.trial import RangeTest
from lightning_onecycle.search.continued import begun, keep_in, like_before
from lightning_onecycle.search.fits import ProbeFit
from lightning_onecycle.search.plan import Round, part_of_peak
from lightning_onecycle.search.probe import Probe
from lightning_onecycle.search.recipe import (
    MOMENTUM,
    WEIGHT_DECAY,
    DecayTest,
    Recipe,
    is_near,
    ranked,
)
from lightning_onecycle.search.recipe_plan import (
    FIRST_ROUND,
    PEAKS,
    ROUNDS,
    planned,
    range_tests,
    round_of,
    shares,
)
from lightning_onecycle.search.recipe_settings import Momentum, Setting
from lightning_onecycle.search.recipe_survey import RecipeSurvey
from lightning_onecycle.search.result import Search
from lightning_onecycle.search.run import comparable, short_trainings

_FEWEST_STEPS = 3


def run_recipe(user_fit: UserFit, options: dict[str, Any]) -> Search:
    """Run the recipe in this process, and leave no trace.

    Args:
        user_fit: The training to come.
        options: What `search_options` returns.

    Returns:
        The search, with its recipe.
    """
    trainer, fit = user_fit.trainer, user_fit.without_trace
    asked = Recipe(options["weight_decays"], options["momenta"])
    survey = RecipeSurvey(asked, **options["range_test"])
    fit(survey)
    cost, file, total = options["cost"], options["file"], survey.total_steps
    budget = math.floor(cost * total + 1e-9)
    run = _Run(survey, options, budget, fit, partial(keep_in, file, trainer))
    found = None if file is None else begun(trainer, file, survey, options["range_options"], asked)
    rank_zero_info(
        run.announcement()
        if found is None
        else f"The recipe of {file} continues after {found.steps:,} of {budget:,} steps."
    )
    with progress_bar(trainer, budget, "recipe") as run.bar:
        if found is not None:
            run.found, run.fit = replace(found, cost=cost), like_before(found, fit)
            if run.bar is not None:
                run.bar.update(found.steps)
        run.all_stages()
    return run.found


class _Run:
    """The stages of one recipe. ``found`` is what there is so far; it is saved after each fit."""

    def __init__(
        self,
        survey: RecipeSurvey,
        options: dict[str, Any],
        budget: int,
        fit: Callable[[ShortFit], None],
        keep: Callable[[Search], Search],
    ) -> None:
        self.survey, self.budget = survey, budget
        self.range_test = options["range_test"] | {"schedule": survey.schedule}
        self.fit, self.keep = fit, keep
        self.bar: Any = None
        recipe, self.total = survey.recipe, survey.total_steps
        assert survey.schedule is not None
        self.schedule = survey.schedule
        self.grid: tuple[float | None, ...] = recipe.weight_decays or (None,)
        self.momenta = [pair for pair in recipe.momenta if pair != recipe.own_momentum]
        given = options["num_training"]
        tests, test_steps = range_tests(self.total, budget, len(self.grid), given)
        if test_steps < _FEWEST_STEPS or test_steps * tests > budget:
            raise ValueError(
                f"cost must be enough for {_times(tests, 'range test')} of"
                f" {max(test_steps, _FEWEST_STEPS)} steps, got {budget} of the training's"
                f" {self.total}"
            )
        tested = self.grid if tests == len(self.grid) else (recipe.own_or_middle(self.grid),)
        recipe = replace(recipe, tested=tested, test_steps=test_steps)
        self.found = Search(
            LRCurve((), ()),
            total_steps=self.total,
            cost=options["cost"],
            schedule=self.schedule,
            recipe=recipe,
            range_options=options["range_options"],
        )

    @property
    def recipe(self) -> Recipe:
        """What the stages have found."""
        assert self.found.recipe is not None
        return self.found.recipe

    def announcement(self) -> str:
        """Return what the recipe is going to do, in one line."""
        tests = len(self.recipe.tested)
        left = self.budget - tests * self.recipe.test_steps
        trainings = planned(self.total, left, len(self.grid) - 1, len(self.momenta))
        return (
            f"The recipe takes at most {self.budget:,} steps, {self.found.cost:.3g} times the"
            f" training's {self.total:,}. {_times(tests, 'range test')} of up to"
            f" {self.recipe.test_steps:,}, {trainings}."
        )

    def all_stages(self) -> None:
        """Run the stages that are missing, as far as the budget allows."""
        self._range_tests()
        self._update(recipe=replace(self.recipe, notes=()))
        if len(self.recipe.tested) < len(self.grid):
            reason = f"the cost has no room for {len(self.grid)} that are long enough"
            self._note(f"range tests: one alone, {reason} to tell weight decays apart")
        self._peaks()
        if self.found.chosen is None:
            reason = self.found.note or "no short training came to its end"
            self._note(f"the stages after the peaks are left out: {reason}")
            return
        self._weight_decays()
        self._momenta()
        self._momenta_at_the_same_peak()
        for name in ROUNDS:
            self._longer(name)

    # ---- the stages -----------------------------------------------------------------------------

    def _range_tests(self) -> None:
        """Test the weight decays. The curve of the search is the one that the peaks start from."""
        steps = dict.fromkeys(("num_training", "most_steps"), self.recipe.test_steps)
        for weight_decay in self.recipe.tested[len(self.recipe.tests) :]:
            test = RangeTest(**self.range_test | steps, bar=self.bar)
            test.weight_decay = weight_decay
            self.fit(test)
            done = DecayTest(weight_decay, test.curve(), test.attempted)
            recipe = replace(self.recipe, tests=(*self.recipe.tests, done))
            spent = self.found.steps + test.attempted
            self._update(recipe=recipe, curve=recipe.start.curve, steps=spent)

    def _peaks(self) -> None:
        """Search over peaks at the weight decay to start with."""
        recipe = self.recipe
        tests = sum(test.steps for test in recipe.tests)
        others = len(recipe.candidates) - 1 + len(self.momenta)
        length, for_peaks = shares(self.total, self.budget - tests, others)
        if not self.found.probe_steps:
            self._update(probe_steps=length)
        self.found = short_trainings(
            self.found,
            tests + for_peaks,
            [Round(self.found.probe_steps, PEAKS)] if self.found.probe_steps else [],
            self.schedule,
            self.fit,
            self.keep,
            self.bar,
            weight_decay=recipe.start.weight_decay,
        )

    def _weight_decays(self) -> None:
        """Try the weight decays that the curves could not tell apart, at the peak."""
        best = self._standing(WEIGHT_DECAY)
        others = [decay for decay in self.recipe.candidates if decay != best.weight_decay]
        settings = [Setting(best.lr, weight_decay) for weight_decay in others]
        self._probes(WEIGHT_DECAY, settings, self.found.probe_steps)

    def _momenta(self) -> None:
        """Try the momenta, each at the peak that keeps the effective rate."""
        best = self._standing(MOMENTUM)
        settings = [
            Setting(best.lr * self._scale(momentum), best.weight_decay, momentum)
            for momentum in self.momenta
        ]
        self._probes(MOMENTUM, settings, self.found.probe_steps)

    def _momenta_at_the_same_peak(self) -> None:
        """Try the momenta at the peak as it is, too, where that leaves enough for longer ones."""
        best = self._standing(MOMENTUM)
        settings = [
            Setting(best.lr, best.weight_decay, momentum)
            for momentum in self.momenta
            if self._scale(momentum) != 1.0
        ]
        self._probes(MOMENTUM, settings, self.found.probe_steps, spare=self.total)

    def _longer(self, name: str) -> None:
        """Train the settings that are near the best for longer: successive halving.

        A weight decay acts the more, the longer a training is. So the best setting with a smaller
        one than the winner's is trained for longer, too.
        """
        is_first = name == FIRST_ROUND
        stages = [stage for stage in self.recipe.stages if (stage.name in ROUNDS) != is_first]
        pool = [probe for stage in stages if stage.name != name for probe in stage.probes]
        pool += self.found.probes if is_first else ()
        candidates = ranked(pool)
        spent_here = sum(probe.steps for probe in self.recipe.stage(name).probes)
        left = self.budget - self.found.steps + spent_here
        length, most = round_of(name, self.total, left, self.found.probe_steps)
        if not candidates or not length:
            if is_first:
                self._note(f"{name}: left out, the budget has no room for two")
            return
        standing = self._standing(name)
        near = [p for p in candidates if is_near(p, candidates[0])]
        smaller = [p for p in candidates if (p.weight_decay or 0) < (standing.weight_decay or 0)]
        rivals = [p for p in dict.fromkeys([*smaller[:1], *near]) if p != standing]
        if not rivals:
            self._note(f"{name}: left out, one setting is clearly the best")
            return
        settings = []
        for probe in [standing, *rivals][:most]:
            part = part_of_peak(probe.steps, length, probe.over_fit, self.found.conditions)
            settings.append(Setting.of(probe)._replace(lr=probe.lr * part))
        self._probes(name, settings, length)
        done = ranked(self.recipe.stage(name).probes)
        if done and not done[0].is_as_good_as(standing):
            self._note(
                f"{name}: the best one ended at a higher loss, {done[0].loss:.4g}, than the shorter"
                f" one, {standing.loss:.4g}: the peak may be too high, or the training over-fits"
            )

    # ---- one fit --------------------------------------------------------------------------------

    def _probes(
        self, name: str, settings: Sequence[Setting], length: int, *, spare: int = 0
    ) -> None:
        """Run the probes of a stage that are not done yet, and leave ``spare`` of the budget."""
        done = {Setting.of(probe) for probe in self.recipe.stage(name).probes}
        missing = [setting for setting in settings if setting not in done]
        for index, setting in enumerate(missing):
            if self.found.steps + length + spare > self.budget:
                if not spare:
                    left_out = f"{len(missing) - index} of {len(settings)} left out"
                    self._note(f"{name}: {left_out}, the budget is spent")
                return
            probe = ProbeFit(
                setting.lr,
                length,
                self.schedule,
                bar=self.bar,
                weight_decay=setting.weight_decay,
                momentum=setting.momentum,
            )
            self.fit(probe)
            self._update(
                recipe=self.recipe.with_probe(name, comparable(self.found, probe)),
                steps=self.found.steps + probe.attempted,
                judged_by=probe.judged_by if probe.scores else self.found.judged_by,
            )

    def _standing(self, before: str) -> Probe:
        """Return the best probe before a stage."""
        first = self.found.first
        assert first is not None
        return self.recipe.winner(first, before)

    def _scale(self, momentum: Momentum) -> float:
        """Return what keeps the effective rate where the momentum at the peak is another."""
        own = self.recipe.own_momentum
        if not self.survey.scales or own is None or momentum[1] == own[1]:
            return 1.0
        return (1.0 - momentum[1]) / (1.0 - own[1])

    def _update(self, **changes: Any) -> None:
        self.found = self.keep(replace(self.found, **changes))

    def _note(self, note: str) -> None:
        rank_zero_info(f"Recipe: {note}.")
        self._update(recipe=replace(self.recipe, notes=(*self.recipe.notes, note)))


def _times(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count > 1)}"
