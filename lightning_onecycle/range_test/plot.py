"""Pictures of LR range tests: Axes in, Axes out. Matplotlib is imported when one is asked for."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_onecycle.plots import GREY, PALETTE, new_axes
from lightning_onecycle.range_test.smoothing import ceiling

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lightning_onecycle.range_test.curve import LRCurve

_BLUE, _VERMILION = PALETTE[:2]
_DASHED, _DOTTED = (0, (5, 2)), (0, (1, 1.2))
_STYLES = ("-", _DASHED, _DOTTED, (0, (6, 2, 1, 2)))
# What a curve suggests besides the peak, each by its marker.
_MARKERS = {"steepest": "v", "valley": "s", "slide": "D", "minimum": "P"}


def plot_lr_curve(curve: LRCurve, suggest: bool = False, ax: Axes | None = None) -> Axes:
    """Draw the loss over the learning rate, as an LR range test measured it.

    The points are the losses as measured, the line is smoothed. The vertical axis ends well above
    where the loss began to fall; losses beyond it are drawn as small triangles at its end.

    Args:
        curve: What to draw.
        suggest: Whether to mark what each method suggests, or say why there is no suggestion.
        ax: Where to draw. If None, a new figure is made without pyplot.

    Returns:
        The axes; ``.figure`` is their figure.

    Raises:
        ImportError: If matplotlib is not installed.

    Example:
        >>> from lightning_onecycle.range_test import LRCurve
        >>> curve = LRCurve((0.01, 0.1, 1.0), (2.3, 0.8, 5.0), stopped="the loss blew up")
        >>> plot_lr_curve(curve).get_xscale()
        'log'
    """
    if ax is None:
        ax = new_axes()
    points = list(zip(curve.lrs, curve.losses, strict=True))
    low, high = _loss_limits(curve)
    inside = [(lr, loss) for lr, loss in points if loss <= high]
    above = [(lr, high) for lr, loss in points if loss > high]
    light: dict[str, Any] = {"color": _BLUE, "alpha": 0.35, "markeredgewidth": 0}
    ax.plot(*_columns(inside), "o", markersize=3.5, **light)
    ax.plot(*_columns(above), "^", markersize=4.5, clip_on=False, **light)
    levels = _drawn_levels(curve, high)
    ax.plot(curve.lrs, levels, color=_BLUE, linewidth=1.8, label="training loss, smoothed")
    if curve.val_lrs:
        ax.plot(
            curve.val_lrs,
            curve.val_losses,
            color=_VERMILION,
            linestyle=_DASHED,
            linewidth=1.4,
            marker="o",
            markersize=3.5,
            markerfacecolor=ax.get_facecolor(),
            label="validation loss",
        )
    ax.set_ylim(low, high)
    _dress_lr(ax, [curve])
    if suggest:
        _mark_suggestions(ax, curve)
    if curve.stopped and curve.lrs:
        ax.axvline(curve.lrs[-1], color=GREY, linewidth=0.8, linestyle=_DOTTED)
        ax.annotate(
            textwrap.fill(curve.stopped, 46),
            (curve.lrs[-1], 0.02),
            xycoords=ax.get_xaxis_transform(),
            xytext=(3, 0),
            textcoords="offset points",
            rotation=90,
            va="bottom",
            fontsize="x-small",
            color=GREY,
        )
    dress_legend(ax)
    return ax


def plot_lr_curves(curves: Mapping[str, LRCurve], ax: Axes | None = None) -> Axes:
    """Draw several range tests in one picture, as Smith does for values of the weight decay.

    Each is one smoothed line, with a dot at its minimum; the validation loss, where there is one,
    is a thin line of the same colour.

    Args:
        curves: What to draw, each by its label.
        ax: Where to draw. If None, a new figure is made without pyplot.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no curve.

    Example:
        >>> from lightning_onecycle.range_test import LRCurve
        >>> curve = LRCurve((0.01, 0.1, 1.0), (2.3, 0.8, 5.0))
        >>> ax = plot_lr_curves({"0.0001": curve, "0.001": curve})
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['0.0001', '0.001']
    """
    if not curves:
        raise ValueError("curves must be one LRCurve or more, got none")
    if ax is None:
        ax = new_axes()
    for index, (label, curve) in enumerate(curves.items()):
        color, style = PALETTE[index % len(PALETTE)], _STYLES[index % len(_STYLES)]
        levels = _drawn_levels(curve, _loss_limits(curve)[1])
        ax.plot(curve.lrs, levels, color=color, linestyle=style, linewidth=1.8, label=label)
        finite = [(loss, lr) for lr, loss in zip(curve.lrs, levels, strict=True) if loss == loss]
        if finite:
            loss, lr = min(finite)
            ax.plot(lr, loss, "o", color=color, markersize=5)
        ax.plot(curve.val_lrs, curve.val_losses, color=color, linewidth=0.9, alpha=0.8)
    limits = [_loss_limits(curve) for curve in curves.values()]
    ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    _dress_lr(ax, list(curves.values()))
    dress_legend(ax)
    return ax


def _columns(rows: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [row[0] for row in rows], [row[1] for row in rows]


def _loss_limits(curve: LRCurve) -> tuple[float, float]:
    """Return a range of losses that a blow-up does not reach."""
    lows, highs = [], []
    for losses in (curve.losses, curve.val_losses):
        finite = [loss for loss in losses if math.isfinite(loss)]
        if finite:
            lows.append(min(finite))
            highs.append(min(max(finite), ceiling(finite)))
    if not lows:
        return 0.0, 1.0
    low, high = min(lows), max(highs)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _drawn_levels(curve: LRCurve, high: float) -> list[float]:
    """Return the smoothed losses up to where the training has diverged for good."""
    levels = curve.smoothed()
    last = max((i for i, loss in enumerate(curve.losses) if loss <= high), default=-1)
    return levels[: last + 1] + [math.nan] * (len(levels) - last - 1)


def _mark_suggestions(ax: Axes, curve: LRCurve) -> None:
    suggestions = curve.suggestions()
    levels = dict(zip(curve.lrs, curve.smoothed(), strict=True))
    peak = suggestions["max_lr"]
    box = {"facecolor": ax.get_facecolor(), "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    if peak.lr is None:
        text = textwrap.fill(f"no suggestion: {peak.reason}", 75)
        ax.text(
            0.02,
            0.97,
            text,
            transform=ax.transAxes,
            va="top",
            fontsize="small",
            color=GREY,
            bbox=box,
        )
    else:
        ax.axvline(peak.lr, color=_VERMILION, linewidth=1.8)
        bounds = curve.bounds()
        if bounds is not None:
            label = f"cyclical {bounds[0]:.3g} to {bounds[1]:.3g}"
            ax.axvspan(*bounds, color=_VERMILION, alpha=0.1, linewidth=0, zorder=0, label=label)
        side = ax.transAxes.inverted().transform(ax.transData.transform((peak.lr, 0.0)))[0]
        ax.annotate(
            f"max_lr {peak.lr:.3g}",
            (peak.lr, 0.97),
            xycoords=ax.get_xaxis_transform(),
            xytext=(5 if side < 0.3 else -5, 0),
            textcoords="offset points",
            ha="left" if side < 0.3 else "right",
            va="top",
            color=_VERMILION,
            weight="bold",
            bbox=box,
        )
    for name, marker in _MARKERS.items():
        lr = suggestions[name].lr
        if lr is not None:
            nearest = min(levels, key=lambda rate: abs(math.log(rate / lr)))
            ax.plot(
                lr,
                levels[nearest],
                marker,
                color="black",
                markersize=6,
                markeredgecolor="white",
                zorder=3,
                label=f"{name} {lr:.3g}",
            )


def _dress_lr(ax: Axes, curves: Sequence[LRCurve]) -> None:
    if all(curve.mode == "exponential" for curve in curves):
        ax.set_xscale("log")
    if not any(math.isfinite(loss) for curve in curves for loss in curve.losses):
        rates = [lr for curve in curves for lr in curve.lrs] or [1.0]
        ax.set_xlim(min(rates) / 2.0, max(rates) * 2.0)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("loss")
    ax.margins(x=0.03)
    ax.tick_params(length=3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="0.93", linewidth=0.8)
    ax.set_axisbelow(True)


def dress_legend(ax: Axes) -> None:
    """Put the legend above the axes, in as many columns as fit in."""
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=max(min(len(labels), 88 // (6 + max(map(len, labels)))), 1),
        frameon=False,
        fontsize="small",
        borderaxespad=0.2,
        handlelength=2.2,
    )
