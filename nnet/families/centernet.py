"""CenterNet as a family: a pair of corners is an object if a center lies in its middle (Duan et al., ICCV 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from models.centernet import CenterNetOptions, centernet
from models.keypoints import KeypointNetwork
from models.losses import LossOptions
from models.standard_ops import Best, PairDecoder, TripletDecoder
from nnet.families.base import REJECTED, Candidates, Evidence, Points, View
from nnet.families.cornernet import CornerNet, find_points, pair_options
from nnet.families.ground_truth import MAPS
from nnet.families.options import DetectionOptions
from sample.targets import PenaltyOptions

Regions = Callable[[np.ndarray], np.ndarray]
TRUE_CENTERS = "centers"  # name under which the annotation replaces the centers


class CenterNet(CornerNet):
    """CornerNet with keypoint triplets. Without center keypoints, boxes are not tested."""

    Options = CenterNetOptions
    truths = (*MAPS, TRUE_CENTERS)
    limits = "test.detections={most} test.corners={most} test.centers={most} test.pairs={pairs}"
    claims = (
        *CornerNet.claims,
        "penalty.center_divisor",
        "test.centers",
        "test.center_match",
        "test.center_scales",
        "test.region_divisors",
        "test.region_size",
    )

    def __init__(self, classes: int, options: CenterNetOptions, penalty: PenaltyOptions, weights: LossOptions):
        super().__init__(classes, options, penalty, weights)
        self.tested = options.center_keypoints
        if not self.tested:
            self.truths = MAPS

    def build(self, classes: int, options: CenterNetOptions) -> KeypointNetwork:
        return centernet(classes, options)

    def most_objects(self, options: DetectionOptions) -> int:
        return min(super().most_objects(options), options.centers if self.tested else options.detections)

    @classmethod
    def reads(cls, model: CenterNetOptions) -> tuple[str, ...]:
        return cls.claims if model.center_keypoints else CornerNet.reads(model)

    @classmethod
    def variant(cls, model: CenterNetOptions) -> str:
        return "" if model.center_keypoints else " without model.center_keypoints"

    def propose(self, views: Iterator[View], options: DetectionOptions) -> Candidates:
        if not self.tested:
            return super().propose(views, options)
        pairs, centers = self.pairs_and_centers(views, options)
        return keep_triplets(pairs, centers, options.center_match, regions_of(options))

    def decoder(self, options: DetectionOptions, mirror: bool, best: Best) -> PairDecoder:
        if not self.tested:
            return super().decoder(options, mirror, best)
        own = {
            "centers": options.centers,
            "match": options.center_match,
            "divisors": options.region_divisors,
            "size": options.region_size,
        }
        return TripletDecoder(**own, **pair_options(options), mirror=mirror, best=best)

    def pairs_and_centers(self, views: Iterator[View], options: DetectionOptions) -> tuple[Candidates, Points]:
        """Pairs of corners that are not rejected, of all views, and the centers.

        The centers are those of the view whose scale is next to 1, or of every view with `center_scales: all`.
        """
        pairs, centers = [], []
        for view in views:
            pairs.append(self.pairs(view, options))
            if gives_centers(view.scale, options):
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
        regions = regions_of(options)
        deciding = partial(find_centers, centers=centers, match=options.center_match, regions=regions)
        kept = keep_triplets(pairs, centers, options.center_match, regions)
        return Evidence(kept, pairs.take(deciding(pairs.boxes, pairs.labels) < 0), "center", centers, regions, deciding)


def gives_centers(scale: float, options: DetectionOptions) -> bool:
    """Whether the centers found at this scale are used: those of the scale next to 1, or of all."""
    nearest = min(options.scales, key=lambda scale: abs(math.log(scale)))
    return options.center_scales == "all" or scale == nearest


def central_regions(boxes: np.ndarray, divisors: tuple[int, int] = (3, 5), size: float = 150.0) -> np.ndarray:
    """Central regions of boxes (n, 4) x1, y1, x2, y2 in pixels (equation 1): (n, 4).

    Each side is divided by n: the first of `divisors` for areas of up to size^2 pixels, the second for larger ones.
    """
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    n = np.where(width * height <= size**2, *divisors).astype(boxes.dtype)[:, None]
    first, last = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([(n + 1) * first + (n - 1) * last, (n - 1) * first + (n + 1) * last], 1) / (2 * n)


def regions_of(options: DetectionOptions) -> Regions:
    """What gives the central regions of boxes."""
    return partial(central_regions, divisors=options.region_divisors, size=options.region_size)


def find_centers(
    boxes: np.ndarray, labels: np.ndarray, centers: Points, match: str = "first", regions: Regions = central_regions
) -> np.ndarray:
    """For each box (n, 4), the index of the center of its class strictly inside its central region, or -1: (n,).

    Args:
        labels: (n,) class numbers of the boxes.
        match: which of several. first: the first one. best: the one with the highest score.
        regions: boxes (n, 4) -> their central regions (n, 4).
    """
    order = np.arange(len(centers.scores))
    if match == "best":
        order = np.argsort(-centers.scores, kind="stable")
    if not len(order):
        return np.full(len(boxes), -1)
    x, y = centers.points[order].T
    x1, y1, x2, y2 = regions(boxes).T[:, :, None]
    inside = (x1 < x) & (x < x2) & (y1 < y) & (y < y2) & (labels[:, None] == centers.labels[order])  # (n, m)
    return np.where(inside.any(1), order[inside.argmax(1)], -1)


def keep_triplets(
    pairs: Candidates, centers: Points, match: str = "first", regions: Regions = central_regions
) -> Candidates:
    """The pairs that have a center (see find_centers), with the mean score of the three keypoints, best first.

    They are sorted as released. Soft-NMS goes by score anyway, but merging depends on the order of its boxes.
    """
    found = find_centers(pairs.boxes, pairs.labels, centers, match, regions)
    kept = pairs.take(found >= 0)
    scores = (kept.scores * 2 + centers.scores[found[found >= 0]]) / 3
    return kept._replace(scores=scores).take(np.argsort(-scores, kind="stable"))
