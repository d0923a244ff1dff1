"""Detections in COCO's result format: conversion, result files, and what the test-dev server expects."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .errors import DataError
from .files import write_text
from .index import AnnotationIndex


def to_results(
    index: AnnotationIndex, i: int, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, decimals: int | None
) -> list[dict]:
    """Detections of image i of the index as COCO results, in the order given.

    Args:
        boxes: (n, 4) float x1, y1, x2, y2 in pixels of the image.
        scores: (n,) float.
        labels: (n,) 0 to C - 1.
        decimals: as in coco_results.
    """
    return coco_results(int(index.image_ids[i]), index.category_ids, boxes, scores, labels, decimals)


def coco_results(
    image_id: int,
    category_ids: Sequence[int],
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    decimals: int | None,
) -> list[dict]:
    """Detections of an image as COCO results, in the order given.

    Args:
        category_ids: of the C classes.
        boxes: (n, 4) float x1, y1, x2, y2 in pixels of the image.
        scores: (n,) float.
        labels: (n,) 0 to C - 1.
        decimals: number of decimals that coordinates and scores are rounded to; None keeps full precision. The released
            code takes 2. It rounds x1, y1 and the differences x2 - x1, y2 - y1, which it computes in float32; x2 and y2
            are not rounded before the subtraction.
    """
    boxes = np.asarray(boxes).reshape(-1, 4)
    bboxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    values = [[*bbox, score] for bbox, score in zip(bboxes, np.asarray(scores).tolist(), strict=True)]
    if decimals is not None:
        # Python's round gives the nearest decimal, as formatting with "%.2f" does; numpy's may not
        values = [[round(value, decimals) for value in row] for row in values]
    return [
        {"image_id": image_id, "category_id": int(category_ids[int(label)]), "bbox": row[:4], "score": row[4]}
        for row, label in zip(values, np.asarray(labels).tolist(), strict=True)
    ]


def write_results(path: str | os.PathLike, results: list[dict]) -> None:
    """Write a result file atomically. DataError if a coordinate or score is NaN or infinite."""
    path = Path(path)
    try:
        text = json.dumps(results, allow_nan=False)
    except ValueError:
        raise DataError(f"{path}: not written: detections hold NaN or infinity. Has the network diverged?") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def check_results(results: object) -> None:
    """DataError unless results is a list of COCO bounding box results."""
    if not isinstance(results, list):
        raise DataError(f"not COCO results: a {type(results).__name__}, where a list of detections is expected.")
    for i, result in enumerate(results):
        if not isinstance(result, dict):
            raise DataError(f"not COCO results: entry [{i}] is a {type(result).__name__}, not an object.")
        for key in ("image_id", "category_id", "bbox", "score"):
            if key not in result:
                raise DataError(f"not COCO results: [{i}].{key} is missing.")
        if type(result["image_id"]) is not int or type(result["category_id"]) is not int:
            raise DataError(f"[{i}]: image_id and category_id must be whole numbers.")
        box = result["bbox"]
        if not isinstance(box, (list, tuple)) or len(box) != 4:
            raise DataError(f"[{i}].bbox is {box!r}; it must be 4 numbers: x, y, width, height.")
        if not all(isinstance(v, (int, float)) and np.isfinite(v) for v in (*box, result["score"])):
            raise DataError(f"[{i}]: bbox {box!r} and score {result['score']!r} must be finite numbers.")


def results_name(annotated: bool, annotation_stem: str, algorithm: str) -> str:
    """File name for the results on the images of an annotation file.

    Where only the evaluation server has the boxes (an image_info file, as for test-dev2017), this is the name that the
    server requires: detections_test-dev2017_<algorithm>_results.json. Otherwise results.json.

    Args:
        annotated: whether the annotation file has boxes.
        annotation_stem: the name of the annotation file without ".json".
        algorithm: name of the submission; characters that the server does not allow become "-".
    """
    subset = annotation_stem.removeprefix("image_info_")
    if annotated or subset == annotation_stem:
        return "results.json"
    return f"detections_{subset}_{re.sub('[^A-Za-z0-9.-]+', '-', algorithm)}_results.json"


def submission_note(path: str | os.PathLike) -> str:
    """One line that says how to submit a result file to COCO's evaluation server."""
    path = Path(path)
    return (
        f"to submit: zip -j {path.with_suffix('.zip')} {path}, and upload the archive to the detection (bounding box) "
        "task of the evaluation server named at https://cocodataset.org/#upload"
    )
