"""How the figures look: one palette that everybody can tell apart, seeds as bands."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

HERE = Path(__file__).parent
# Okabe and Ito's palette, as in lightning_onecycle.plots; the dashes tell them apart in print.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "0.45"
DASHES: dict[str, Any] = {
    BLUE: "-",
    ORANGE: (0, (5, 2)),
    GREEN: (0, (1, 1.2)),
    PINK: (0, (6, 2, 1, 2)),
}


def new_figure(rows: int = 1, columns: int = 1, width: float = 7.0, height: float = 3.6) -> Figure:
    """Return a figure that pyplot does not know, with so many axes in ``.axes``."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    figure.subplots(rows, columns)
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(length=3)
        ax.grid(axis="y", color="0.93", linewidth=0.8)
        ax.set_axisbelow(True)
    return figure


def band(
    ax: Axes,
    x: Sequence[float],
    seeds: Sequence[Sequence[float]],
    color: str,
    label: str,
    **style: Any,
) -> None:
    """Draw the mean over seeds, and from the lowest to the highest seed as a band.

    Args:
        ax: Where to draw.
        x: What is measured at, n of them.
        seeds: For each seed its n values.
        color: One of the palette.
        label: For the legend.
        **style: For the line.
    """
    values = np.asarray(seeds, dtype=float)
    ax.fill_between(x, values.min(0), values.max(0), color=color, alpha=0.2, linewidth=0)
    style = {"linewidth": 1.6, "linestyle": DASHES[color], **style}
    ax.plot(x, values.mean(0), color=color, label=label, **style)


def legend(ax: Axes, columns: int = 4, **options: Any) -> None:
    """Put the legend above the axes."""
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        frameon=False,
        borderaxespad=0.2,
        handlelength=2.2,
        **options,
    )


def save(figure: Figure, path: Path | str) -> None:
    """Write a picture with a palette of 256 colours: a third of the bytes, and it looks the same.

    Args:
        figure: The figure.
        path: Where to. A name alone is beside this file.
    """
    file = BytesIO()
    figure.savefig(file)
    picture = Image.open(file).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(HERE / path, optimize=True)
