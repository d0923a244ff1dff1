"""COCO's figures, computed by pycocotools."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .coco import check_together, listed, parse, read_coco
from .errors import DataError
from .results import check_results

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
AnnotationFiles = str | os.PathLike | Sequence[str | os.PathLike]


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


class GroundTruth:
    """Annotation files, taken together as by load_index, read once for several evaluations.

    Attributes:
        path: the first file, for messages.
        categories: names by id.
        coco: boxes and images as a pycocotools data set.

    Raises:
        DataError: bad annotations.
    """

    def __init__(self, annotation_files: AnnotationFiles) -> None:
        image_ids, annotations, parsed = [], [], []
        for path in listed(annotation_files, "annotation file"):
            content = read_coco(path)
            parsed.append(parse(path, content))
            image_ids += [image["id"] for image in content["images"]]
            annotations += content["annotations"]
        check_together(parsed)
        self.path, self.categories = parsed[0]["path"], parsed[0]["categories"]
        with redirect_stdout(io.StringIO()):
            self.coco = _dataset(annotations, image_ids, self.categories)


def evaluate(
    annotation_files: AnnotationFiles | GroundTruth,
    results: list[dict],
    image_ids: Sequence[int] | np.ndarray | None = None,
    iou_thresholds: Sequence[float] | None = None,
) -> Evaluation:
    """Average precision and recall of COCO results against annotation files, taken together as by load_index.

    Args:
        annotation_files: one or several, or what GroundTruth read from them.
        results: detections as to_results makes them; there may be none (AP 0).
        image_ids: evaluate these images alone (results on others are passed over); all by default.
        iou_thresholds: in place of 0.50:0.05:0.95. AP and AR are means over them; AP50 and AP75 are None where 0.5 and
            0.75 are not among them.

    Annotations without `area` count with the area of their box, those without `iscrowd` as single objects, and ids of
    annotations do not matter. Prints nothing.

    Raises:
        DataError: bad annotations or results, results for unknown images or categories, unknown image_ids.
    """
    truth = annotation_files if isinstance(annotation_files, GroundTruth) else GroundTruth(annotation_files)
    known = set(truth.coco.imgs)
    wanted = known if image_ids is None else {int(i) for i in image_ids}
    if not wanted or not wanted <= known:
        unknown = sorted(wanted - known)
        what = f"image ids {unknown[:5]} are not in" if unknown else "no image is asked for of"
        raise DataError(f"evaluation: {what} {truth.path}. Evaluate images that the annotation files list.")
    check_results(results)
    for i, result in enumerate(results):
        if result["image_id"] not in known or result["category_id"] not in truth.categories:
            raise DataError(
                f"results[{i}]: image {result['image_id']} or category {result['category_id']} is not in "
                f"{truth.path}. Evaluate results on the annotations they were made for."
            )

    with redirect_stdout(io.StringIO()):
        found = _dataset(results, known, truth.categories)
        evaluation = COCOeval(truth.coco, found, "bbox")
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
    figures.per_class = {name: _mean(precision[:, :, k]) for k, name in enumerate(truth.categories.values())}
    figures.by_iou = {round(float(t), 6): _mean(precision[k]) for k, t in enumerate(evaluation.params.iouThrs)}
    figures.table = table.getvalue().rstrip("\n")
    return figures


def false_discovery(
    annotation_files: AnnotationFiles | GroundTruth,
    results: list[dict],
    image_ids: Sequence[int] | np.ndarray | None = None,
) -> dict[str, float | None]:
    """False discovery rates of COCO results (CenterNet, Section 3.1 and Tables 1 and 3). Arguments as in `evaluate`.

    Returns:
        FD = 1 - AP, the mean over IoU 0.05:0.05:0.50; FD5, FD25 and FD50 at one IoU; FDs, FDm and FDl as FD, by size of
        the objects. Floats in [0, 1], None where the data has nothing to measure.

    Raises:
        DataError: as `evaluate`.
    """
    figures = evaluate(annotation_files, results, image_ids, iou_thresholds=np.linspace(0.05, 0.5, 10))
    precision = {"FD": figures["AP"]} | {f"FD{round(100 * t)}": figures.by_iou[t] for t in (0.05, 0.25, 0.5)}
    precision |= {f"FD{size}": figures[f"AP{size}"] for size in "sml"}
    return {name: None if value is None else 1 - value for name, value in precision.items()}


def _dataset(entries: list[dict], image_ids: Iterable[int], categories: dict[int, str]) -> COCO:
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
        "images": [{"id": i} for i in image_ids],
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
