"""The page about one run, or about the differences between two: one HTML file with its pictures beside it."""

from __future__ import annotations

import html
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnet.analysis.bootstrap import LEVEL, Difference, Differences
from nnet.analysis.classes import class_figures
from nnet.analysis.confusion import confusion_matrix
from nnet.analysis.tide import KINDS, pairing_figures, tide_figures
from nnet.families.options import SHOWN_SCORE
from nnet.report.compare import cells
from nnet.report.gallery import BOX_KINDS, LOWEST_SCORE, box_numbers, object_numbers
from nnet.report.plots import charts
from nnet.report.runs import Run

TEMPLATE = Path(__file__).with_name("page.html")
FIGURES = {
    "AP": "mean over IoU 0.50 to 0.95",
    **{f"AP{n}": f"IoU {n / 100}" for n in (50, 60, 70, 75, 80, 90)},
    **dict(zip(("APs", "APm", "APl"), ("small objects", "medium objects", "large objects"), strict=True)),
    **{f"AR{n}": f"recall, at most {n} of each class per image" for n in (1, 10, 100)},
    **dict(zip(("ARs", "ARm", "ARl"), ("small objects", "medium objects", "large objects"), strict=True)),
    "FD": "false discovery rate, mean over IoU 0.05 to 0.50",
    **{f"FD{n}": f"IoU {n / 100}" for n in (5, 25, 50)},
    **dict(zip(("FDs", "FDm", "FDl"), ("small objects", "medium objects", "large objects"), strict=True)),
}
ERRORS = {
    "classification": "IoU of 0.5 with an object of another class",
    "localisation": "IoU of 0.1 to 0.5 with an object of its class",
    "both": "IoU of 0.1 to 0.5 with an object of another class",
    "duplicate": "the object has a detection of a higher score",
    "background": "IoU below 0.1 with every object",
    "missed": "object that no detection could be fixed to match",
    "wrong_pairing": "the corners of two objects",
    "wrong_corner": "a corner, or the class, is wrong",
    "imprecise": "the corners of one object, but an IoU below 0.5",
}
Cell = str | tuple[str, float]
"""Text, or HTML with the value to sort it by."""


def write_page(
    path: Path, runs: Sequence[Run], images: list[list], heatmaps: Sequence[dict], differences: Differences | None
) -> None:
    """Write the page.

    Args:
        path: of the HTML file. runs: one or two.
        images: see gallery.write_pictures. heatmaps: of each run, see gallery.write_heatmaps.
        differences: of two runs, see compare.compare.
    """
    first = runs[0]
    title = " and ".join(run.name for run in runs)
    sections = [overview(runs)]
    sections += [published_table(first)] if differences is None else [difference_table(runs, differences.figures)]
    sections.append(class_tables(runs, differences))
    sections.append(error_tables(runs))
    sections += chart_sections(runs)
    page = TEMPLATE.read_text(encoding="utf-8")
    data = {
        "classes": first.index.category_names,
        "kinds": BOX_KINDS,
        "images": images,
        "objects": object_numbers(first),
        "runs": [run_data(run, layers) for run, layers in zip(runs, heatmaps, strict=True)],
    }
    values = {
        "title": html.escape(title),
        "sections": "\n".join(sections),
        "shown_score": str(SHOWN_SCORE),
        "data": json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    for name, value in values.items():
        page = page.replace("{{" + name + "}}", value)
    path.write_text(page, encoding="utf-8")


def run_data(run: Run, heatmaps: dict) -> dict[str, Any]:
    """What the page's script reads about a run."""
    confusion = confusion_matrix(run.index, run.results, run.evaluation.matches)
    return {"name": run.name, "confusion": confusion.tolist(), "heatmaps": heatmaps, **box_numbers(run)}


def section(title: str, text: str, *parts: str) -> str:
    return f"<section><h2>{title}</h2>{f'<p>{text}</p>' if text else ''}{''.join(parts)}</section>"


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]], marked: Sequence[bool] = ()) -> str:
    """A table whose rows are sorted by a click on a heading. marked: rows in bold."""
    numbers = [any(isinstance(row[n], tuple) for row in rows) for n in range(len(columns))]
    styles = [" class=number" if number else "" for number in numbers]
    head = "".join(f"<th{style}>{html.escape(name)}</th>" for name, style in zip(columns, styles, strict=True))
    body = []
    for n, row in enumerate(rows):
        tags = []
        for cell, style in zip(row, styles, strict=True):
            text, value = cell if isinstance(cell, tuple) else (html.escape(cell), None)
            sort_key = "" if value is None else f' data-value="{value:g}"'
            tags.append(f"<td{style}{sort_key}>{text}</td>")
        body.append(f"<tr{' class=star' if marked and marked[n] else ''}>{''.join(tags)}</tr>")
    table = f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def percent(value: float | None, sign: str = "") -> Cell:
    """A cell with a fraction in percent, empty without a value."""
    return "" if value is None or math.isnan(value) else (f"{100 * value:{sign}.1f}", value)


