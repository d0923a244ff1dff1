"""What is wrong with false detections: their pairing, their corners, or their precision (CornerNet, Figure 9)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from db import Objects
from nnet.analysis.base import Analysis
from nnet.analysis.corners import corner_radius
from nnet.analysis.overlap import iou_with_objects
from nnet.detection.images import Detected
from nnet.families.options import SHOWN_SCORE
from sample.targets import PenaltyOptions

FALSE_POSITIVE_IOU = 0.5  # a detection with a smaller IoU with every object of its class is false
KINDS = ("right", "wrong_pairing", "wrong_corner", "imprecise")


class Errors(Analysis):
    """Counts of the detections by kind of error."""

    name = "errors"
    key = "errors"
    needs_corners = True

    def see(self, detected: Detected) -> list[int]:
        found = detected.found.take(detected.found.scores >= SHOWN_SCORE)
        return classify(found.boxes, found.labels, self.index.objects(detected.position), self.penalty).tolist()

    def figures(self, records: list[Any], results: list[dict]) -> dict[str, float | int | None]:
        return error_shares(records)


def classify(boxes: np.ndarray, labels: np.ndarray, objects: Objects, penalty: PenaltyOptions) -> np.ndarray:
    """The kind of each detection, as an index into KINDS: (n,).

    right: IoU of FALSE_POSITIVE_IOU or more with an object of its class, even if another detection has it too.
    wrong_pairing: both corners, as the image or its mirror image has them, are right corners of its class (see
        `corner_radius`), but of different objects.
    imprecise: both corners are right corners of the same object, whose box it still misses.
    wrong_corner: any other false detection, even if only its class is wrong.
    """
    same = labels[:, None] == objects.labels  # (n, m)
    right = (same & (iou_with_objects(boxes, objects) >= FALSE_POSITIVE_IOU)).any(1)
    radius = corner_radius(objects.boxes, penalty)
    # Pairs of the mirror image were made of what are the top-right and bottom-left corners here.
    one_object = both = np.zeros(len(boxes), bool)
    for corners in (([0, 1], [2, 3]), ([2, 1], [0, 3])):
        first, last = (
            same & (np.linalg.norm(boxes[:, None, part] - objects.boxes[:, part], axis=-1) <= radius)
            for part in corners
        )
        one_object, both = one_object | (first & last).any(1), both | (first.any(1) & last.any(1))
    names = np.select([right, one_object, both], ["right", "imprecise", "wrong_pairing"], "wrong_corner")
    return np.array([KINDS.index(name) for name in names], np.int64)


def error_shares(kinds: Sequence[int]) -> dict[str, float | int | None]:
    """Counts of detections by kind (Figure 9), and the fraction of each kind among the false ones."""
    counts = Counter(kinds)
    false = sum(counts[k] for k in range(1, len(KINDS)))
    figures = {"min_score": SHOWN_SCORE, "detections": false + counts[0], "false": false}
    for k, name in enumerate(KINDS[1:], 1):
        figures |= {name: counts[k], f"{name}_share": counts[k] / false if false else None}
    return figures
