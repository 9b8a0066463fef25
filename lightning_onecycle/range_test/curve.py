"""`LRCurve`: the loss over the learning rate, as an LR range test measured it. Pure Python."""

# Longer than other modules: nearly half of it is docstrings.

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning_onecycle._checks import choice, number
from lightning_onecycle._files import write_whole
from lightning_onecycle.range_test.conditions import Conditions
from lightning_onecycle.range_test.json_file import (
    check_format,
    read_file,
    read_losses,
    to_text,
    written,
)
from lightning_onecycle.range_test.smoothing import ceiling, smooth
from lightning_onecycle.range_test.suggest import (
    METHODS,
    SIGMA,
    Reading,
    Suggestion,
    read,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Method = Literal["max_lr", "steepest", "valley", "slide", "minimum"]
Rule = Callable[[list[float], list[float]], "float | None"]

_FORMAT = 1


@dataclass(frozen=True)
class LRCurve:
    """The losses of an LR range test, and the peaks that they suggest.

    The losses are not smoothed. The methods smooth them when they read the curve.

    Args:
        lrs: The learning rate of each optimizer step, > 0 and rising. With several param groups it
            is the largest group's.
        losses: The training loss of each step. NaN and infinities are allowed. The
            methods leave them out.
        conditions: What the test ran under, or None if it is not known.
        stopped: Why the test ended. Empty if it is not known.
        mode: How the rates rise, ``"exponential"`` or ``"linear"``.
        val_lrs: Learning rates at which the validation loss was measured.
        val_losses: The validation losses there.
        diverged: Whether the test ended because the training diverged at the last rate.

    Raises:
        ValueError: If lengths differ, rates are not positive and rising, or a loss is no number.

    Example:
        >>> losses = [2.3, 2.3, 2.3, 2.3, 2.2, 1.8, 1.2, 0.9, 0.8, 1.9, 9.0]
        >>> curve = LRCurve([10 ** (k / 2 - 5) for k in range(11)], losses)
        >>> round(curve.suggestion(), 3)
        0.079
        >>> curve.suggest("max_lr").reason
        'a quarter of 0.316, where half of the fall is lost again'
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    conditions: Conditions | None = None
    stopped: str = ""
    mode: Literal["exponential", "linear"] = "exponential"
    val_lrs: tuple[float, ...] = ()
    val_losses: tuple[float, ...] = ()
    diverged: bool = False

    def __post_init__(self) -> None:
        choice("mode", self.mode, ("exponential", "linear"))
        if not (self.conditions is None or isinstance(self.conditions, Conditions)):
            raise ValueError(f"conditions must be Conditions or None, got {self.conditions!r}")
        if not isinstance(self.stopped, str):
            raise ValueError(f"stopped must be a string, got {self.stopped!r}")
        for name, of in (("lrs", "losses"), ("val_lrs", "val_losses")):
            rates = _rates(name, getattr(self, name))
            losses = _losses(of, getattr(self, of))
            if len(rates) != len(losses):
                raise ValueError(
                    f"{of} must be as many as {name}, got {len(losses)} and {len(rates)}"
                )
            object.__setattr__(self, name, rates)
            object.__setattr__(self, of, losses)

    def __repr__(self) -> str:
        steps = f"{len(self.lrs)} steps"
        if self.lrs:
            steps += f", lr {self.lrs[0]:.3g} to {self.lrs[-1]:.3g}"
        lr, reason = self.suggest()
        suggests = reason if lr is None else f"max_lr {lr:.3g} ({reason})"
        return f"LRCurve({'; '.join(filter(None, (steps, self.stopped, suggests)))})"

    @property
    def results(self) -> dict[str, list[float]]:
        """The curve in the form of Lightning's ``results``, with ``"lr"`` and ``"loss"``."""
        return {"lr": list(self.lrs), "loss": list(self.losses)}

    @property
    def significance(self) -> float:
        """How far the smoothed loss falls, over the standard error of that fall.

        The noise is taken from the curve itself, by a median that a blow-up does not reach. The
        range of pure noise is about 3; below about 6 a curve shows nothing, see `suggest`.
        """
        return self.reading().significance

    def smoothed(self, sigma: float | None = None) -> list[float]:
        r"""Return the losses, smoothed over the logarithm of the learning rate and without lag.

        .. math:: s_i = \frac{\sum_j w_{ij} \min(l_j, c)}{\sum_j w_{ij}}, \qquad
            w_{ij} = e^{-(\log_{10} \eta_i - \log_{10} \eta_j)^2 / 2 \sigma^2}

        Losses above the ceiling :math:`c`, well above where the fall began, say only that the
        training diverged. They are cut off there, so that they do not drag their neighbours.

        Args:
            sigma: Width of the window in decades, > 0. If None, 0.1, and 0.03 where the rates rise
                linearly, which puts the points closer together at the end that matters.

        Returns:
            As many losses as there are rates. Where the loss is not finite it is NaN, and takes no
            part.

        Raises:
            ValueError: If ``sigma`` is not > 0.

        Example:
            >>> LRCurve((0.1, 1.0, 10.0), (3.0, 3.0, 3.0)).smoothed(0.5)
            [3.0, 3.0, 3.0]
        """
        if sigma is None:
            sigma = self._sigma
        sigma = number("sigma", sigma, "> 0", lambda v: v > 0)
        finite = [i for i, loss in enumerate(self.losses) if math.isfinite(loss)]
        result = [math.nan] * len(self.losses)
        if finite:
            raw = [self.losses[i] for i in finite]
            limit = ceiling(raw)
            positions = [math.log10(self.lrs[i]) for i in finite]
            levels, _ = smooth(positions, [min(loss, limit) for loss in raw], sigma)
            for i, level in zip(finite, levels, strict=True):
                result[i] = level
        return result

    def suggestion(self, method: Method | Rule = "max_lr") -> float | None:
        """Return the learning rate that a method suggests, or None; `suggest` says why.

        Args:
            method: As for `suggest`.

        Returns:
            The learning rate, or None if the curve does not show one.

        Raises:
            ValueError: If there is no such method.
        """
        return self.suggest(method).lr

    def suggest(self, method: Method | Rule = "max_lr") -> Suggestion:
        """Read a learning rate off the curve, and say how.

        All methods read the smoothed losses. If the curve does not fall by more than its noise,
        only a function of your own is called, and the other methods suggest nothing.

        Args:
            method: ``"max_lr"``, the peak for a 1cycle training: a quarter of the rate where half
                of the fall is lost again, at most the rate at the minimum
                (`lightning_onecycle.range_test.suggest.one_cycle_peak`). If the minimum is wider
                than a decade, a decade above its start. ``"steepest"``: where the loss
                falls fastest over log10 of the rate. ``"valley"``, ``"slide"`` and ``"minimum"``
                (a tenth of the rate at the minimum): fastai's. Or a function of the rates and the
                smoothed losses, two lists of the finite points, that returns a rate or None.

        Returns:
            The learning rate and how it was found, or None and why there is none.

        Raises:
            ValueError: If there is no such method.

        Example:
            >>> LRCurve((0.01, 0.1, 1.0), (2.3, 2.3, 2.3)).suggest()
            Suggestion(lr=None, reason='3 finite losses are too few, at least 5 are needed')
        """
        if callable(method):
            return self._ask(method)
        if method not in METHODS:
            options = ", ".join(map(repr, METHODS))
            raise ValueError(f"method must be one of {options} or a function, got {method!r}")
        reading = self.reading()
        return Suggestion(None, reading.problem) if reading.problem else METHODS[method](reading)

    def suggestions(self) -> dict[str, Suggestion]:
        """Return what each named method suggests."""
        reading = self.reading()
        if reading.problem:
            return dict.fromkeys(METHODS, Suggestion(None, reading.problem))
        return {name: method(reading) for name, method in METHODS.items()}

    def bounds(self) -> tuple[float, float] | None:
        """Return the pair of rates between which a cyclical learning rate moves.

        The upper one is the suggestion ``"max_lr"``. The lower one is a quarter of it: over many
        cycles a third or a quarter (Smith, arXiv:1506.01186, section 3.3, and arXiv:1708.07120,
        section 3). A single cycle starts from a tenth, which is `one_cycle`'s ``div_factor``.

        Returns:
            The lower and the upper rate, or None where there is no suggestion.
        """
        peak = self.suggestion()
        return None if peak is None else (peak / 4.0, peak)

    def plot(self, suggest: bool = False, ax: Axes | None = None) -> Figure:
        """Draw the curve, see `lightning_onecycle.range_test.plot.plot_lr_curve`.

        Args:
            suggest: Whether to mark what the methods suggest.
            ax: Where to draw. If None, a new figure is made.

        Returns:
            The figure.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        from lightning_onecycle.range_test.plot import plot_lr_curve

        return plot_lr_curve(self, suggest, ax).get_figure()  # type: ignore[return-value]

    def save(self, path: str | Path) -> None:
        """Write the curve as JSON, whole or not at all. Directories are made.

        Args:
            path: The file.
        """
        write_whole(Path(path), to_text(self.to_dict()))

    @classmethod
    def load(cls, path: str | Path) -> LRCurve:
        """Read a curve that `save` wrote.

        Args:
            path: The file.

        Returns:
            The curve.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it holds no curve, or one of a later version.
        """
        return read_file(path, "an LR curve", cls.from_dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the curve as `json.dump` takes it."""
        return {
            "format": _FORMAT,
            "mode": self.mode,
            "stopped": self.stopped,
            "diverged": self.diverged,
            "lr": self.lrs,
            "loss": written(self.losses),
            "val_lr": self.val_lrs,
            "val_loss": written(self.val_losses),
            "conditions": None if self.conditions is None else self.conditions.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LRCurve:
        """Make a curve of what `to_dict` returned.

        Args:
            values: The same, after a way through JSON.

        Returns:
            The curve.

        Raises:
            KeyError: If something is missing.
            ValueError: If it is no curve, or one of a later version.
        """
        check_format(values, _FORMAT)
        conditions, stopped = values.get("conditions"), values.get("stopped", "")
        return cls(
            lrs=values["lr"],
            losses=read_losses(values["loss"]),
            conditions=None if conditions is None else Conditions.from_dict(conditions),
            stopped=stopped,
            mode=values.get("mode", "exponential"),
            val_lrs=values.get("val_lr", ()),
            val_losses=read_losses(values.get("val_loss", ())),
            # Older files have it in the words alone.
            diverged=bool(values.get("diverged", " at lr " in str(stopped))),
        )

    @property
    def _sigma(self) -> float:
        return 0.3 * SIGMA if self.mode == "linear" else SIGMA

    def reading(self) -> Reading:
        """Return the curve as the methods see it: smoothed, with its minimum and its edge."""
        return read(self.lrs, self.losses, self._sigma)

    def _ask(self, rule: Rule) -> Suggestion:
        reading = self.reading()
        name = getattr(rule, "__name__", type(rule).__name__)
        if not reading.lrs:
            return Suggestion(None, reading.problem)
        answer = rule(list(reading.lrs), list(reading.losses))
        if answer is None:
            return Suggestion(None, f"{name} returned None")
        lr = float(answer)
        if not (math.isfinite(lr) and lr > 0):
            return Suggestion(None, f"{name} returned {lr:g}, which is no learning rate")
        return Suggestion(lr, f"as {name} says")


def _rates(name: str, values: Any) -> tuple[float, ...]:
    rates = tuple(
        number(f"{name}[{i}]", value, "> 0", lambda v: v > 0)
        for i, value in enumerate(_sequence(name, values))
    )
    for i in range(1, len(rates)):
        if rates[i] <= rates[i - 1]:
            raise ValueError(f"{name} must rise, got {rates[i]:g} after {rates[i - 1]:g}")
    return rates


def _losses(name: str, values: Any) -> tuple[float, ...]:
    values = _sequence(name, values)
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be numbers, got {values!r}") from error


def _sequence(name: str, values: Any) -> Sequence[Any]:
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise ValueError(f"{name} must be a sequence of numbers, got {values!r}")
    return list(values)