def overview(runs: Sequence[Run]) -> str:
    """What was run."""
    rows = []
    for run in runs:
        metrics = run.metrics
        seconds = metrics.get("seconds_per_image")
        rows.append(
            [
                run.name,
                str(run.checkpoint),
                str(metrics.get("iteration") or ""),
                metrics["split"] + (f", truth: {', '.join(metrics['truth'])}" if metrics.get("truth") else ""),
                f"{len(run.index):,}",
                f"{metrics.get('unreadable', 0):,}",
                f"{len(run.results):,}",
                "" if seconds is None else f"{seconds:.3f}",
            ]
        )
    columns = ["run", "checkpoint", "iteration", "split", "images", "unreadable", "detections", "seconds per image"]
    note = f"Detections with scores below {LOWEST_SCORE} count for the figures, but are not among the pictures below."
    return section("Runs", note, table(columns, rows))


def published_table(run: Run) -> str:
    """The figures of a run beside those that a paper has for it."""
    values = {name: run.metrics.get(name) for name in FIGURES} | run.evaluation
    rows, titles = [], set()
    for name, meaning in FIGURES.items():
        published, title = run.published.get(name, (None, ""))
        row: list[Cell] = [name, percent(values[name])]
        if run.published:
            known = published is not None and values[name] is not None
            row += ["" if published is None else (f"{published:.1f}", published / 100)]
            row += [percent(values[name] - published / 100, "+") if known else ""]
            titles |= {title} - {""}
        rows.append([*row, meaning])
    columns = ["figure (%)", "this run", *(["published", "difference"] if run.published else []), "meaning"]
    note = f"Published: {html.escape('; '.join(sorted(titles)))}." if titles else "No paper has figures for this run."
    return section("Average precision", note, table(columns, rows))


def difference_table(runs: Sequence[Run], figures: Mapping[str, Difference]) -> str:
    """The figures of two runs and their differences."""
    note = (
        f"A: {html.escape(runs[0].name)}. B: {html.escape(runs[1].name)}. The {LEVEL:.0%} interval of B - A is from "
        "resampling the images (paired bootstrap). Bold: the interval is without 0."
    )
    names = [name for name in FIGURES if name in figures]
    rows = [[name, *difference_cells(figures[name]), FIGURES[name]] for name in names]
    columns = ["figure (%)", "A", "B", "B - A", "interval", "meaning"]
    return section("Differences", note, table(columns, rows, [figures[name].significant for name in names]))


def difference_cells(difference: Difference) -> list[Cell]:
    first, second, change, interval, _ = cells(difference)
    if math.isnan(difference.change):
        return ["", "", "", ""]
    return [
        (first, difference.first),
        (second, difference.second),
        (change, difference.change),
        interval,
    ]


