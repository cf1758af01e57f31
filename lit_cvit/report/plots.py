"""What all figures share: the figure, the heat map, plain axes, the colours, and the PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart; black is kept for means.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F")
MARKERS = "osD^vPX<>*"
INK = "#222222"
_FAINT, _EMPTY = "#DDDDDD", "#F4F4F4"


def new_figure(
    width: float, height: float, title: str, *, size: float = 9.5, by_hand: bool = False
) -> Figure:
    """Make a figure that belongs to no window.

    Args:
        width: Inches.
        height: Inches.
        title: What the figure is of; empty for none.
        size: Font size of the title, in points.
        by_hand: The caller places the axes, instead of a solver that takes minutes for 98 of them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=None if by_hand else "constrained")
    FigureCanvasAgg(figure)
    # A share of the height would put the title of a tall figure among its panels.
    place = {"y": 1 - 0.12 / height, "va": "top"} if by_hand else {}
    if title:
        figure.suptitle(title, fontsize=size, color=INK, **place)
    return figure


def png(figure: Figure, *, dpi: int = 150) -> bytes:
    """The figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def heat_map(
    axes: Axes,
    cells: Sequence[Sequence[float | None]],
    *,
    top: float = 1.0,
    palette: str = "Blues",
    column: int = 0,
    number: Callable[[float], str] | None = None,
    size: float = 6.0,
) -> None:
    """Draw cells from 0 to `top`, from light to dark; those that are None or NaN are empty.

    The image, for a scale beside it, is the last of `axes.images`.

    Args:
        axes: Where. Ticks lose their marks and the frame goes, names are the caller's.
        cells: Rows of equal length, the first one on top.
        top: The value with the darkest colour; those beyond it have the same.
        palette: Name of a matplotlib palette from light to dark.
        column: Where the first column stands, so that maps of several palettes may stand side by side.
        number: Value to the text in its cell; by default there is none.
        size: Font size of the numbers, in points.
    """
    colours = _palette(palette)
    values = [[math.nan if value is None else value for value in row] for row in cells]
    extent = (column - 0.5, column + len(values[0]) - 0.5, len(values) - 0.5, -0.5)
    axes.imshow(values, cmap=colours, vmin=0, vmax=top, aspect="auto", extent=extent)
    axes.set_facecolor(_EMPTY)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if number is None:
        return
    for y, row in enumerate(values):
        for x, value in enumerate(row, start=column):
            if not math.isnan(value):
                red, green, blue, _ = colours(value / top)
                ink = INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"
                axes.text(x, y, number(value), ha="center", va="center", fontsize=size, color=ink)


def plain_axes(axes: Axes, *, size: float = 8.5) -> None:
    """Leave two spines and faint lines across, behind what is drawn.

    Args:
        axes: The axes.
        size: Font size of the ticks, in points.
    """
    axes.tick_params(labelsize=size)
    axes.grid(axis="y", color=_FAINT, lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _palette(name: str) -> Colormap:
    """The palette without its ends: white looks like an empty cell, and the darkest takes no number."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    colours = ListedColormap(colormaps[name]([0.04 + 0.82 * step / 255 for step in range(256)]))
    return colours.with_extremes(bad=_EMPTY)
