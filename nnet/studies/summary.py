"""What a study keeps of a run besides its metrics.json: study.json, small enough to be kept with the results.

It holds the duration of the training, its curves, and the figures on resamples of the test images. The resamples are
the same ones for all runs on the same images, so that figures of any two runs can be compared image by image without
their detections.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from db import AnnotationIndex, DataError
from db.files import write_text
from nnet.analysis.bootstrap import RESAMPLES, all_values, resample
from nnet.report.runs import Run, load_run
from nnet.studies.plan import Pair, read_json
from nnet.training.metrics import read_metrics

SUMMARY = "study.json"
SEED = 0  # of the resamples
STEP = 1e-4  # resolution of the figures on resamples
POINTS = 100  # of a curve
CURVES = ("loss", "val_loss", "val_AP")


def read_summary(pair: Pair, metrics: dict[str, Any]) -> dict[str, Any]:
    """The content of a pair's study.json; empty if there is none, or if it is not of these metrics."""
    summary = read_json(pair.folder / SUMMARY)
    if not isinstance(summary, dict) or not isinstance(summary.get("resampled"), dict):
        return {}
    return summary if summary.get("of") == [metrics["iteration"], metrics["AP"], metrics["detections"]] else {}


def is_complete(pair: Pair, summary: dict[str, Any]) -> bool:
    """Whether a study.json has all columns of the study, which may have been given more."""
    return bool(summary) and set(resampled_figures(pair)) <= set(summary["resampled"]["values"])


def resampled_figures(pair: Pair) -> list[str]:
    """The columns of the study that are figures on resamples too: those that are not of an analysis."""
    return [name for name in pair.study.figures if "." not in name]


def write_summary(pair: Pair, progress: Callable[[int], None]) -> None:
    """Compute and write study.json.

    progress: called with the number of resamples that are done.

    Raises:
        ConfigError, DataError: the detections or the data cannot be read.
    """
    run = load_run(pair.folder)
    rows = read_metrics(pair.folder / "metrics.jsonl")
    summary = {
        "of": [run.metrics["iteration"], run.metrics["AP"], run.metrics["detections"]],
        "training_seconds": training_seconds(rows, sum(pair.variant.training["train"]["batch"])),
        "curves": {name: thinned(rows, name) for name in CURVES},
        "resampled": {"images": fingerprint(run.index), "number": RESAMPLES, "seed": SEED, "step": STEP}
        | {"values": resampled(run, resampled_figures(pair), progress)},
    }
    try:
        write_text(pair.folder / SUMMARY, lines(summary))
    except OSError as error:
        raise DataError(f"{pair.folder / SUMMARY}: cannot be written ({error.strerror})") from None


def resampled(run: Run, names: Sequence[str], progress: Callable[[int], None]) -> dict[str, list[int | None]]:
    """Figures on resamples of the images, in units of STEP; None where a resample has nothing to measure."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for weights in resample(len(run.index), RESAMPLES, SEED):
        values, _ = all_values(run.evaluation.matches, run.discovery.matches, weights)
        for name in names:
            parts[name].append(values[name])
        progress(len(weights))
    return {
        name: [None if math.isnan(value) else round(value / STEP) for value in np.concatenate(own).tolist()]
        for name, own in parts.items()
    }


def fingerprint(index: AnnotationIndex) -> str:
    """A digest of the images and objects that detections are compared with."""
    digest = hashlib.sha256()
    for name in ("image_ids", "first", "boxes", "labels", "crowd", "category_ids"):
        digest.update(np.ascontiguousarray(getattr(index, name)).tobytes())
    return digest.hexdigest()[:16]


def training_seconds(rows: Sequence[dict[str, Any]], batch: int) -> float | None:
    """Time of all training steps, from the speed in the rows of metrics.jsonl. None without rows.

    Validations and saving do not count, nor does the work that an interruption has lost.
    """
    seconds, before = 0.0, 0
    for row in rows:
        if "images_per_second" in row:
            seconds += (row["iteration"] - before) * batch / row["images_per_second"]
            before = row["iteration"]
    return round(seconds, 1) if before else None


def thinned(rows: Sequence[dict[str, Any]], name: str) -> list[list[float]]:
    """[iterations, values] of a curve, as means over intervals where it has more than POINTS points."""
    points = [(row["iteration"], row[name]) for row in rows if row.get(name) is not None]
    parts = np.array_split(np.array(points, np.float64).reshape(-1, 2), min(POINTS, len(points)) or 1)
    means = [part.mean(0) for part in parts if len(part)]
    return [[round(float(x), 1) for x, _ in means], [float(f"{y:.4g}") for _, y in means]]


def lines(values: Any, indent: str = "") -> str:
    """Nested values as JSON with a line for every value that is no mapping."""
    if not isinstance(values, dict):
        return json.dumps(values, separators=(",", ":"))
    inner = [f'{indent} "{key}": {lines(value, indent + " ")}' for key, value in values.items()]
    return "{\n" + ",\n".join(inner) + f"\n{indent}}}" + ("" if indent else "\n")


def summarise(pairs: Sequence[Pair], bar: Callable[..., Any]) -> list[str]:
    """Write the study.json of all finished pairs where it is missing. Returns why some could not be written.

    bar: makes a progress bar, see nnet.runtime.console.progress_bar.
    """
    finished = ((pair, metrics) for pair in pairs if (metrics := pair.metrics()))
    todo = [pair for pair, metrics in finished if not is_complete(pair, read_summary(pair, metrics))]
    problems = []
    with bar(total=len(todo) * RESAMPLES, desc="resampling", unit="resample", disable=not todo) as shown:
        for pair in todo:
            try:
                write_summary(pair, shown.update)
            except ValueError as error:  # DataError, ConfigError
                problems.append(f"{pair.name}: no study.json for intervals over images, and curves: {error}")
    return problems
