"""Boxes of COCO annotations that have a segmentation only."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from pycocotools import mask as rle

from .errors import DataError


def lacks_boxes(content: Any) -> bool:
    """Whether an annotation of this content of a file has a `segmentation` and no `bbox`."""
    entries = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        return False
    return any(isinstance(e, dict) and e.get("bbox") is None and "segmentation" in e for e in entries)


def add_boxes(path: str | os.PathLike, content: dict) -> None:
    """Add the `bbox` of the `segmentation` to all annotations without one, in place.

    Raises:
        DataError: a segmentation is neither polygons nor a run-length encoding. The message names the annotation.
    """
    for i, entry in enumerate(content["annotations"]):
        if isinstance(entry, dict) and entry.get("bbox") is None and "segmentation" in entry:
            try:
                entry["bbox"] = box_of(entry["segmentation"])
            except Exception as error:  # pycocotools raises many kinds
                raise DataError(
                    f"{path}: annotations[{i}] has no bbox, and its segmentation is neither polygons nor a run-length "
                    f"encoding ({type(error).__name__}: {error}). Add a bbox, or remove the annotation."
                ) from None


def box_of(segmentation: list | dict) -> list[float]:
    """x, y, width, height around polygons (lists of x, y, x, y, ...) or a run-length encoding of a mask."""
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            segmentation = rle.frPyObjects(segmentation, *segmentation["size"])
        return rle.toBbox(segmentation).tolist()
    points = np.concatenate([np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation])
    low, high = points.min(axis=0), points.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]
