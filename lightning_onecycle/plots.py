"""The picture of a schedule. Matplotlib is imported when one is asked for, pyplot never."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_onecycle._checks import number
from lightning_onecycle.phases import Point, Schedule, value_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Okabe and Ito's palette without its yellow: told apart with any colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "0.45"
_LR, _MOMENTUM, _WEIGHT_DECAY = PALETTE[:3]
# They tell the lines apart in print.
_DASHES = {_LR: "-", _MOMENTUM: (0, (5, 2)), _WEIGHT_DECAY: (0, (1, 1.2))}
_MAX_POINTS = 2000


def new_figure(width: float, height: float) -> Figure:
    """Return a figure, in inches, that pyplot does not know, so that nothing holds on to it.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'plots need matplotlib: pip install "lightning-onecycle[plots]"'
        ) from error
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def new_axes(width: float = 7.0, height: float = 3.6) -> Axes:
    """Return the axes of a `new_figure`."""
    return new_figure(width, height).add_subplot()


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
        ax: Where to draw. If None, a new figure is made without pyplot.
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
        steps,
        values,
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
    """Draw momentum and weight decay, each on its own axis at the right."""
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
        color=GREY,
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
