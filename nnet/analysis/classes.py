"""AP, precision, recall and counts by class."""

from __future__ import annotations

import numpy as np

from db import Matches
from nnet.analysis.errors import FALSE_POSITIVE_IOU
from nnet.families.options import SHOWN_SCORE


def class_figures(matches: Matches, names: tuple[str, ...]) -> dict[str, dict[str, float | int | None]]:
    """The figures of each class by name.

    AP and AP50 are COCO's. The others are of detections with a score of at least SHOWN_SCORE: true and false positives
    at an IoU of FALSE_POSITIVE_IOU, precision, and recall. None where there is nothing to measure.
    """
    t, once = matches.threshold(FALSE_POSITIVE_IOU), np.ones((1, matches.images), np.int64)
    figures = {}
    for name, own in zip(names, matches.classes["all"], strict=True):
        ap, objects, sure = own.average_precision(once)[:, 0], int(own.annotated.sum()), own.scores >= SHOWN_SCORE
        right, counted = int((own.right[t] & sure).sum()), int((own.counted[t] & sure).sum())
        figures[name] = {
            "AP": float(ap.mean()) if objects else None,
            "AP50": float(ap[t]) if objects else None,
            "precision": right / counted if counted else None,
            "recall": right / objects if objects else None,
            "objects": objects,
            "true_positives": right,
            "false_positives": counted - right,
        }
    return figures


def class_table(figures: dict[str, dict[str, float | int | None]]) -> str:
    """The figures of class_figures as text."""
    columns = ("AP", "AP50", "precision", "recall", "objects", "TP", "FP")
    width = max([len("class"), *map(len, figures)])
    lines = ["  ".join([" class".ljust(width + 1), *(f"{name:>9}" for name in columns)])]
    for name, values in figures.items():
        cells = ["-" if v is None else f"{v:,}" if isinstance(v, int) else f"{v:.3f}" for v in values.values()]
        lines.append("  ".join([f" {name.ljust(width)}", *(f"{cell:>9}" for cell in cells)]))
    note = (
        " Precision, recall, true positives (TP) and false positives (FP): of scores of at least "
        f"{SHOWN_SCORE}, at IoU {FALSE_POSITIVE_IOU}."
    )
    return "\n".join([*lines, note])
