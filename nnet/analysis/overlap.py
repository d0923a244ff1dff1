"""Overlap of boxes with annotated objects."""

from __future__ import annotations

import numpy as np

from db import Objects


def iou_with_objects(boxes: np.ndarray, objects: Objects) -> np.ndarray:
    """IoU of boxes (n, 4) with objects: (n, m). For a crowd, as in COCO, the fraction of the box that lies in it."""
    first = np.maximum(boxes[:, None, :2], objects.boxes[:, :2])
    last = np.minimum(boxes[:, None, 2:], objects.boxes[:, 2:])
    both = (last - first).clip(0).prod(-1)
    own = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None]
    union = np.where(objects.crowd, own, own + (objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(-1) - both)
    return both / np.maximum(union, 1e-9)
