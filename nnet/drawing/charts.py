"""Line charts of what is measured during training, drawn with matplotlib.

matplotlib is imported when the first chart is drawn. Only its object-oriented interface is used, with the Agg canvas:
no display is needed and no global state changes.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nnet.drawing.images import write_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import YAxis
    from matplotlib.figure import Figure

# M. Okabe, K. Ito: Color Universal Design. Distinguishable by colour-blind readers.
LINE_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#3c3c3c"]
PANEL_SIZE = 6.4, 4.2  # inches, width and height
DPI = 100
MAX_MARKED_POINTS = 30  # a line of at most this many points has a marker at each


Line = tuple[Sequence[float], Sequence[float]]  # x, y; points that are not finite are left out


class Panel(NamedTuple):
    """One chart: lines over common axes."""

    series: Mapping[str, Line]  # by name
    title: str = ""
    xlabel: str = ""
    ylabel: str = ""
    log_y: bool = False  # logarithmic y axis; points at or below 0 are left out
    smooth: int = 1  # points of the running mean that is drawn over the pale line of raw values; 1 = no running mean
    behind: Mapping[str, Sequence[Line]] = MappingProxyType({})  # by name of a series: pale lines of its colour


def plot_panels(path: str | os.PathLike[str], panels: Sequence[Panel], columns: int = 2) -> None:
    """Write charts as one image of 640x420 pixels per chart, atomically.

    Args:
        path: an image file; its folder is created.
        panels: the charts, at least one, row by row.
        columns: charts in a row.

    Raises:
        OSError: the file cannot be written.
    """
    figure = draw_panels(panels, columns)
    figure.canvas.draw()
    rgba = np.asarray(figure.canvas.buffer_rgba())  # (H, W, 4)
    write_image(path, np.ascontiguousarray(rgba[:, :, 2::-1]))


def draw_panels(panels: Sequence[Panel], columns: int = 2) -> Figure:
    """A figure of charts, `columns` in a row; `figure.canvas.draw()` renders it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(PANEL_SIZE[0] * columns, PANEL_SIZE[1] * rows), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    FigureCanvasAgg(figure)
    for i, panel in enumerate(panels):
        _draw_panel(figure.add_subplot(rows, columns, i + 1), panel)
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    """Draw one chart into empty axes."""
    lines = {name: _drawable(x, y, panel.log_y) for name, (x, y) in panel.series.items()}
    pale = {name: [_drawable(x, y, panel.log_y) for x, y in own] for name, own in panel.behind.items()}
    axes.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    if any(len(line) for line in lines.values()):
        _set_scales(axes, np.concatenate([*lines.values(), *itertools.chain(*pale.values())]), panel.log_y)
    else:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", fontsize="x-large")
    for i, (name, line) in enumerate(lines.items()):
        mean = _running_mean(line, panel.smooth, panel.log_y)
        colour = LINE_COLOURS[i % len(LINE_COLOURS)]
        for own in pale.get(name, ()):
            axes.plot(*own.T, color=colour, alpha=0.35, linewidth=1)
        _draw_line(axes, name, line, mean, colour)
    if lines:
        axes.legend(loc="best")


def _draw_line(axes: Axes, name: str, raw: np.ndarray, mean: np.ndarray, colour: str) -> None:
    """Draw a running mean (N, 2) over the pale line of its raw values (N, 2), or one line where they are the same."""
    if mean is not raw:
        axes.plot(*raw.T, color=colour, alpha=0.35, linewidth=1)
    marker = "o" if len(mean) <= MAX_MARKED_POINTS else ""
    (line,) = axes.plot(*mean.T, color=colour, linewidth=2, marker=marker, markersize=5, label=name, zorder=3)
    # The limits of the axes are those of the data. Clipping at them would cut markers and thick lines in half.
    line.set_clip_on(False)
    line.set_in_layout(False)


def _drawable(x: Sequence[float], y: Sequence[float], log_y: bool) -> np.ndarray:
    """The points (N, 2) that can be drawn: finite ones, on a logarithmic axis those above 0."""
    points = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], axis=1).reshape(-1, 2)
    drawable = np.isfinite(points).all(axis=1)
    return points[drawable & (points[:, 1] > 0)] if log_y else points[drawable]


def _running_mean(line: np.ndarray, window: int, log_y: bool) -> np.ndarray:
    """Line (N, 2) with each y replaced by the mean of `window` points around it, of fewer at the ends.

    On a logarithmic axis it is the geometric mean. Returns the line itself where no two points are averaged.
    """
    window = min(window, len(line))
    if window < 2:
        return line
    y = np.log10(line[:, 1]) if log_y else line[:, 1]
    ones = np.ones(window)
    mean = np.convolve(y, ones, "same") / np.convolve(np.ones(len(line)), ones, "same")
    return np.stack([line[:, 0], 10**mean if log_y else mean], axis=1)


def _set_scales(axes: Axes, points: np.ndarray, log_y: bool) -> None:
    """Set limits, scales and ticks of the axes for points (N, 2), at least one."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    left, right = points[:, 0].min(), points[:, 0].max()
    axes.set_xlim((left, right) if right > left else (left - 1, right + 1))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10], integer=True, min_n_ticks=3))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick_label))
    low, high = _padded(np.log10(points[:, 1]) if log_y else points[:, 1])
    if log_y:
        axes.set_yscale("log")
        axes.set_ylim(10**low, 10**high)
        _set_log_ticks(axes.yaxis, decades=high - low)
    else:
        axes.set_ylim(low, high)
    axes.grid(axis="y", color="#e4e4e4")
    axes.set_axisbelow(True)


def _padded(values: np.ndarray) -> tuple[float, float]:
    """Limits of an axis around its values (N,): a constant lies in the middle."""
    low, high = float(values.min()), float(values.max())
    padding = 0.05 * (high - low) or 0.1 * abs(high) or 0.5
    return low - padding, high + padding


def _set_log_ticks(axis: YAxis, decades: float) -> None:
    """Set the ticks of a logarithmic axis: powers of ten over many decades, more over few, equal steps within one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, ScalarFormatter

    if decades > 0.8:
        axis.set_major_locator(LogLocator(subs=(1,) if decades > 3 else (1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(_tick_label))
    else:
        axis.set_major_locator(MaxNLocator(nbins=6))
        axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_locator(NullLocator())


def _tick_label(value: float, position: int | None = None) -> str:
    """A short text for a number: 20k, 1.5M, 0.05. position: the tick's index, which matplotlib passes."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e9:
            return f"{value / size:.10g}{unit}"
    return f"{value:.6g}"
