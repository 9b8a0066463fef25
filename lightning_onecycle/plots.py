"""Pictures: Axes in, Axes out. Matplotlib is imported when one is asked for, pyplot never."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_onecycle._checks import number
from lightning_onecycle.phases import Point, Schedule, value_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from lightning_onecycle.range_test.curve import LRCurve

# Okabe and Ito's palette, told apart with any colour vision; the dashes tell them apart in print.
_LR, _MOMENTUM, _WEIGHT_DECAY = "#0072B2", "#D55E00", "#009E73"
_DASHES = {_LR: "-", _MOMENTUM: (0, (5, 2)), _WEIGHT_DECAY: (0, (1, 1.2))}
_GREY = "0.45"
_MAX_POINTS = 2000
_CURVES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
# What a curve suggests besides the peak, each by its marker.
_MARKERS = {"steepest": "v", "valley": "s", "slide": "D", "minimum": "P"}


def new_axes(width: float = 7.0, height: float = 3.6) -> Axes:
    """Return the axes of a new figure that pyplot does not know, so that nothing holds on to it.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'plots need matplotlib: pip install "lightning-onecycle[plots]"'
        ) from error
    return Figure(figsize=(width, height), dpi=150, layout="constrained").add_subplot()


def plot_schedule(
    schedule: Schedule,
    total_steps: int,
    *,
    max_lr: float | None = None,
    ax: Axes | None = None,
    log: bool = False,
) -> Axes:
    """Draw a schedule over the optimizer steps of a run.

    The learning rate is on the left axis; momentum and weight decay, where they are scheduled,
    have axes of their own on the right. Thin vertical lines part the phases. The legend lies above
    the axes: a title fits in ``ax.figure.suptitle``.

    Args:
        schedule: What to draw.
        total_steps: Optimizer steps in the run, at least 1.
        max_lr: The optimizer's learning rate, > 0. If None, factors of it are drawn.
        ax: Where to draw. If None, a new figure is made, and pyplot does not hear of it.
        log: Whether the learning rate's axis is logarithmic. Zeros are then left out.

    Returns:
        The axes of the learning rate; ``.figure`` is its figure.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If ``total_steps`` or ``max_lr`` is out of range.

    Example:
        >>> from lightning_onecycle import one_cycle
        >>> ax = plot_schedule(one_cycle(), 100, max_lr=0.4)
        >>> ax.get_ylabel(), ax.texts[0].get_text()
        ('learning rate', 'peak 0.4 at step 44')
    """
    if max_lr is not None:
        max_lr = number("max_lr", max_lr, "> 0", lambda v: v > 0)
    segments = schedule.segments(total_steps)
    if ax is None:
        ax = new_axes()

    edges = {step for segment in segments for step in (segment.start, segment.end)}
    every = range(0, segments[-1].end + 1, -(-(segments[-1].end + 1) // _MAX_POINTS))
    steps = sorted(edges.union(every))
    points = [value_at(segments, step) for step in steps]
    rates = [point.lr * (1.0 if max_lr is None else max_lr) for point in points]

    lines = [_line(ax, steps, rates, _LR, "learning rate")]
    ax.set_ylabel("learning rate" + (" (factor)" if max_lr is None else ""), color=_LR)
    ax.set_xlabel("optimizer step")
    if log:
        ax.set_yscale("log", nonpositive="mask")
    lines += _right_axes(ax, steps, points, schedule)
    for segment in segments[1:]:
        ax.axvline(segment.start, color="0.8", linewidth=0.8, zorder=0)
    _mark_peak(ax, steps, rates)
    _dress(ax, lines)
    return ax


def _line(
    ax: Axes, steps: Sequence[int], values: Sequence[float], color: str, label: str
) -> Line2D:
    marker = "o" if len(steps) <= 40 else ""
    (line,) = ax.plot(
        *(steps, values),
        color=color,
        label=label,
        linestyle=_DASHES[color],
        linewidth=1.8,
        marker=marker,
        markersize=3.5,
    )
    return line


def _right_axes(
    ax: Axes, steps: Sequence[int], points: Sequence[Point], schedule: Schedule
) -> list[Line2D]:
    """Draw what else is scheduled, each on an axis of its own at the right."""
    nan = float("nan")
    momentum = [nan if point.momentum is None else point.momentum for point in points]
    drawn = []
    if any(value == value for value in momentum):
        drawn.append(("momentum", "momentum", momentum, _MOMENTUM))
    if schedule.schedules_weight_decay:
        decay = [point.weight_decay for point in points]
        drawn.append(("weight decay", "weight decay (factor)", decay, _WEIGHT_DECAY))
    lines = []
    for place, (label, title, values, color) in enumerate(drawn):
        twin = ax.twinx()
        lines.append(_line(twin, steps, values, color, label))
        twin.set_ylabel(title, color=color)
        twin.margins(x=0.02, y=0.14)
        twin.tick_params(axis="y", colors=color, length=3)
        twin.spines[["left", "top", "bottom"]].set_visible(False)
        twin.spines["right"].set_color(color)
        twin.spines["right"].set_position(("outward", 58 * place))
    return lines


def _mark_peak(ax: Axes, steps: Sequence[int], rates: Sequence[float]) -> None:
    """Say how high the learning rate is at its highest, and at which steps."""
    peak = max(rates)
    first = last = rates.index(peak)
    while last + 1 < len(rates) and rates[last + 1] == peak:
        last += 1
    start, end = steps[first], steps[last]
    where = f"at step {start:,}" if start == end else f"at steps {start:,} to {end:,}"
    middle = (start + end) / 2
    side = middle / max(steps[-1], 1)
    ax.annotate(
        f"peak {peak:.4g} {where}",
        (middle, peak),
        xytext=(0, 6),
        textcoords="offset points",
        ha="left" if side < 0.2 else "right" if side > 0.8 else "center",
        va="bottom",
        fontsize="small",
        color=_GREY,
        bbox={"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 1.0},
    )
    if start == end:
        ax.plot(start, peak, "o", color=_LR, markersize=5, zorder=3)


def _dress(ax: Axes, lines: Sequence[Line2D]) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    ax.margins(x=0.02, y=0.14)
    if ax.get_yscale() == "linear":  # from 0, with room for the peak's label, whatever was drawn
        ax.autoscale(axis="y")
        top = max(ax.get_ylim()[1], 1.14 * ax.dataLim.y1)
        ax.set_ylim(-0.03 * top, top)
    ax.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.tick_params(axis="y", colors=_LR, length=3)
    ax.tick_params(axis="x", length=3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines["left"].set_color(_LR)
    ax.grid(axis="y", color="0.93", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.legend(
        handles=lines,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=len(lines),
        frameon=False,
        borderaxespad=0.2,
        handlelength=2.6,
    )


def plot_lr_curve(curve: LRCurve, suggest: bool = False, ax: Axes | None = None) -> Axes:
    """Draw the loss over the learning rate, as an LR range test measured it.

    The points are the losses as measured, the line is smoothed. The vertical axis ends well above
    where the loss began to fall; losses beyond it are drawn as small triangles at its end.

    Args:
        curve: What to draw.
        suggest: Whether to mark what each method suggests, or say why there is no suggestion.
        ax: Where to draw. If None, a new figure is made, and pyplot does not hear of it.

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
    light: dict[str, Any] = {"color": _LR, "alpha": 0.35, "markeredgewidth": 0}
    ax.plot(*_columns(inside), "o", markersize=3.5, **light)
    ax.plot(*_columns(above), "^", markersize=4.5, clip_on=False, **light)
    levels = _drawn_levels(curve, high)
    ax.plot(curve.lrs, levels, color=_LR, linewidth=1.8, label="training loss, smoothed")
    if curve.val_lrs:
        ax.plot(
            *(curve.val_lrs, curve.val_losses),
            color=_MOMENTUM,
            linestyle=_DASHES[_MOMENTUM],
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
        ax.axvline(curve.lrs[-1], color=_GREY, linewidth=0.8, linestyle=_DASHES[_WEIGHT_DECAY])
        ax.annotate(
            textwrap.fill(curve.stopped, 46),
            (curve.lrs[-1], 0.02),
            xycoords=ax.get_xaxis_transform(),
            xytext=(3, 0),
            textcoords="offset points",
            rotation=90,
            va="bottom",
            fontsize="x-small",
            color=_GREY,
        )
    _lr_legend(ax)
    return ax


def plot_lr_curves(curves: Mapping[str, LRCurve], ax: Axes | None = None) -> Axes:
    """Draw several range tests in one picture, as Smith does for values of the weight decay.

    Each is one smoothed line, with a dot at its minimum; the validation loss, where there is one,
    is a thin line of the same colour.

    Args:
        curves: What to draw, each by its label.
        ax: Where to draw. If None, a new figure is made, and pyplot does not hear of it.

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
        color, style = _CURVES[index % len(_CURVES)], _STYLES[index % len(_STYLES)]
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
    _lr_legend(ax)
    return ax


def _columns(rows: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [row[0] for row in rows], [row[1] for row in rows]


def _loss_limits(curve: LRCurve) -> tuple[float, float]:
    """Return a range of losses that a blow-up does not reach."""
    from lightning_onecycle.range_test.suggest import ceiling

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
            *(0.02, 0.97, text),
            transform=ax.transAxes,
            va="top",
            fontsize="small",
            color=_GREY,
            bbox=box,
        )
    else:
        ax.axvline(peak.lr, color=_MOMENTUM, linewidth=1.8)
        bounds = curve.bounds()
        if bounds is not None:
            label = f"cyclical {bounds[0]:.3g} to {bounds[1]:.3g}"
            ax.axvspan(*bounds, color=_MOMENTUM, alpha=0.1, linewidth=0, zorder=0, label=label)
        side = ax.transAxes.inverted().transform(ax.transData.transform((peak.lr, 0.0)))[0]
        ax.annotate(
            f"max_lr {peak.lr:.3g}",
            (peak.lr, 0.97),
            xycoords=ax.get_xaxis_transform(),
            xytext=(5 if side < 0.3 else -5, 0),
            textcoords="offset points",
            ha="left" if side < 0.3 else "right",
            va="top",
            color=_MOMENTUM,
            weight="bold",
            bbox=box,
        )
    for name, marker in _MARKERS.items():
        lr = suggestions[name].lr
        if lr is not None:
            nearest = min(levels, key=lambda rate: abs(math.log(rate / lr)))
            ax.plot(
                *(lr, levels[nearest], marker),
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


def _lr_legend(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(
        *(handles, labels),
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=max(min(len(labels), 88 // (6 + max(map(len, labels)))), 1),
        frameon=False,
        fontsize="small",
        borderaxespad=0.2,
        handlelength=2.2,
    )
