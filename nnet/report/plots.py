"""Charts of a page, drawn with matplotlib as SVG in the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from db.matches import RECALLS
from nnet.analysis.errors import FALSE_POSITIVE_IOU
from nnet.drawing.charts import LINE_COLOURS, draw_panels
from nnet.families.options import SHOWN_SCORE
from nnet.report.runs import Run
from nnet.training.metrics import curve_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = 4.6, 3.2  # inches, width and height: text stays legible on a phone
NAMED_CLASSES = 10  # up to this number, each class has a line with its name
# matplotlib's colours -> those of the page, which differ between light and dark
THEME = {"#000000": "currentColor", "#3c3c3c": "currentColor", "#ffffff": "var(--card)"}
THEME |= dict.fromkeys(("#e4e4e4", "#cccccc"), "var(--line)")


def charts(run: Run) -> dict[str, list[str]]:
    """The charts of a run as SVG, by section of the page."""
    panels = curve_panels(run.log)
    return {
        "precision and recall": [precision_recall(run), precision_recall_by_class(run)],
        "scores and sizes": [score_histogram(run), size_histogram(run)],
        "training": [svg(draw_panels([panel])) for panel in panels],
    }


def svg(figure: Figure) -> str:
    """A figure as an SVG element. Its text and axes take the colours of the page."""
    import matplotlib

    figure.set_size_inches(*SIZE)
    figure.set_facecolor("none")
    for axes in figure.axes:
        axes.set_facecolor("none")
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"\s+", " ", drawn)
    for ink, variable in THEME.items():
        drawn = drawn.replace(ink, variable)
    size = re.search(r' width="([\d.]+)pt"', drawn)
    drawn = drawn.replace(size[0], f' style="max-width:{1.4 * float(size[1]):.0f}px"', 1)
    return re.sub(r' height="[\d.]+pt"', "", drawn, count=1)


def new_axes(**labels: Any) -> tuple[Figure, Axes]:
    """An empty chart. labels: as of Axes.set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set(**labels)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4")
    axes.set_axisbelow(True)
    return figure, axes


def precision_recall(run: Run) -> str:
    """Precision at 101 recalls, a mean over the classes, by IoU threshold."""
    matches = run.evaluation.matches
    lines = {}
    for iou in (0.5, 0.6, 0.7, 0.8, 0.9):
        t = matches.threshold(iou)
        lines[f"IoU {iou}"] = np.mean([own.precision_at_recalls(t) for own in annotated(run).values()], axis=0)
    return draw_precision(lines, "mean over the classes")


def precision_recall_by_class(run: Run) -> str:
    """Precision at 101 recalls of each class. With many classes, only the best and the worst are named."""
    t = run.evaluation.matches.threshold(FALSE_POSITIVE_IOU)
    lines = {name: own.precision_at_recalls(t) for name, own in annotated(run).items()}
    order = sorted(lines, key=lambda name: -lines[name].mean())
    named = order if len(order) <= NAMED_CLASSES else [*order[:3], *order[-3:]]
    pale = [lines[name] for name in order if name not in named]
    return draw_precision({name: lines[name] for name in named}, f"by class, IoU {FALSE_POSITIVE_IOU}", pale)


def annotated(run: Run) -> Mapping[str, Any]:
    """The matches of the classes that have objects, by name."""
    pairs = zip(run.index.category_names, run.evaluation.matches.classes["all"], strict=True)
    return {name: own for name, own in pairs if own.annotated.any()}


def draw_precision(lines: Mapping[str, np.ndarray], title: str, pale: Sequence[np.ndarray] = ()) -> str:
    """A chart of precision over recall. pale: lines without a name."""
    figure, axes = new_axes(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    for line in pale:
        axes.plot(RECALLS, line, color="#999999", alpha=0.3, linewidth=0.8)
    for n, (name, line) in enumerate(lines.items()):
        style = "-" if n < len(LINE_COLOURS) else "--"
        label = name.replace("$", r"\$")  # not a formula
        axes.plot(RECALLS, line, style, color=LINE_COLOURS[n % len(LINE_COLOURS)], linewidth=1.6, label=label)
    axes.legend(loc="lower left", fontsize="small", framealpha=0.8)
    return svg(figure)


def score_histogram(run: Run) -> str:
    """The scores of true and of false positives."""
    figure, axes = new_axes(title="scores of the detections", xlabel="score", ylabel="detections")
    true = [d.score for d in run.judged if d.kind == "true_positive"]
    false = [d.score for d in run.judged if d.kind != "true_positive" and not d.ignored]
    draw_bars(axes, {"true positives": true, "false positives": false}, np.linspace(0, 1, 21))
    axes.set_yscale("symlog")  # false positives with low scores outnumber all others
    axes.set_ylim(bottom=0)
    return svg(figure)


def size_histogram(run: Run) -> str:
    """The sizes of found and of missed objects."""
    found = np.zeros(len(run.index.boxes), bool)
    found[[d.row for d in run.judged if d.kind == "true_positive" and d.score >= SHOWN_SCORE]] = True
    there, sizes = ~run.index.crowd, np.sqrt(run.index.extents.prod(1)).clip(1)
    title = f"sizes of the objects, score {SHOWN_SCORE}"
    figure, axes = new_axes(title=title, xlabel="square root of the area in pixels", ylabel="objects")
    edges = np.geomspace(sizes.min(), sizes.max() * 1.001, 21)
    draw_bars(axes, {"found": sizes[there & found], "missed": sizes[there & ~found]}, edges)
    axes.set_xscale("log")
    ticks = [n for n in (4, 8, 16, 32, 64, 96, 128, 256, 512, 1024, 2048) if edges[0] <= n <= edges[-1]]
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.set_xticks([], minor=True)
    return svg(figure)


def draw_bars(axes: Axes, groups: Mapping[str, Sequence[float]], edges: np.ndarray) -> None:
    """Draw a histogram with the groups on top of each other."""
    colours = [LINE_COLOURS[2], LINE_COLOURS[1]]
    axes.hist(list(groups.values()), edges, stacked=True, color=colours, label=list(groups), rwidth=0.92)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize="small", framealpha=0.8)
