"""Suppression of overlapping boxes, and the choice of the best detections of an image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from external.soft_nms import soft_nms, soft_nms_merge
from nnet.families.base import REJECTED, Candidates
from nnet.families.options import DetectionOptions


class Found(NamedTuple):
    """Detections of an image, ordered by class, and within a class as suppression leaves them."""

    boxes: np.ndarray  # (n, 4) float32, x1, y1, x2, y2 in pixels
    scores: np.ndarray  # (n,) float32
    labels: np.ndarray  # (n,) int64 class numbers

    def take(self, which: np.ndarray) -> Found:
        """The detections at these indices, or where this mask is true."""
        return Found(*(values[which] for values in self))


def suppress(candidates: Candidates, options: DetectionOptions) -> Found:
    """Soft-NMS (or merging) per class, then the best `options.detections` over all classes, and all that tie with the
    last.

    The kept boxes move to the first rows. The released code also returns the rows behind them, which hold outdated
    values. With `as_published` and `stale_rows`, these stale rows are returned too.
    """
    rows, labels = suppression_rows(candidates)
    settings = {
        "method": options.nms,
        "sigma": options.nms_sigma,
        "overlap": options.nms_overlap,
        "floor": options.nms_floor,
    }
    if options.merge:
        left = soft_nms_merge(rows, labels, exponent=options.merge_exponent, **settings)
    else:
        left = soft_nms(rows, labels, **settings)
    found = Found(left.boxes[:, :4], left.boxes[:, 4], left.labels)
    if not (options.as_published and options.stale_rows):
        found = found.take(left.kept)
    if len(found.scores) > options.detections:
        last = np.partition(found.scores, -options.detections)[-options.detections]
        found = found.take(found.scores >= last)
    return found


def suppression_rows(candidates: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """The candidates that are finite and not rejected, in the layout of external.soft_nms.

    Returns:
        (n, 7) float32: x1, y1, x2, y2, score, top-left score, bottom-right score; and the labels (n,). Boxes that are
        not made of corners have their own score in place of the corners' scores.
    """
    boxes, scores, labels, corner_scores = candidates
    if corner_scores is None:
        corner_scores = np.stack([scores, scores], 1)
    rows = np.concatenate([boxes, scores[:, None], corner_scores], 1).astype(np.float32, copy=False)
    valid = (scores > REJECTED) & np.isfinite(rows).all(1)
    return rows[valid], labels[valid]
