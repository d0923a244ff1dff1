"""Detections of several networks side by side (CornerNet, Figure 8)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nnet.detection.suppression import Found
from nnet.drawing.boxes import draw_detections
from nnet.drawing.pictures.base import Shown, draw_objects, in_a_row


def beside(shown: Shown, others: Mapping[str, Found]) -> np.ndarray:
    """Ground truth, and the detections of several networks by title."""
    pictures = {title: draw_detections(shown.image, *found, shown.names) for title, found in others.items()}
    return in_a_row(draw_objects(shown) | pictures)
