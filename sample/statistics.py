"""Statistics of a data set: of its annotations, and of the objects that remain in augmented samples.

`python -m sample.statistics A.json B.json ...` compares those of several data sets in a Markdown table. The files are
what `python -m nnet.drawing.browse` writes, renamed to the names of the data sets.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from db import AnnotationIndex
from sample.augment import Sample
from sample.dataset import Key, TrainingSet
from sample.geometry import Size
from sample.targets import BatchObjects, Grid, PenaltyOptions, box_targets, penalty_spread

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
SIZES = ("small", "medium", "large")


class SampleObjects(NamedTuple):
    """The n objects of a sample, without its image."""

    boxes: np.ndarray  # (n, 4) float64 in pixels of the input
    rows: np.ndarray  # (n,) int64: rows of the index
    annotated: np.ndarray  # (m,) int64: rows of the index of all objects of the image, except boxes without area


def sample_objects(samples: TrainingSet, key: Key) -> SampleObjects:
    """The objects of the sample (epoch, i), with the same random choices as in training. No image is decoded.

    The augmentations get a black image, and the rows of the index in place of labels.
    """
    epoch, i = key
    index = samples.index
    image = np.broadcast_to(np.zeros(3, np.uint8), (*index.sizes[i].tolist(), 3))  # takes no memory
    boxes, _ = index.annotations(i)
    rows = np.arange(index.first[i], index.first[i + 1])
    sample = samples.augment(epoch, i, Sample(image, boxes, rows))
    return SampleObjects(sample.boxes, sample.labels, rows[has_size(boxes)])


def has_size(boxes: np.ndarray) -> np.ndarray:
    """Which of the boxes (n, 4) have a width and a height above zero: (n,) bool."""
    return (boxes[:, 2:] > boxes[:, :2]).all(1)


def coco_size(areas: np.ndarray) -> np.ndarray:
    """Which of SIZES areas (n,) in square pixels of the image have: (n,) int64."""
    return np.searchsorted([32**2, 96**2], areas, side="right")


def annotation_statistics(index: AnnotationIndex) -> dict[str, Any]:
    """Statistics of the annotations alone."""
    counts = np.diff(index.first)
    per_class = np.bincount(index.labels, minlength=index.num_classes)
    owner = np.repeat(np.arange(len(index)), counts)
    images = [len(np.unique(owner[index.labels == label])) for label in range(index.num_classes)]
    names = index.category_names
    return {
        "images": len(index),
        "images_without_objects": int((counts == 0).sum()),
        "objects": len(index.boxes),
        "crowds": int(index.crowd.sum()),
        "boxes_of_zero_size": int((~has_size(index.boxes)).sum()),
        "objects_per_image": distribution(counts),
        "image_height": distribution(index.sizes[:, 0]),
        "image_width": distribution(index.sizes[:, 1]),
        "sizes": dict(zip(SIZES, np.bincount(coco_size(index.areas), minlength=3).tolist(), strict=True)),
        "classes": {
            name: {"objects": int(n), "images": m} for name, n, m in zip(names, per_class, images, strict=True)
        },
    }


def sample_statistics(
    index: AnnotationIndex,
    found: Sequence[SampleObjects],
    input_size: Size,
    output_size: Size,
    keypoints: Sequence[str],
    penalty: PenaltyOptions,
) -> dict[str, Any]:
    """Statistics of the objects of samples, as the network gets them.

    Args:
        input_size: (height, width) in pixels. output_size: in cells.
        keypoints: kinds of keypoint that the network predicts. Without any, there are no radii and shared cells.
    """
    boxes = np.concatenate([np.zeros((0, 4)), *(sample.boxes for sample in found)])
    sides = (boxes[:, 2:] - boxes[:, :2]) * np.array(output_size[::-1]) / np.array(input_size[::-1])
    counts = [len(sample.boxes) for sample in found]
    kept, annotated = (
        np.concatenate([np.zeros(0, np.int64), *rows])
        for rows in ([sample.rows for sample in found], [sample.annotated for sample in found])
    )
    statistics = {
        "samples": len(found),
        "input_size": list(input_size),
        "output_size": list(output_size),
        "without_objects": counts.count(0),
        "objects_per_sample": distribution(counts),
        "annotated": len(annotated),
        "vanished": len(annotated) - len(kept),
        "vanished_by_size": vanished(coco_size(index.areas), kept, annotated, SIZES),
        "vanished_by_class": vanished(index.labels, kept, annotated, index.category_names),
        "width_in_cells": distribution(sides[:, 0]),
        "height_in_cells": distribution(sides[:, 1]),
    }
    if keypoints:
        spread = penalty_spread(torch.from_numpy(boxes), tuple(input_size), tuple(output_size), penalty)
        statistics["radius_in_cells"] = distribution(spread.radius.numpy())
        statistics["shared_cells"] = shared_cells(index, found, input_size, output_size, keypoints)
    return statistics


def vanished(
    groups: np.ndarray, kept: np.ndarray, annotated: np.ndarray, names: Sequence[str]
) -> dict[str, dict[str, int]]:
    """How many of the annotated objects are not kept, by group.

    Args:
        groups: number of the group of each object of the index, a position in `names`.
        kept, annotated: rows of the index. An object counts once for each sample of its image.
    """
    before, after = (np.bincount(groups[rows], minlength=len(names)).tolist() for rows in (annotated, kept))
    return {name: {"annotated": n, "vanished": n - m} for name, n, m in zip(names, before, after, strict=True)}


def shared_cells(
    index: AnnotationIndex,
    found: Sequence[SampleObjects],
    input_size: Size,
    output_size: Size,
    keypoints: Sequence[str],
) -> dict[str, dict[str, int]]:
    """For each kind of keypoint, how many objects have it in the same cell as another object of their sample.

    same_class: another object of the same class, so that the heatmap has one peak for both. any_class: of any class;
    embedding and offset are predicted once per cell.
    """
    shared = {name: {"same_class": 0, "any_class": 0} for name in keypoints}
    grid = Grid(1, 1, tuple(input_size), tuple(output_size))
    for sample in found:
        zeros = torch.zeros(len(sample.boxes), dtype=torch.int64)  # one class: of the targets, only cells are used
        objects = BatchObjects(torch.from_numpy(sample.boxes), zeros, zeros)
        labels = index.labels[sample.rows]
        for name, target in box_targets(keypoints, objects, grid, PenaltyOptions(kind="none")).items():
            cells = target.cells.numpy()
            shared[name]["any_class"] += repeated(cells)
            shared[name]["same_class"] += repeated(cells * index.num_classes + labels)
    return shared


def repeated(values: np.ndarray) -> int:
    """How many of the values (n,) occur more than once."""
    _, counts = np.unique(values, return_counts=True)
    return int(counts[counts > 1].sum())


def distribution(values: Sequence[float] | np.ndarray) -> dict[str, float | None]:
    """Mean and percentiles of values (n,), by name: p0 is the smallest, p50 the median. None without values."""
    values = np.asarray(values, dtype=np.float64)
    names = ["mean", *(f"p{p}" for p in PERCENTILES)]
    if not len(values):
        return dict.fromkeys(names)
    return dict(zip(names, [float(values.mean()), *np.percentile(values, PERCENTILES).tolist()], strict=True))


def describe(annotations: dict[str, Any], samples: dict[str, Any]) -> str:
    """Both statistics as text."""
    a, s = annotations, samples
    crowds = f", {a['crowds']:,} of them crowds" if a["crowds"] else ""
    empty = f", {a['boxes_of_zero_size']:,} of zero size" if a["boxes_of_zero_size"] else ""
    sizes = ", ".join(f"{share(n, a['objects'])} {name}" for name, n in a["sizes"].items())
    names = ["mean", "min", *(f"{p}%" for p in PERCENTILES[1:-1]), "max"]
    (height, width), (rows, columns) = s["input_size"], s["output_size"]
    lines = [
        f"Data set: {a['images']:,} images, {a['images_without_objects']:,} of them without objects; "
        f"{a['objects']:,} objects{crowds}{empty}",
        f"Objects by size: {sizes} (COCO's limits: 32^2 and 96^2 pixels)",
        "",
        *table(names, {key: a[key] for key in ("objects_per_image", "image_width", "image_height")}),
        "",
        *class_table(a, s),
        "",
        f"Samples as the network gets them: {s['samples']:,} of {height}x{width} pixels, {rows}x{columns} cells; "
        f"{s['without_objects']:,} without objects",
        f"Boxes that vanish in crops: {share(s['vanished'], s['annotated'])} of {s['annotated']:,} annotated objects ("
        + ", ".join(f"{share(v['vanished'], v['annotated'])} of {k}" for k, v in s["vanished_by_size"].items())
        + ")",
    ]
    kept = s["annotated"] - s["vanished"]
    for name, counts in s.get("shared_cells", {}).items():
        lines.append(
            f"Objects that share the cell of their {name.replace('_', '-')} keypoint with another: "
            f"{counts['same_class']:,} of the same class ({share(counts['same_class'], kept)}), "
            f"{counts['any_class']:,} of any class ({share(counts['any_class'], kept)})"
        )
    keys = ("objects_per_sample", "width_in_cells", "height_in_cells", "radius_in_cells")
    return "\n".join([*lines, "", *table(names, {key: s[key] for key in keys if key in s})]) + "\n"


def share(part: int, whole: int) -> str:
    """A part as a percentage; a dash without a whole."""
    return f"{100 * part / whole:.1f}%" if whole else "-"


def table(names: Sequence[str], rows: dict[str, dict[str, float | None]]) -> list[str]:
    """Distributions as the lines of a table."""
    cells = [
        [key.replace("_", " "), *("-" if v is None else f"{v:,.1f}" for v in row.values())] for key, row in rows.items()
    ]
    return aligned([["", *names], *cells])


def class_table(annotations: dict[str, Any], samples: dict[str, Any]) -> list[str]:
    """The classes as the lines of a table, the most frequent first."""
    lost, total = samples["vanished_by_class"], annotations["objects"]
    cells = [["class", "objects", "share", "images", "vanish in crops"]]
    for name, counts in sorted(annotations["classes"].items(), key=lambda item: -item[1]["objects"]):
        gone = share(lost[name]["vanished"], lost[name]["annotated"])
        cells.append([name, f"{counts['objects']:,}", share(counts["objects"], total), f"{counts['images']:,}", gone])
    return aligned(cells)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column is aligned to the left, the others to the right."""
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))])
        for row in rows
    ]


