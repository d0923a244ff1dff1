"""Confusion matrix: which classes are detected in place of which."""

from __future__ import annotations

from typing import Any

import numpy as np

from db import AnnotationIndex, Matches, Objects, evaluate
from nnet.analysis.base import Analysis
from nnet.analysis.errors import FALSE_POSITIVE_IOU
from nnet.analysis.overlap import iou_with_objects
from nnet.families.options import SHOWN_SCORE


class Confusion(Analysis):
    """Counts of detections by the class of the object and the detected class."""

    name = "confusion"
    key = "confusion"

    def figures(self, records: list[Any], results: list[dict]) -> dict[str, Any]:
        matrix = confusion_matrix(self.index, results, evaluate(self.index, results, iou_thresholds=[0.5]).matches)
        return {"min_score": SHOWN_SCORE, "classes": list(self.index.category_names), "matrix": matrix.tolist()}


def confusion_matrix(index: AnnotationIndex, results: list[dict], matches: Matches) -> np.ndarray:
    """(C + 1, C + 1) counts: rows are the objects' classes, columns the detected ones. The last row is the background.

    The last column are missed objects. The diagonal are COCO's true positives at FALSE_POSITIVE_IOU among detections
    with a score of at least SHOWN_SCORE. The other detections, by descending score, take the object that they overlap
    most of those that are left, with at least this IoU. What is left belongs to the background, or is missed.

    Args:
        results: see db.evaluate. matches: theirs.
    """
    classes, t = index.num_classes, matches.threshold(FALSE_POSITIVE_IOU)
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    free = ~index.crowd  # objects that no detection has taken
    others = []  # (image, score, class, position in the results) of false detections
    for k, own in enumerate(matches.classes["all"]):
        sure = own.scores >= SHOWN_SCORE
        right, false = own.right[t] & sure, own.counted[t] & ~own.right[t] & sure
        free[own.objects[t, right]] = False
        matrix[k, k] = right.sum()
        columns = (own.images[false], own.scores[false], own.detections[false])
        others += [(i, -score, d, k) for i, score, d in zip(*(c.tolist() for c in columns), strict=True)]
    for i, _, d, k in sorted(others):
        rows = np.arange(index.first[i], index.first[i + 1])
        rows = rows[free[rows]]
        x, y, width, height = results[d]["bbox"]
        left = Objects(index.boxes[rows], index.labels[rows], index.crowd[rows])
        iou = iou_with_objects(np.array([[x, y, x + width, y + height]]), left)[0]
        best = int(iou.argmax()) if len(iou) else -1
        if best >= 0 and iou[best] >= FALSE_POSITIVE_IOU:
            free[rows[best]] = False
            matrix[index.labels[rows[best]], k] += 1
        else:
            matrix[classes, k] += 1
    matrix[:classes, classes] = np.bincount(index.labels[free], minlength=classes)
    return matrix
