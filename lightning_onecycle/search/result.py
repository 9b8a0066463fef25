"""`Search`: a range test and the short trainings after it, and what they say. Pure Python."""

from __future__ import annotations

from dataclasses import dataclass
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
from lightning_onecycle.search.plan import part_of_peak
from lightning_onecycle.search.probe import Probe
from lightning_onecycle.search.recipe import Recipe
from lightning_onecycle.search.recipe_settings import describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_onecycle.callback import ScheduleCallback

_FORMAT = 1
_NOTABLE = 0.02  # over-fitting that is spoken of
_PLAIN = ("total_steps", "probe_steps", "cost", "steps", "judged_by", "note")


@dataclass(frozen=True, repr=False)
class Search:
    """What a search measured, and the peak that it suggests.

    Args:
        curve: The range test's.
        probes: The short trainings, in the order that they were run.
        total_steps: Optimizer steps of the training that the peak is for.
        probe_steps: The planned steps of each probe.
        cost: What might be spent, as a fraction of ``total_steps``.
        steps: Optimizer steps that were spent.
        judged_by: ``"validation loss"`` or ``"training loss"``.
        note: Why there are no probes, if there are none.
        schedule: What the peak is for, without a momentum that the recipe has chosen.
        recipe: What the recipe tried beside the peaks, where it was asked for.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from lightning_onecycle import LRCurve
        >>> from lightning_onecycle.search import Probe
        >>> curve = LRCurve((0.01, 0.1, 1.0), (2.3, 0.8, 5.0))
        >>> probes = [Probe(lr, loss, 50, "completed") for lr, loss in ((0.3, 0.52), (0.1, 0.48))]
        >>> search = Search(curve, tuple(probes), 200, 50, steps=103)
        >>> round(search.suggestion(), 4)
        0.0871
        >>> print(search)
        Search: peak 0.0871 (validation losses: 0.52 at 0.3, 0.48 at 0.1), 103 steps for 200
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
        """The complete probe with the lowest loss."""
        complete = [probe for probe in self.probes if probe.is_complete]
        return min(complete, key=lambda probe: probe.loss, default=None)

    @property
    def chosen(self) -> Probe | None:
        """The probe whose settings are suggested, or None where none is complete."""
        first = self.first
        return first if first is None or self.recipe is None else self.recipe.winner(first)

    @property
    def first(self) -> Probe | None:
        """The probe that the search over peaks chose, which the recipe goes on from."""
        return None if self.best is None else self._chosen(self.best)

    def suggestion(self) -> float | None:
        """Return the peak, or None; `suggest` says why.

        Returns:
            The learning rate, or None if the search does not show one.
        """
        return self.suggest().lr

    def suggest(self) -> Suggestion:
        r"""Return the peak for the training; without probes, that of the curve.

        With :math:`T` steps of the training and :math:`t` of a probe it is

        .. math:: \text{peak} = \text{lr} \cdot (t / T)^p, \qquad p = \min(0.1 + 5 g, 1)

        where lr is the lowest peak that is as good as the best: the loss is larger neither by three
        standard errors over the batches, nor by 2 % of what the best has gained since its first
        steps. It leans to the low side, since too high a peak loses more than one that is as much
        too low. The best peak falls with the length of a training, and far more where the longer
        training over-fits: :math:`g` is how far the validation loss of the best probe lies above
        its training loss, as a fraction of the fall of the latter, see `Probe.over_fit`. The
        numbers are measured: ``experiments/benchmarks/kinds``.

        Returns:
            The learning rate and how it was found, or None and why there is none.
        """
        best = self.best
        if not self.probes:
            lr, reason = self.curve.suggest()
            return Suggestion(lr, f"{reason}; no probes: {self.note}" if self.note else reason)
        if best is None:
            lowest = min(probe.lr for probe in self.probes)
            return Suggestion(None, f"no probe came to its end, down to a peak of {lowest:.3g}")
        complete = [probe for probe in self.probes if probe.is_complete]
        if len(complete) > 1 and all(probe.loss == best.loss for probe in complete):
            return Suggestion(None, f"the {self.judged_by} is {best.loss:.4g} at every peak")
        chosen = self._chosen(best)
        if self.recipe is not None and self.chosen not in (None, chosen):
            return self._suggest_of_recipe(self.chosen)
        part = part_of_peak(self.probe_steps, self.total_steps, best.over_fit)
        what = f"{part:.2g} of {chosen.lr:.3g}, for the training is longer"
        if best.over_fit > _NOTABLE:
            what += " and over-fits more"
        of = f"of {len(self.probes)} short trainings"
        if chosen is best:
            why = f"which has the lowest {self.judged_by}, {best.loss:.4g}, {of}"
        else:
            why = (
                f"whose {self.judged_by}, {chosen.loss:.4g}, is as good as the lowest,"
                f" {best.loss:.4g} at {best.lr:.3g}, {of}"
            )
        return Suggestion(chosen.lr * part, f"{what}; {why}")

    def _chosen(self, best: Probe) -> Probe:
        as_good = (probe for probe in self.probes if probe.is_as_good_as(best))
        return min(as_good, key=lambda probe: probe.lr)

    def _suggest_of_recipe(self, chosen: Probe) -> Suggestion:
        """Return the peak of a probe that came after the search over peaks."""
        part = part_of_peak(chosen.steps, self.total_steps, chosen.over_fit)
        longer = f"{part:.2g} of {chosen.lr:.3g}, for the training is longer" * (part < 1)
        why = f"the {self.judged_by} is {chosen.loss:.4g} after {chosen.steps:,} steps"
        return Suggestion(chosen.lr * part, f"{longer}; {why}" if longer else why)

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
            return f"Recipe: {found}, {self.steps:,} steps for {self.total_steps:,}"
        lr, reason = self.suggest()
        outcomes = ", ".join(probe.outcome for probe in self.probes)
        why = f"{self.judged_by.replace('loss', 'losses')}: {outcomes}" if outcomes else reason
        peak = "no peak" if lr is None else f"peak {lr:.3g}"
        return f"Search: {peak} ({why}), {self.steps:,} steps for {self.total_steps:,}"

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
            probes=tuple(Probe.from_dict(values) for values in content["probes"]),
            schedule=None if schedule is None else Schedule.from_list(schedule),
            recipe=None if recipe is None else Recipe.from_dict(recipe),
            **{name: content[name] for name in _PLAIN},
        )
