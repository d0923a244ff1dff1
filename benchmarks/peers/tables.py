"""The table and the curves of finished contests, made from their result files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.peers.contest import CURVE, DETECTORS
from db import DataError
from nnet.drawing.charts import Panel, plot_panels

Result = dict[str, Any]

TITLES = {
    "fcos": "FCOS",
    "retinanet": "RetinaNet",
    "faster_rcnn": "Faster R-CNN",
    "cornernet": "CornerNet",
    "centernet": "CenterNet",
    "squeeze": "CornerNet-Squeeze",
}
SHOWN = ("AP", "AP50", "APs", "APm", "APl", "FD")  # figures in percent


def percent(get: Callable[[Result], float | None]) -> Callable[[Sequence[Result]], str]:
    """A cell with the mean over the seeds in percent, and least and most."""

    def cell(results: Sequence[Result]) -> str:
        values = [100 * value for value in map(get, results) if value is not None]
        return spread(values, "{:.1f}") if values else "-"

    return cell


def epochs_per_step(contest: Mapping[str, Any]) -> float:
    return contest["batch"] / contest["images"]


def number(get: Callable[[Result], float], form: str) -> Callable[[Sequence[Result]], str]:
    """A cell with the mean over the seeds."""
    return lambda results: form.format(mean(map(get, results)))


def spread(values: Sequence[float], form: str) -> str:
    """Mean, and least to most where there are several values."""
    ends = f" ({form.format(min(values))} to {form.format(max(values))})" if len(values) > 1 else ""
    return form.format(mean(values)) + ends


COLUMNS: dict[str, Callable[[Sequence[Result]], str]] = {
    **{name: percent(lambda result, name=name: result["figures"][name]) for name in SHOWN},
    "AP without mirror image": percent(lambda result: result["AP_without_mirror"]),
    "parameters": number(lambda result: result["parameters"] / 1e6, "{:.1f}M"),
    "GFLOP": number(lambda result: result["gflop"], "{:.1f}"),
    "ms per image": number(lambda result: 1000 * result["seconds_per_image"], "{:.0f}"),
    "s per step": number(lambda result: result["training_seconds"] / result["iterations"], "{:.2f}"),
    "cores": number(lambda result: result["cpu_seconds"] / result["wall_seconds"], "{:.2f}"),
    "epochs": number(lambda result: result["iterations"] * epochs_per_step(result["contest"]), "{:.1f}"),
}


def read_results(folder: Path) -> list[Result]:
    """The result files of a folder. Raises DataError where there are none, or where they are of different contests."""
    results: list[Result] = []
    first: dict[str, Mapping[str, Any]] = {}  # the setting of a detector
    for path in sorted(folder.glob("*_seed*.json")):
        result = read_result(path)
        setting = setting_of(result)
        before = first.setdefault(result["detector"], setting)
        # The settings of different detectors may differ.
        others = differences(before, setting) or (results and differences(results[0]["contest"], result["contest"]))
        if others:
            raise DataError(f"{path} differs from the other results in {others}: keep each contest in its own folder")
        results.append(result)
    if not results:
        raise DataError(f"{folder} has no results of benchmarks.peers (<detector>_seed<number>.json)")
    return results


def read_result(path: Path) -> Result:
    """A result file. Raises DataError."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        setting_of(result)
    except (OSError, ValueError, LookupError, TypeError):
        raise DataError(f"{path} is not a result of benchmarks.peers: move it elsewhere") from None
    return result


def setting_of(result: Result) -> dict[str, Any]:
    """What the results of a detector with different seeds have in common."""
    return result["contest"] | {"settings": result["settings"]}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The keys in which two contests differ, with both values."""
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return ", ".join(f"{key} ({one.get(key)}, not {other.get(key)})" for key in keys)


def by_detector(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each detector, in the order of DETECTORS."""
    return {name: own for name in DETECTORS if (own := [result for result in results if result["detector"] == name])}


def table(results: Sequence[Result]) -> str:
    """What was compared, in a sentence, and a Markdown table with a row per detector."""
    lines = [head(results), "", f"| {' | '.join(['', 'seeds', *COLUMNS])} |", "| --- " * (len(COLUMNS) + 2) + "|"]
    for name, own in by_detector(results).items():
        cells = [TITLES[name], str(len(own)), *(cell(own) for cell in COLUMNS.values())]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def head(results: Sequence[Result]) -> str:
    """The contest and its machines in words."""
    contest = results[0]["contest"]
    command = " ".join([contest["config"], *contest["overrides"]])
    height, width = contest["input_size"]
    machines = dict.fromkeys(
        "{cpu}, threads: {threads}, PyTorch {torch}, torchvision {torchvision}".format(**result["machine"])
        for result in results
    )
    waiting = sum(result["waiting_seconds"] for result in results) / sum(result["wall_seconds"] for result in results)
    time = {"wall": "", "cpu": " of processor time per thread"}[contest["clock"]]
    return (
        f"{command}: {contest['minutes']:g} minutes{time} of training each, "
        f"from scratch, input {height}x{width}, batches of {contest['batch']} of {contest['images']} images; figures "
        f"on {contest['val_images']} validation images. {'; '.join(machines)}. Waiting for images took "
        f"{100 * waiting:.1f}% of the time."
    )


def draw_curves(results: Sequence[Result], path: Path) -> None:
    """AP over the time of training, the mean over the seeds."""
    panels = []
    for figure in CURVE:
        series = {TITLES[name]: mean_curve(own, figure) for name, own in by_detector(results).items()}
        panels.append(Panel(series, f"validation {figure}", "minutes of training", f"{figure}, %"))
    plot_panels(path, panels)


def mean_curve(results: Sequence[Result], figure: str) -> tuple[list[float], list[float]]:
    """Minutes, and the mean of a figure over the seeds in percent, from (0, 0) on."""
    points = list(zip(*(result["curve"] for result in results), strict=True))  # of each point of time, the seeds'
    minutes = [mean(point["seconds"] for point in own) / 60 for own in points]
    values = [100 * mean(point[figure] or 0.0 for point in own) for own in points]
    return [0.0, *minutes], [0.0, *values]
