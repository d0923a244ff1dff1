"""CenterNet as a family: a pair of corners is an object if a center lies in its middle (Duan et al., ICCV 2019)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from models.centernet import CenterNetOptions, centernet
from models.keypoints import KeypointNetwork
from models.losses import LossOptions
from nnet.families.base import REJECTED, Candidates, Evidence, Points, View
from nnet.families.cornernet import CornerNet, find_points
from nnet.families.ground_truth import MAPS
from nnet.families.options import DetectionOptions
from sample.targets import PenaltyOptions

LARGE_AREA = 150**2  # pixels: larger boxes have a central region of a fifth of their sides, others of a third
TRUE_CENTERS = "centers"  # name under which the annotation replaces the centers


class CenterNet(CornerNet):
    """CornerNet with keypoint triplets. Without center keypoints, boxes are not tested."""

    Options = CenterNetOptions
    truths = (*MAPS, TRUE_CENTERS)

    def __init__(self, classes: int, options: CenterNetOptions, penalty: PenaltyOptions, weights: LossOptions):
        super().__init__(classes, options, penalty, weights)
        self.tested = options.center_keypoints
        if not self.tested:
            self.truths = MAPS

    def build(self, classes: int, options: CenterNetOptions) -> KeypointNetwork:
        return centernet(classes, options)

    def propose(self, views: Iterator[View], options: DetectionOptions) -> Candidates:
        if not self.tested:
            return super().propose(views, options)
        pairs, centers = self.pairs_and_centers(views, options)
        return keep_triplets(pairs, centers, options.center_match)

    def pairs_and_centers(self, views: Iterator[View], options: DetectionOptions) -> tuple[Candidates, Points]:
        """Pairs of corners that are not rejected, of all views, and the centers.

        The centers are those of the view whose scale is next to 1, or of every view with `center_scales: all`.
        """
        nearest = min(options.scales, key=lambda scale: abs(math.log(scale)))
        pairs, centers = [], []
        for view in views:
            pairs.append(self.pairs(view, options))
            if options.center_scales == "all" or view.scale == nearest:
                centers.append(find_points(view.maps["center"], view.placement, options.centers, options.nms_kernel))
        if TRUE_CENTERS in view.truth:
            boxes, labels = view.objects.boxes, view.objects.labels
            centers = [Points((boxes[:, :2] + boxes[:, 2:]) / 2, labels, np.ones(len(labels), np.float32))]
        pairs = Candidates.join(pairs)
        return pairs.take(pairs.scores > REJECTED), Points(*map(np.concatenate, zip(*centers, strict=True)))

    def evidence(self, views: Iterator[View], options: DetectionOptions) -> Evidence | None:
        if not self.tested:
            return None
        pairs, centers = self.pairs_and_centers(views, options)
        without = find_centers(pairs.boxes, pairs.labels, centers, options.center_match) < 0
        kept = keep_triplets(pairs, centers, options.center_match)
        deciding = partial(find_centers, centers=centers, match=options.center_match)
        return Evidence(kept, pairs.take(without), "center", centers, central_regions, deciding)


def central_regions(boxes: np.ndarray) -> np.ndarray:
    """Central regions of boxes (n, 4) x1, y1, x2, y2 in pixels (equation 1): (n, 4).

    A third of each side (n = 3) for areas of up to 150^2 pixels, a fifth (n = 5) for larger ones.
    """
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    n = np.where(width * height <= LARGE_AREA, 3, 5).astype(boxes.dtype)[:, None]
    first, last = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([(n + 1) * first + (n - 1) * last, (n - 1) * first + (n + 1) * last], 1) / (2 * n)


def find_centers(boxes: np.ndarray, labels: np.ndarray, centers: Points, match: str = "first") -> np.ndarray:
    """For each box (n, 4), the index of the center of its class strictly inside its central region, or -1: (n,).

    Args:
        labels: (n,) class numbers of the boxes.
        match: which of several. first: the first one. best: the one with the highest score.
    """
    order = np.arange(len(centers.scores))
    if match == "best":
        order = np.argsort(-centers.scores, kind="stable")
    if not len(order):
        return np.full(len(boxes), -1)
    x, y = centers.points[order].T
    x1, y1, x2, y2 = central_regions(boxes).T[:, :, None]
    inside = (x1 < x) & (x < x2) & (y1 < y) & (y < y2) & (labels[:, None] == centers.labels[order])  # (n, m)
    return np.where(inside.any(1), order[inside.argmax(1)], -1)


def keep_triplets(pairs: Candidates, centers: Points, match: str = "first") -> Candidates:
    """The pairs that have a center (see find_centers), with the mean score of the three keypoints, best first.

    They are sorted as released. Soft-NMS goes by score anyway, but merging depends on the order of its boxes.
    """
    found = find_centers(pairs.boxes, pairs.labels, centers, match)
    kept = pairs.take(found >= 0)
    scores = (kept.scores * 2 + centers.scores[found[found >= 0]]) / 3
    return kept._replace(scores=scores).take(np.argsort(-scores, kind="stable"))
