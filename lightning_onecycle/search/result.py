"""`Search`: a range test and the short trainings after it, and what they say. Pure Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_onecycle._checks import number, whole
from lightning_onecycle._files import write_whole
from lightning_onecycle.phases import Schedule
from lightning_onecycle.range_test.conditions import Conditions
from lightning_onecycle.range_test.curve import LRCurve
from lightning_onecycle.range_test.json_file import check_format, read_file, to_text
from lightning_onecycle.range_test.suggest import Suggestion
from lightning_onecycle.schedules import one_cycle
from lightning_onecycle.search.probe import Probe, best_of, lowest_as_good, of_length
from lightning_onecycle.search.recipe import Recipe
from lightning_onecycle.search.recipe_settings import describe
from lightning_onecycle.search.suggest import beyond, peak_of_probe, peak_of_round

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_onecycle.callback import ScheduleCallback

_FORMAT = 1
_PLAIN = ("total_steps", "probe_steps", "cost", "steps", "judged_by", "note")


@dataclass(frozen=True, repr=False)
class Search:
    """What a search measured, and the peak that it suggests.

    Args:
        curve: The range test's.
        probes: The short trainings, in the order that they were run. Rounds differ in length.
        total_steps: Optimizer steps of the training that the peak is for.
        probe_steps: Optimizer steps of the probes of the first round.
        cost: What might be spent, as a fraction of ``total_steps``.
        steps: Optimizer steps that were spent.
        judged_by: ``"validation loss"`` or ``"training loss"``.
        note: Why there are no probes, if there are none.
        schedule: What the peak is for, without a momentum that the recipe has chosen.
        recipe: What the recipe tried beside the peaks, or None.
        range_options: Arguments of the range test, such as ``min_lr``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from lightning_onecycle import LRCurve
        >>> from lightning_onecycle.search import Probe
        >>> curve = LRCurve((0.01, 0.1, 1.0), (2.3, 0.8, 5.0))
        >>> probe = Probe(0.1, 0.4, 9, "completed")
        >>> search = Search(curve, (probe,), 9, 9, steps=20)
        >>> search.suggestion()
        0.1
        >>> print(search)
        Search: peak 0.1 (validation losses after 9 steps: 0.4 at 0.1), 20 steps for a training of 9
    """

    curve: LRCurve
    probes: tuple[Probe, ...] = ()
    total_steps: int = 0
    probe_steps: int = 0
    cost: float = 1.0
    steps: int = 0
    judged_by: str = "validation loss"
    note: str = ""
    schedule: Schedule | None = None
    recipe: Recipe | None = None
    range_options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.curve, LRCurve):
            raise ValueError(f"curve must be an LRCurve, got {type(self.curve).__name__}")
        object.__setattr__(self, "probes", tuple(self.probes))
        for name in ("total_steps", "probe_steps", "steps"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 0))
        object.__setattr__(self, "cost", number("cost", self.cost, "> 0", lambda v: v > 0))

    @property
    def conditions(self) -> Conditions | None:
        """What the search ran under, with the weight decay and the momentum that it chose."""
        if self.recipe is None:
            return self.curve.conditions
        return self.recipe.conditions_with(self.weight_decay, self.momentum)

    @property
    def weight_decay(self) -> float | None:
        """The weight decay to train with, or None where the optimizer's own stays.

        It is that of the parameter group with the largest. The others keep their ratio to it.
        """
        if self.recipe is None:
            return None
        return self.recipe.start.weight_decay if self.chosen is None else self.chosen.weight_decay

    @property
    def momentum(self) -> tuple[float, float] | None:
        """The momentum at the ends and at the peak, or None where the schedule's own stays."""
        return None if self.chosen is None else self.chosen.momentum

    @property
    def best(self) -> Probe | None:
        """The complete probe of the last round with the lowest loss."""
        return best_of(self.last_round)

    @property
    def last_round(self) -> tuple[Probe, ...]:
        """The probes of the greatest length, which decide."""
        return of_length(self.probes, max((probe.length for probe in self.probes), default=0))

    @property
    def chosen(self) -> Probe | None:
        """The probe whose settings are suggested, or None where none is complete."""
        first = self.first
        return first if first is None or self.recipe is None else self.recipe.winner(first)

    @property
    def first(self) -> Probe | None:
        """The probe that the search over peaks chose. The recipe starts from it."""
        return None if self.best is None else lowest_as_good(self.last_round, self.best)

    def suggestion(self) -> float | None:
        """Return the peak, or None; `suggest` says why.

        Returns:
            The learning rate, or None if the search does not show one.
        """
        return self.suggest().lr

    def suggest(self) -> Suggestion:
        r"""Return the peak for the training; without probes, that of the curve.

        With :math:`T` steps of the training and :math:`t` of a probe it is

        .. math:: \text{peak} = \text{lr} \cdot (t / T)^p, \qquad p = \min(p_0 + 5 g, 1)

        where lr is the lowest peak that is as good as the best of the longest probes: the loss is
        larger neither by three standard errors over the batches, nor by a tenth of what the best
        has gained since its first steps. It prefers low peaks, because a peak that is too high
        loses more than one that is too low by the same factor.

        The best peak of Adam's family falls with the length of the training,
        :math:`p_0 = 0.25`, as it does in language models (arXiv:2409.19913). That of other
        optimizers does not, :math:`p_0 = 0`. Both fall if the longer training over-fits: :math:`g`
        is how far the validation loss of the best probe lies above its training loss, as a fraction
        of the fall of the latter, see `Probe.over_fit`. The numbers are measured:
        ``experiments/benchmarks/kinds``.

        Returns:
            The learning rate and how it was found, or None and why there is none.
        """
        if not self.probes:
            lr, reason = self.curve.suggest()
            return Suggestion(lr, f"{reason}; no probes: {self.note}" if self.note else reason)
        chosen = self.chosen
        if chosen is None or chosen == self.first:
            lr, reason = peak_of_round(
                self.last_round, self.total_steps, self.judged_by, self.conditions
            )
            more = "" if lr is None else beyond(self.probes)
            return Suggestion(lr, f"{reason}; {more}" if more else reason)
        return peak_of_probe(chosen, self.total_steps, self.judged_by, self.conditions)

    def callback(self) -> ScheduleCallback:
        """Return the callback that trains at the peak, with the momentum that was chosen.

        The weight decay is the optimizer's. The callback refuses to train with another one than
        `weight_decay`.

        Returns:
            A `ScheduleCallback` with the schedule that was searched for.

        Raises:
            ValueError: If there is no peak.

        Example:
            >>> from lightning_onecycle import LRCurve
            >>> from lightning_onecycle.search import Probe
            >>> search = Search(LRCurve((0.1, 1.0), (2.3, 0.8)), (Probe(0.4, 0.5, 9, "completed"),))
            >>> search.callback().max_lr
            0.4
        """
        from lightning_onecycle.callback import ScheduleCallback

        schedule = self.schedule or one_cycle()
        if self.momentum is not None:
            schedule = schedule.with_momentum(*self.momentum)
        return ScheduleCallback(schedule, max_lr=self)

    def report(self) -> str:
        """Return what a recipe tried, kept and threw away, as a table in Markdown.

        Raises:
            ValueError: If the search has no recipe.
        """
        from lightning_onecycle.search.recipe_report import report

        return report(self)

    def __repr__(self) -> str:
        if self.recipe is not None:
            found = describe(self.suggestion(), self.weight_decay, self.momentum)
            return f"Recipe: {found}, {self.steps:,} steps for a training of {self.total_steps:,}"
        lr, reason = self.suggest()
        rounds = [
            f"after {length:,} steps: " + ", ".join(probe.outcome for probe in of_round)
            for length, of_round in groupby(self.probes, key=lambda probe: probe.length)
        ]
        judged_by = self.judged_by.replace("loss", "losses")
        why = f"{judged_by} {'; '.join(rounds)}" if rounds else reason
        peak = "no peak" if lr is None else f"peak {lr:.3g}"
        spent = f"{self.steps:,} steps for a training of {self.total_steps:,}"
        return f"Search: {peak} ({why}), {spent}"

    def plot(self, suggest: bool = True, ax: Axes | None = None) -> Figure:
        """Draw the curve and the probes, see `lightning_onecycle.search.plot.plot_search`.

        Of a recipe, without ``ax``, all curves and the probes of each stage are drawn, see
        `lightning_onecycle.search.recipe_plot.plot_recipe`.

        Args:
            suggest: Whether to mark the peak.
            ax: Where to draw. If None, a new figure is made.

        Returns:
            The figure.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        from lightning_onecycle.search.plot import plot_search
        from lightning_onecycle.search.recipe_plot import plot_recipe

        if self.recipe is not None and ax is None:
            return plot_recipe(self)
        return plot_search(self, suggest, ax).get_figure()  # type: ignore[return-value]

    def save(self, path: str | Path) -> None:
        """Write the search as JSON, whole or not at all. Directories are made.

        Args:
            path: The file.
        """
        content = {
            "format": _FORMAT,
            **{name: getattr(self, name) for name in _PLAIN},
            "probes": [probe.to_dict() for probe in self.probes],
            "curve": self.curve.to_dict(),
            "schedule": None if self.schedule is None else self.schedule.to_list(),
            "recipe": None if self.recipe is None else self.recipe.to_dict(),
            "range_options": dict(self.range_options),
        }
        write_whole(Path(path), to_text(content))

    @classmethod
    def load(cls, path: str | Path) -> Search:
        """Read a search that `save` wrote.

        Args:
            path: The file.

        Returns:
            The search.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it holds no search, or one of a later version.
        """
        return read_file(path, "a search", cls.from_dict)

    @classmethod
    def from_dict(cls, content: Any) -> Search:
        """Make a search of what `save` wrote."""
        check_format(content, _FORMAT)
        schedule, recipe = content.get("schedule"), content.get("recipe")
        return cls(
            curve=LRCurve.from_dict(content["curve"]),
            probes=tuple(
                Probe.from_dict({"length": content["probe_steps"], **values})
                for values in content["probes"]
            ),
            schedule=None if schedule is None else Schedule.from_list(schedule),
            recipe=None if recipe is None else Recipe.from_dict(recipe),
            range_options=content.get("range_options", {}),
            **{name: content[name] for name in _PLAIN},
        )
