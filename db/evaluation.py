"""COCO's average precision and recall, computed by pycocotools, and CenterNet's false discovery rates."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cached_property

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .errors import DataError
from .index import AnnotationIndex
from .matches import Matches
from .results import check_results

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
DISCOVERY_IOUS = np.linspace(0.05, 0.5, 10)  # thresholds of the false discovery rates


class Evaluation(dict):
    """The 12 figures by the names in FIGURES: float in [0, 1], or None where the data has nothing to measure.

    pycocotools gives -1 for the latter (for example, no object of that size). None keeps it out of averages and is null
    in JSON.

    Attributes:
        per_class: AP of each category by name (see unique_names); None for categories without an object.
        by_iou: AP at each IoU threshold (keys rounded to 6 decimals).
        table: pycocotools' summary as text, 12 lines.
        coco: pycocotools' evaluation.
    """

    per_class: dict[str, float | None]
    by_iou: dict[float, float | None]
    table: str
    coco: COCOeval

    @cached_property
    def matches(self) -> Matches:
        """Which detection matches which object."""
        return Matches.of(self.coco)


def evaluate(
    index: AnnotationIndex,
    results: list[dict],
    image_ids: Sequence[int] | np.ndarray | None = None,
    iou_thresholds: Sequence[float] | np.ndarray | None = None,
) -> Evaluation:
    """Average precision and recall of COCO results against the annotations of an index. Prints nothing.

    Args:
        results: detections as `to_results` makes them. An empty list gives AP 0.
        image_ids: evaluate only these images of the index; results on others are ignored. All by default.
        iou_thresholds: in place of 0.50:0.05:0.95. AP and AR are means over them; AP50 and AP75 are None where 0.5 and
            0.75 are not among them.

    Raises:
        DataError: malformed results, results for unknown images or categories, unknown image_ids.
    """
    chosen = _choose(index, image_ids)
    _check_known(index, results)
    wanted = set(chosen.image_ids.tolist())
    with redirect_stdout(io.StringIO()):
        truth = _dataset(chosen, _ground_truth(chosen))
        found = _dataset(chosen, _detections([result for result in results if result["image_id"] in wanted]))
        evaluation = COCOeval(truth, found, "bbox")
        if iou_thresholds is not None:
            evaluation.params.iouThrs = np.asarray(iou_thresholds, dtype=np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
    with redirect_stdout(io.StringIO()) as table:
        evaluation.summarize()

    # precision: (IoU thresholds, recalls, categories, areas, numbers of detections); all areas, 100 detections
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    names = unique_names(index)
    figures = Evaluation(zip(FIGURES, map(_or_none, evaluation.stats), strict=True))
    figures.per_class = {names[c]: _mean(precision[:, :, k]) for k, c in enumerate(evaluation.params.catIds)}
    figures.by_iou = {round(float(t), 6): _mean(precision[k]) for k, t in enumerate(evaluation.params.iouThrs)}
    figures.table = table.getvalue().rstrip("\n")
    figures.coco = evaluation
    return figures


def unique_names(index: AnnotationIndex) -> dict[int, str]:
    """Names of the categories by id. Where several have one name, their ids are added."""
    count = Counter(index.category_names)
    pairs = zip(index.category_ids, index.category_names, strict=True)
    return {i: name if count[name] == 1 else f"{name} (id {i})" for i, name in pairs}


def false_discovery(
    index: AnnotationIndex, results: list[dict], image_ids: Sequence[int] | np.ndarray | None = None
) -> dict[str, float | None]:
    """False discovery rates of COCO results (CenterNet, Section 3.1 and Tables 1 and 3). Arguments as in `evaluate`.

    Returns:
        FD = 1 - AP, the mean over IoU 0.05:0.05:0.50; FD5, FD25 and FD50 at one IoU; FDs, FDm and FDl as FD, by size of
        the objects. Floats in [0, 1], None where the data has nothing to measure.

    Raises:
        DataError: as `evaluate`.
    """
    figures = evaluate(index, results, image_ids, iou_thresholds=DISCOVERY_IOUS)
    precision = {"FD": figures["AP"]} | {f"FD{round(100 * t)}": figures.by_iou[t] for t in (0.05, 0.25, 0.5)}
    precision |= {f"FD{size}": figures[f"AP{size}"] for size in "sml"}
    return {name: None if value is None else 1 - value for name, value in precision.items()}


def _choose(index: AnnotationIndex, image_ids: Sequence[int] | np.ndarray | None) -> AnnotationIndex:
    """The part of the index with these images. DataError if there are none, or if one is not in the index."""
    wanted = set(index.image_ids.tolist() if image_ids is None else (int(i) for i in image_ids))
    unknown = sorted(wanted.difference(index.image_ids.tolist()))
    if unknown or not wanted:
        what = f"image ids {unknown[:5]} are not in" if unknown else "no images were chosen from"
        raise DataError(f"evaluation: {what} {_described(index)}. Evaluate images that the annotation files list.")
    return index.take(np.searchsorted(index.image_ids, sorted(wanted)))


def _check_known(index: AnnotationIndex, results: list[dict]) -> None:
    """DataError unless the results are well-formed and their images and categories are in the index."""
    check_results(results)
    images, categories = set(index.image_ids.tolist()), set(index.category_ids)
    for i, result in enumerate(results):
        if result["image_id"] not in images or result["category_id"] not in categories:
            raise DataError(
                f"results[{i}]: image {result['image_id']} or category {result['category_id']} is not in "
                f"{_described(index)}. Evaluate results on the annotations they were made for."
            )


def _described(index: AnnotationIndex) -> str:
    """The index in messages, with its first annotation file if it has one."""
    return f"the index of {index.sources[0]}" if index.sources else "the index"


def _ground_truth(index: AnnotationIndex) -> list[dict]:
    """The annotated objects as pycocotools takes them."""
    image_ids = np.repeat(index.image_ids, np.diff(index.first))
    category_ids = np.array(index.category_ids)[index.labels]
    columns = image_ids, category_ids, np.hstack([index.boxes[:, :2], index.extents]), index.areas, index.crowd
    names = "image_id", "category_id", "bbox", "area", "iscrowd"
    return [dict(zip(names, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]


def _detections(results: list[dict]) -> list[dict]:
    """The detections as pycocotools takes them: their area is the box's."""
    names = "image_id", "category_id", "bbox", "score"
    return [
        {name: result[name] for name in names} | {"area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}
        for result in results
    ]


def _dataset(index: AnnotationIndex, boxes: list[dict]) -> COCO:
    """A pycocotools data set of these boxes on the images of the index."""
    dataset = COCO()
    dataset.dataset = {
        "images": [{"id": i} for i in index.image_ids.tolist()],
        "categories": [{"id": i} for i in index.category_ids],
        # ids from 1: pycocotools reads a match with id 0 as no match
        "annotations": [box | {"id": i} for i, box in enumerate(boxes, 1)],
    }
    dataset.createIndex()
    return dataset


def _mean(precision: np.ndarray) -> float | None:
    """Mean without the entries of -1 (nothing annotated); None if there are no others."""
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else None


def _or_none(value: float) -> float | None:
    return None if value < 0 else float(value)
