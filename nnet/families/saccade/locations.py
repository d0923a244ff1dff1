"""Where CornerNet-Saccade looks in its second pass, as released: where attention is high, and at what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nnet.families.base import Candidates
from nnet.families.saccade.crops import Crop
from sample.saccade import SIZES

ZOOMS = (1, 2, 4)  # of the scale, at attention to large, medium and small objects
MOST_SEEN, MOST_ZOOMED = 2.0, 4.0  # no attention in crops of a larger scale than the first, no zoom beyond the second
CLOSE_UPS = (24, 64, 192)  # longer side of a detected object in its second crop: of small, medium and large ones
NEAR = 16  # pixels of the input: locations that are nearer, along x or y, suppress each other ...
ALIKE = (0.8, 1.2)  # ... if the ratio of their scales is in this range


class Locations(NamedTuple):
    """n locations in an image. All are (n,)."""

    y: np.ndarray  # float64, in pixels of the image
    x: np.ndarray
    scale: np.ndarray  # float64, pixels of the input per pixel of the image
    score: np.ndarray  # float64, 0 to 1
    title: np.ndarray  # why to look there, for pictures

    def take(self, which: np.ndarray) -> Locations:
        """The locations at these indices, or where this mask is true."""
        return Locations(*(values[which] for values in self))

    @staticmethod
    def join(parts: Sequence[Locations]) -> Locations:
        """All locations of the parts, in order."""
        return Locations(*(np.concatenate(values) for values in zip(*parts, strict=True)))

    @staticmethod
    def of(y: np.ndarray, x: np.ndarray, scale: np.ndarray, score: np.ndarray, title: str) -> Locations:
        """Locations that have the same title."""
        return Locations(y, x, scale, score, np.full(len(y), title))


def attention_locations(
    scores: Sequence[np.ndarray], crops: Sequence[Crop], size: tuple[int, int], stride: int, threshold: float
) -> Locations:
    """The locations in the image whose attention is above the threshold: crop by crop, level by level, row by row.

    Args:
        scores: for each level (n, h, w), coarsest first: local maxima of the attention in n crops, 0 elsewhere.
        size: (height, width) of the image. stride: of the finest level.
    """
    found = [Locations.of(*np.zeros((4, 0)), "")]
    for i, crop in enumerate(crops):
        for level, (maps, zoom) in enumerate(zip(scores, ZOOMS, strict=True)):
            if crop.scale > MOST_SEEN or crop.scale * zoom > MOST_ZOOMED:
                continue
            rows, columns = np.nonzero(maps[i] > threshold)
            pixels = stride * 2 ** (len(scores) - 1 - level)  # of the input per cell
            y, x = (n * pixels / crop.scale + start for n, start in zip((rows, columns), crop.offset, strict=True))
            inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
            scale, score = np.full(len(y), crop.scale * zoom), maps[i][rows, columns].astype(np.float64)
            found.append(Locations.of(y, x, scale, score, "attention").take(inside))
    return Locations.join(found)


def detected_locations(found: Candidates, unit: float, threshold: float) -> Locations:
    """The centers of the detections (n) above the threshold, at the scale at which their objects have the right size.

    unit: size of the input relative to the published one.
    """
    boxes = found.boxes[found.scores > threshold]
    longer = (boxes[:, 2:] - boxes[:, :2]).max(1, initial=0)
    boxes, longer = boxes[longer > 0], longer[longer > 0]  # the release divides by zero for others
    small, medium, large = (np.float32(n * unit) for n in CLOSE_UPS)
    wanted = np.where(longer > SIZES[1], large, np.where(longer > SIZES[0], medium, small))
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).T.astype(np.float64)
    return Locations.of(y, x, (wanted / longer).astype(np.float64), np.ones(len(x)), "detection")


def suppress_locations(locations: Locations, unit: float, kind: str = "cross") -> Locations:
    """The locations that remain, the best first; of equal scores, the last one first.

    A location removes the others that are near it and have a similar scale. unit: see detected_locations. kind: see
    SaccadeDetectionOptions.location_nms.
    """
    left = locations.take(np.argsort(locations.score, kind="stable")[::-1])
    kept = []
    while len(left.y):
        best, left = left.take(np.arange(1)), left.take(np.arange(1, len(left.y)))
        kept.append(best)
        y, x = np.abs(left.y - best.y), np.abs(left.x - best.x)
        distance = np.minimum(y, x) if kind == "cross" else np.hypot(y, x)
        ratio = best.scale / left.scale
        alike = (ratio >= ALIKE[0]) & (ratio <= ALIKE[1])
        left = left.take(~((distance <= NEAR * unit / best.scale) & alike))
    return Locations.join([locations.take(np.arange(0)), *kept])
