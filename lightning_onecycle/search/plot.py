"""The picture of a search: Axes in, Axes out. Matplotlib is imported when one is asked for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lightning_onecycle.plots import GREY, PALETTE, new_axes
from lightning_onecycle.range_test.plot import dress_legend, plot_lr_curve
from lightning_onecycle.search.probe import of_length

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lightning_onecycle.search.result import Search

_VERMILION, _GREEN = PALETTE[1], PALETTE[2]


def plot_search(search: Search, suggest: bool = True, ax: Axes | None = None) -> Axes:
    """Draw the curve of the range test, and over it the loss of each short training.

    A filled point is the loss of a short training at its peak; those of the same length are
    connected, and listed by rising peak. A cross at the upper end is one that was stopped early.

    Args:
        search: What to draw.
        suggest: Whether to mark the peak.
        ax: Where to draw. If None, a new figure is made without pyplot.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:
        >>> from lightning_onecycle import LRCurve, Search
        >>> from lightning_onecycle.search import Probe
        >>> curve = LRCurve((0.01, 0.1, 1.0), (2.3, 0.8, 5.0))
        >>> ax = plot_search(Search(curve, (Probe(0.1, 0.5, 50, "completed"),)))
        >>> ax.get_legend().get_texts()[-1].get_text()
        'validation loss after 50 steps: 0.5'
    """
    ax = plot_lr_curve(search.curve, ax=new_axes() if ax is None else ax)
    complete = [probe for probe in search.probes if probe.is_complete]
    given_up = [probe.lr for probe in search.probes if not probe.is_complete]
    marks: dict[str, Any] = {"color": _GREEN, "markersize": 8, "zorder": 4}
    for marker, length in zip("osD", sorted({probe.length for probe in complete}), strict=False):
        points = sorted((probe.lr, probe.loss) for probe in of_length(complete, length))
        # The losses in words, too: they differ little beside those of the range test.
        losses = ", ".join(f"{loss:.4g}" for _, loss in points)
        label = f"{search.judged_by} after {length:,} steps: {losses}"
        style = {"linewidth": 1.2, "markeredgecolor": "white", "label": label, **marks}
        ax.plot(*zip(*points, strict=True), f"{marker}-", **style)
    if complete:
        drawn = [probe.loss for probe in complete]
        low, high = ax.get_ylim()
        margin = 0.06 * (max(high, *drawn) - min(low, *drawn))
        ax.set_ylim(min(low, min(drawn) - margin), max(high, max(drawn) + margin))
    if given_up:
        # On the axis, where no loss is drawn: theirs is not known.
        ends = [0.97] * len(given_up)
        transform = ax.get_xaxis_transform()
        ax.plot(given_up, ends, "x", transform=transform, label="given up", **marks)
    _widen(ax, [probe.lr for probe in search.probes])
    lr, reason = search.suggest()
    if suggest and lr is not None:
        ax.axvline(lr, color=_VERMILION, linewidth=1.8, zorder=1)
        ax.annotate(
            f"peak {lr:.3g}",
            (lr, 0.97),
            xycoords=ax.get_xaxis_transform(),
            xytext=(5, 0),
            textcoords="offset points",
            va="top",
            color=_VERMILION,
            weight="bold",
        )
    elif suggest:
        ax.text(0.02, 0.97, f"no peak: {reason}", transform=ax.transAxes, va="top", color=GREY)
    dress_legend(ax)
    return ax


def _widen(ax: Axes, lrs: list[float]) -> None:
    """Let peaks beyond the range of the test be seen."""
    low, high = ax.get_xlim()
    inside = [low, high, *(math.sqrt(0.5) * lr for lr in lrs), *(math.sqrt(2.0) * lr for lr in lrs)]
    ax.set_xlim(min(inside), max(inside))