def compare(sets: Mapping[str, Mapping[str, Any]]) -> str:
    """Statistics of data sets by name as a Markdown table, one column per set. Each has `data_set`, of
    annotation_statistics, and `samples`, of sample_statistics."""
    columns = [comparable(values["data_set"], values["samples"]) for values in sets.values()]
    lines = [["", *sets], ["---"] * (len(sets) + 1)]
    lines += [[name, *(column.get(name, "-") for column in columns)] for name in columns[0]]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def comparable(annotations: Mapping[str, Any], samples: Mapping[str, Any]) -> dict[str, str]:
    """What `compare` shows of a data set, by the name of the row."""

    def some(values: Mapping[str, float | None], names: str, digits: int) -> str:
        return " / ".join("-" if values[name] is None else f"{values[name]:.{digits}f}" for name in names.split())

    kept = samples["annotated"] - samples["vanished"]
    column = {
        "images / objects / classes": f"{annotations['images']:,} / {annotations['objects']:,} / "
        f"{len(annotations['classes'])}",
        "objects per image: mean / median / 95% / max": some(annotations["objects_per_image"], "mean p50 p95 p100", 1),
        "width x height, medians": f"{annotations['image_width']['p50']:.0f}x{annotations['image_height']['p50']:.0f}",
        "small / medium / large": " / ".join(share(n, annotations["objects"]) for n in annotations["sizes"].values()),
        "input, height x width": "{}x{}".format(*samples["input_size"]),
        "boxes that vanish in samples": share(samples["vanished"], samples["annotated"]),
    }
    for name in ("width_in_cells", "height_in_cells"):
        column[f"{name.replace('_', ' ')}: 5% / median / 95%"] = some(samples[name], "p5 p50 p95", 1)
    if "radius_in_cells" in samples:
        spread = some(samples["radius_in_cells"], "p5 p25 p50 p75 p95 p100", 0)
        column["radius in cells: 5% / 25% / median / 75% / 95% / max"] = spread
    for name, counts in samples.get("shared_cells", {}).items():
        column[f"share a {name.replace('_', '-')} cell with one of their class"] = share(counts["same_class"], kept)
    return column


def main(argv: list[str] | None = None) -> int:
    """Command line of `python -m sample.statistics`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sample.statistics", description="Compare data sets.")
    parser.add_argument("files", nargs="+", type=Path, help="statistics.json of nnet.drawing.browse, by data set")
    args = parser.parse_args(argv)
    try:
        print(compare({path.stem: json.loads(path.read_text()) for path in args.files}), end="")
    except (OSError, ValueError, LookupError, TypeError) as error:
        print(f"error: {' '.join(str(error).split())}: name files that nnet.drawing.browse wrote", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
