"""The results of a study as files: table.md, table.json and curves.png."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from db import DataError
from db.files import write_text
from nnet.analysis.bootstrap import LEVEL, RESAMPLES
from nnet.drawing.charts import Line, Panel, plot_panels
from nnet.runtime.files import make_folder
from nnet.studies.results import Results
from nnet.studies.statistics import Change, Interval

TABLE, DATA, PICTURE = "table.md", "table.json", "curves.png"
COLUMNS = {"training_seconds": ("training, s", "{:,.0f}"), "seconds_per_image": ("test, s/image", "{:.4f}")}
CURVES = {"loss": "training loss", "val_loss": "validation loss", "val_AP": "validation AP"}

# What an interval of statistics.Change covers, by its attribute
COVERED = {
    "both": f"""\
Differences to {{first}} in percentage points: means over the seeds, paired by seed. In brackets: the {LEVEL:.0%}
interval over test images and seeds, that is, with other images of the same kind and {{seeds}} other seeds. A star:
0 is outside.""",
    "images": f"""\
Differences to {{first}} in percentage points, paired by seed, with the {LEVEL:.0%} interval over test images alone: the
same networks with other test images ({RESAMPLES:,} resamples of the images, the same ones for all runs). It says
nothing about other seeds.""",
}


def write_results(results: Results, output: Path, command: str) -> str:
    """Write all files, each atomically. Returns the text of table.md.

    command: line that makes the study.

    Raises:
        DataError: the folder cannot be written to.
    """
    make_folder(output)
    panels = curve_panels(results)
    text = markdown(results, command, bool(panels))
    try:
        write_text(output / DATA, json.dumps(results.as_dict(), indent=1) + "\n")
        if panels:
            plot_panels(output / PICTURE, panels)
        write_text(output / TABLE, text)
    except OSError as error:
        raise DataError(f"{output}: cannot be written to ({error.strerror or error})") from None
    return text


def markdown(results: Results, command: str, curves: bool) -> str:
    """The tables, and what they mean. curves: whether there is a picture."""
    study = results.study
    missing = [pair.name for pair in results.pairs if pair not in results.finished]
    split = f"{results.images:,} images of data.{study.options.test.split}"
    count = len(results.finished)
    parts = [f"# {study.path.stem}", f"`{command}`: {count} run{'s' * (count > 1)}, tested on {split}."]
    parts += [f"Not finished: {'; '.join(missing)}."] if missing else []
    parts += ["Mean over the seeds in percent ± standard deviation (n - 1).", spreads(results)]
    others = [variant.name for variant in study.variants[1:]]
    tables = {which: differences(results, others, which) for which in COVERED}
    parts += ["## Differences"] if any(tables.values()) else []
    for which, text in tables.items():
        parts += [COVERED[which].format(first=results.first, seeds=len(study.options.seeds)), text] if text else []
    if curves:
        parts += ["## Curves", "Mean over the seeds; pale: each seed.", f"![curves]({PICTURE})"]
    folders = [pair.folder for pair in results.finished if (pair.folder / "results.json").exists()][:2]
    if len(folders) == 2:
        names = " ".join(folder.as_posix() for folder in folders)
        parts.append(f"A page about any two runs: `python -m nnet.report {names}`")
    return "\n\n".join(parts) + "\n"


def spreads(results: Results) -> str:
    """The table of means and deviations."""
    figures = results.study.options.figures
    rows = [["", "seeds", *figures, *(title for title, _ in COLUMNS.values())]]
    for variant in results.measured:
        count = sum(pair.variant.name == variant for pair in results.finished)
        cells = [spread_cell(results, variant, name, "{:.1f}", 100) for name in figures]
        cells += [spread_cell(results, variant, name, form, 1) for name, (_, form) in COLUMNS.items()]
        rows.append([variant, str(count), *cells])
    return table(rows)


def spread_cell(results: Results, variant: str, name: str, form: str, factor: float) -> str:
    """Mean and deviation of a figure, "-" where there is none. form: of a number."""
    spread = results.spread(variant, name)
    if spread is None:
        return "-"
    text = form.format(factor * spread.mean)
    return text if math.isnan(spread.deviation) else f"{text} ± {form.format(factor * spread.deviation)}"


def differences(results: Results, variants: Sequence[str], which: str) -> str:
    """The table of the differences to the first variant, empty where no interval is known.

    which: the interval, an attribute of Change.
    """
    figures = results.study.options.figures
    changes = {variant: [results.change(variant, name) for name in figures] for variant in variants}
    known = any(one and not math.isnan(getattr(one, which)[0]) for own in changes.values() for one in own)
    rows = [[variant, *(change_cell(one, which) for one in own)] for variant, own in changes.items() if any(own)]
    return table([["", *figures], *rows]) if known else ""


def change_cell(change: Change | None, which: str) -> str:
    """A difference in percentage points with its interval, and a star where 0 is outside."""
    if change is None:
        return "-"
    low, high = bounds = getattr(change, which)
    mean = f"{100 * change.mean:+.1f}"
    return mean if math.isnan(low) else f"{mean} ({100 * low:+.1f} to {100 * high:+.1f}){star(bounds)}"


def star(bounds: Interval) -> str:
    return " \\*" if bounds[0] > 0 or bounds[1] < 0 else ""


def table(rows: Sequence[Sequence[str]]) -> str:
    """Cells as GitHub Markdown; the first row is the heading."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    lines = (" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"| {line.rstrip()} |" for line in lines)


def curve_panels(results: Results) -> list[Panel]:
    """A chart per curve: the mean of each variant over its seeds, with the seeds behind it."""
    panels = []
    for name, title in CURVES.items():
        behind = {variant: list(own.values()) for variant, own in results.curves[name].items()}
        if behind:
            series = {variant: mean_line(own) for variant, own in behind.items()}
            panels.append(Panel(series, title, "iteration", log_y="loss" in name, behind=behind))
    return panels


def mean_line(lines: Iterable[Line]) -> Line:
    """The mean of curves, at the iterations that all of them have."""
    values = [dict(zip(*line, strict=True)) for line in lines]
    common = sorted(set.intersection(*(set(own) for own in values)))
    return common, [float(np.mean([own[x] for own in values])) for x in common]
