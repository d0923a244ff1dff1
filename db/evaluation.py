"""COCO's figures, computed by pycocotools."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import redirect_stdout

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .coco import check_together, listed, parse, read_coco
from .errors import DataError
from .results import check_results

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class Evaluation(dict):
    """The 12 figures by the names in FIGURES: float in [0, 1], or None where the data has nothing to measure.

    pycocotools says -1 for the latter (no object of that size, say); None keeps it out of averages and is null in JSON.

    Attributes:
        per_class: AP of each category by name; None for categories without an object.
        by_iou: AP at each IoU threshold (keys rounded to 6 decimals).
        table: pycocotools' summary in words, 12 lines.
    """

    per_class: dict[str, float | None]
    by_iou: dict[float, float | None]
    table: str


def evaluate(
    annotation_files: str | os.PathLike | Sequence[str | os.PathLike],
    results: list[dict],
    image_ids: Sequence[int] | np.ndarray | None = None,
    iou_thresholds: Sequence[float] | None = None,
) -> Evaluation:
    """Average precision and recall of COCO results against annotation files, taken together as by load_index.

    Args:
        results: detections as to_results makes them; there may be none (AP 0).
        image_ids: evaluate these images alone (results on others are passed over); all by default.
        iou_thresholds: in place of 0.50:0.05:0.95. AP and AR are means over them; AP50 and AP75 are None where 0.5 and
            0.75 are not among them. CenterNet's false discovery rate FD is 1 - AP over 0.05:0.05:0.50.

    Annotations without `area` count with the area of their box, those without `iscrowd` as single objects, and ids of
    annotations do not matter. Prints nothing.

    Raises:
        DataError: bad annotations or results, results for unknown images or categories, unknown image_ids.
    """
    images, annotations, parsed = [], [], []
    for path in listed(annotation_files, "annotation file"):
        content = read_coco(path)
        parsed.append(parse(path, content))
        images += content["images"]
        annotations += content["annotations"]
    check_together(parsed)
    categories = parsed[0]["categories"]
    known = {image["id"] for image in images}
    wanted = known if image_ids is None else {int(i) for i in image_ids}
    if not wanted or not wanted <= known:
        unknown = sorted(wanted - known)
        what = f"image ids {unknown[:5]} are not in" if unknown else "no image is asked for of"
        raise DataError(f"evaluation: {what} {parsed[0]['path']}. Evaluate images that the annotation files list.")
    check_results(results)
    for i, result in enumerate(results):
        if result["image_id"] not in known or result["category_id"] not in categories:
            raise DataError(
                f"results[{i}]: image {result['image_id']} or category {result['category_id']} is not in "
                f"{parsed[0]['path']}. Evaluate results on the annotations they were made for."
            )

    with redirect_stdout(io.StringIO()):
        truth = _dataset(annotations, images, categories)
        found = _dataset(results, images, categories)
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.imgIds = sorted(wanted)
        if iou_thresholds is not None:
            evaluation.params.iouThrs = np.asarray(iou_thresholds, dtype=np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
    with redirect_stdout(io.StringIO()) as table:
        evaluation.summarize()

    # precision: (IoU thresholds, recalls, categories, areas, numbers of detections); all areas, 100 detections
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    figures = Evaluation(zip(FIGURES, map(_or_none, evaluation.stats), strict=True))
    figures.per_class = {name: _mean(precision[:, :, k]) for k, name in enumerate(categories.values())}
    figures.by_iou = {round(float(t), 6): _mean(precision[k]) for k, t in enumerate(evaluation.params.iouThrs)}
    figures.table = table.getvalue().rstrip("\n")
    return figures


def _dataset(entries: list[dict], images: list[dict], categories: dict[int, str]) -> COCO:
    """A pycocotools data set of these boxes (annotations, or results, which have a score)."""
    boxes = []
    for i, entry in enumerate(entries, 1):  # pycocotools takes id 0 for "no match", and several files may share ids
        area = entry.get("area")
        box = {
            "id": i,
            "image_id": entry["image_id"],
            "category_id": entry["category_id"],
            "bbox": entry["bbox"],
            "area": entry["bbox"][2] * entry["bbox"][3] if area is None or "score" in entry else area,
            "iscrowd": 0 if "score" in entry else int(entry.get("iscrowd", 0)),
        }
        boxes.append(box | {"score": entry["score"]} if "score" in entry else box)
    dataset = COCO()
    dataset.dataset = {
        "images": [{"id": image["id"]} for image in images],
        "annotations": boxes,
        "categories": [{"id": i, "name": name} for i, name in categories.items()],
    }
    dataset.createIndex()
    return dataset


def _mean(precision: np.ndarray) -> float | None:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else None


def _or_none(value: float) -> float | None:
    return None if value < 0 else float(value)
