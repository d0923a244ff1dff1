"""AP by the number of objects in an image."""

from __future__ import annotations

from typing import Any

import numpy as np

from db import AnnotationIndex, evaluate
from nnet.analysis.base import Analysis

GROUPS = ((1, 4), (5, 9), (10, 19), (20, None))  # objects per image, first and last number


class ObjectCount(Analysis):
    """AP and AP50 of the images with few and with many objects."""

    name = "objects"
    key = "AP_by_objects"

    def figures(self, records: list[Any], results: list[dict]) -> dict[str, dict]:
        return ap_by_objects(self.index, results)


def ap_by_objects(index: AnnotationIndex, results: list[dict]) -> dict[str, dict]:
    """AP and AP50 of the images by their number of annotated objects, without crowds, and the number of such images.

    The keys are "1-4", "5-9", ... results: see db.evaluate.
    """
    objects = np.array([(~index.objects(i).crowd).sum() for i in range(len(index))])
    groups = {}
    for low, high in GROUPS:
        chosen = (objects >= low) & (objects <= (high or np.inf))
        figures = evaluate(index, results, index.image_ids[chosen]) if chosen.any() else {}
        name = f"{low}-{high}" if high else f"{low}+"
        groups[name] = {"images": int(chosen.sum()), "AP": figures.get("AP"), "AP50": figures.get("AP50")}
    return groups
