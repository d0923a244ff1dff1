"""Which detection matches which object, as COCO's evaluation finds it, and the figures that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pycocotools.cocoeval import COCOeval

RECALLS = np.linspace(0, 1, 101)  # where COCO samples the precision
AREAS = ("all", "small", "medium", "large")  # COCO's ranges of areas
CHUNK = 4_000_000  # values that are computed at a time


class ClassMatches(NamedTuple):
    """D detections of a class in N images, by descending score, matched at T IoU thresholds in a range of areas."""

    images: np.ndarray  # (D,) int64 position of the image in the index
    ranks: np.ndarray  # (D,) int64 position among the detections of this class in its image, 0 for the best
    scores: np.ndarray  # (D,) float64
    detections: np.ndarray  # (D,) int64 position in the results
    objects: np.ndarray  # (T, D) int64 row in index.boxes of the matched object, -1 without a match
    counted: np.ndarray  # (T, D) bool: not ignored (matched to a crowd; or matched to an object, or having an area,
    # out of range)
    annotated: np.ndarray  # (N,) int64 number of objects by image, without those that are ignored

    @property
    def right(self) -> np.ndarray:
        """The true positives: (T, D) bool."""
        return (self.objects >= 0) & self.counted

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """COCO's AP where each image counts as often as its weight says: (T, R), NaN without objects.

        weights: (R, N) int, R weightings of the images; all ones for the plain AP.
        """
        size = max(1, len(self.scores))
        rows = max(1, CHUNK // size)
        parts = [self._average_precision(weights[at : at + rows]) for at in range(0, len(weights), rows)]
        return np.concatenate(parts, axis=1)

    def _average_precision(self, weights: np.ndarray) -> np.ndarray:
        annotated = weights @ self.annotated  # (R,)
        values = np.zeros((len(self.objects), len(weights)))
        of_detections = weights[:, self.images]  # (R, D)
        for t, right in enumerate(self.right):
            places = np.flatnonzero(right)
            if len(places):
                last = places[-1] + 1  # later detections do not change the precision at any recall that is reached
                seen = np.cumsum(of_detections[:, :last] * self.counted[t, :last], axis=1)[:, places]
                hits = np.cumsum(of_detections[:, places], axis=1)
                precision = np.maximum.accumulate((hits / np.maximum(seen, 1))[:, ::-1], axis=1)[:, ::-1]
                recall = hits / np.maximum(annotated, 1)[:, None]
                reached = np.searchsorted(RECALLS, recall.ravel(), side="right").reshape(recall.shape)
                values[t] = (np.diff(reached, axis=1, prepend=0) * precision).sum(1) / len(RECALLS)
        values[:, annotated == 0] = np.nan
        return values

    def recall(self, weights: np.ndarray, limit: int) -> np.ndarray:
        """Recall with at most `limit` detections per image: (T, R), NaN without objects. weights: as above."""
        annotated = weights @ self.annotated
        found = np.stack([self._by_image(right & (self.ranks < limit)) for right in self.right])
        return np.where(annotated > 0, found @ weights.T / np.maximum(annotated, 1), np.nan)

    def _by_image(self, which: np.ndarray) -> np.ndarray:
        """The number of these detections (D,) bool in each image: (N,)."""
        return np.bincount(self.images[which], minlength=len(self.annotated))

    def precision_at_recalls(self, t: int) -> np.ndarray:
        """COCO's interpolated precision at RECALLS, at the t-th IoU threshold: (101,)."""
        right, counted = self.right[t], self.counted[t]
        hits = np.cumsum(right)
        precision = np.maximum.accumulate((hits / np.maximum(np.cumsum(counted), 1))[::-1])[::-1]
        first = np.searchsorted(hits / max(self.annotated.sum(), 1), RECALLS, side="left")
        return np.concatenate([precision, [0.0]])[np.minimum(first, len(precision))]


@dataclass(frozen=True)
class Matches:
    """The matches of all classes.

    Attributes:
        thresholds: (T,) of the IoU.
        classes: by range of areas (a name of AREAS), the matches of each class in the order of the index.
        images: number of images.
    """

    thresholds: np.ndarray
    classes: dict[str, list[ClassMatches]]
    images: int

    @classmethod
    def of(cls, evaluation: COCOeval) -> Matches:
        """The matches that a COCOeval has found, whose ids of boxes count from 1 (see db.evaluation)."""
        params = evaluation.params
        count = len(params.imgIds)
        classes: dict[str, list[ClassMatches]] = {}
        for a, area in enumerate(AREAS):
            firsts = [(k * len(AREAS) + a) * count for k in range(len(params.catIds))]
            classes[area] = [_class_matches(evaluation.evalImgs[at : at + count], params.iouThrs) for at in firsts]
        return cls(params.iouThrs, classes, count)

    def threshold(self, iou: float) -> int:
        """The position of an IoU threshold."""
        return int(np.flatnonzero(np.isclose(self.thresholds, iou))[0])


def _class_matches(entries: list[dict | None], thresholds: np.ndarray) -> ClassMatches:
    """The matches of a class from COCOeval's entries, one per image, None for images without its boxes."""
    images, ranks, scores, detections = [], [], [], []
    objects, ignored = [np.zeros((len(thresholds), 0))], [np.zeros((len(thresholds), 0), bool)]
    annotated = np.zeros(len(entries), np.int64)
    for i, entry in enumerate(entries):
        if entry is not None:
            number = len(entry["dtScores"])
            images += [i] * number
            ranks += range(number)
            scores += entry["dtScores"]
            detections += entry["dtIds"]
            objects.append(entry["dtMatches"])
            ignored.append(entry["dtIgnore"])
            annotated[i] = np.logical_not(entry["gtIgnore"]).sum()
    order = np.argsort(-np.array(scores, np.float64), kind="stable")
    columns = (np.array(values, np.int64)[order] for values in (images, ranks))
    return ClassMatches(
        *columns,
        np.array(scores, np.float64)[order],
        np.array(detections, np.int64)[order] - 1,
        np.concatenate(objects, axis=1).astype(np.int64)[:, order] - 1,
        ~np.concatenate(ignored, axis=1).astype(bool)[:, order],
        annotated,
    )