def class_tables(runs: Sequence[Run], differences: Differences | None) -> str:
    """The figures of each class: of one run, or the AP of two with their difference."""
    names = runs[0].index.category_names
    by_run = [class_figures(run.evaluation.matches, names) for run in runs]
    note = f"Precision, recall and counts are those of scores of at least {SHOWN_SCORE}, at IoU 0.5."
    if differences is None:
        rows = [[name, *map(figure_cell, figures.values())] for name, figures in by_run[0].items()]
        columns = ["class", "AP", "AP50", "precision", "recall", "objects", "true positives", "false positives"]
        return section("Classes", note, table(columns, rows))
    rows, marked = [], []
    for name, difference in differences.classes.items():
        pair = [figures[name] for figures in by_run]
        shown = [figure_cell(own[key]) for key in ("AP50", "precision", "recall") for own in pair]
        rows.append([name, *difference_cells(difference), *shown, figure_cell(pair[0]["objects"])])
        marked.append(difference.significant)
    pairs = [f"{key} {run}" for key in ("AP50", "precision", "recall") for run in "AB"]
    columns = ["class", "AP A", "AP B", "B - A", "interval", *pairs, "objects"]
    return section("Classes", note, table(columns, rows, marked))


def figure_cell(value: float | int | None) -> Cell:
    return (f"{value:,}", value) if isinstance(value, int) else percent(value)


def error_tables(runs: Sequence[Run]) -> str:
    """The kinds of errors of TIDE, and those of CornerNet, of all runs."""
    tide = [tide_figures(run.judged, run.index) for run in runs]
    kinds = [{kind: figures[kind] for kind in KINDS} for figures in tide]
    pairing = [pairing_figures(run.judged, run.index, run.results, run.config.penalty) for run in runs]
    most = max(figures["cost"] for own in (*kinds, *pairing) for figures in own.values())
    tables = [error_table("kind (TIDE)", kinds, most), error_table("kind (CornerNet)", pairing, most)]
    note = (
        "Cost: how much AP50 rises when the errors of this kind alone are fixed (TIDE, Bolya et al., 2020), or when "
        "the detections are removed (CornerNet, Figure 9). Detections of all scores count, the best 100 of each image."
    )
    return section("Errors", note, *tables)


def error_table(title: str, by_run: Sequence[Mapping[str, Mapping[str, float]]], most: float) -> str:
    """Counts and costs by kind, of one run or two. most: the cost whose bar is the longest."""
    rows: list[list[Cell]] = []
    for kind in by_run[0]:
        row: list[Cell] = [kind.replace("_", " ")]
        for figures in (own[kind] for own in by_run):
            bar = f'<span class="bar" style="width:{120 * figures["cost"] / most if most else 0:.0f}px"></span>'
            counted = (f"{figures['errors']:,}", figures["errors"])
            row += [counted, percent(figures["cost"]), (bar, figures["cost"])]
        rows.append([*row, ERRORS[kind]])
    names = [f" {letter}" for letter in "AB"] if len(by_run) > 1 else [""]
    columns = [column for name in names for column in (f"errors{name}", f"cost{name} (AP50)", "")]
    return table([title, *columns, "meaning"], rows)


def chart_sections(runs: Sequence[Run]) -> list[str]:
    """The charts of all runs, by section; those of two runs are side by side."""
    by_run = [charts(run) for run in runs]
    sections = []
    for title in by_run[0]:
        parts = []
        for pair in itertools.zip_longest(*(own[title] for own in by_run), fillvalue=""):
            for run, chart in zip(runs, pair, strict=True):
                heading = f"<h3>{html.escape(run.name)}</h3>" if len(runs) > 1 and chart else ""
                parts.append(f"<div>{heading}{chart}</div>")
        if parts:
            kind = "columns pairs" if len(runs) > 1 else "columns"
            sections.append(section(title.capitalize(), "", f'<div class="{kind}">{"".join(parts)}</div>'))
    return sections
