"""Detections over the heatmaps of corners (CornerNet, Figure 10)."""

from __future__ import annotations

import numpy as np

from models.keypoints import CORNERS
from nnet.detection.detector import Detector
from nnet.drawing.boxes import draw_detections
from nnet.drawing.heatmaps import draw_heatmap
from nnet.drawing.images import enlarged
from nnet.drawing.pictures.base import Picture, Shown, in_a_row


class Heatmaps(Picture):
    """Detections over the predicted heatmaps of both kinds of corners."""

    name = "heatmaps"
    needs_corners = True
    needs_objects = False

    def draw(self, shown: Shown, detector: Detector) -> np.ndarray:
        maps, found = detector.heatmaps(shown.image, shown.objects), shown.found
        picture = draw_heatmap(shown.image, np.maximum(*(maps[kind] for kind in CORNERS)))
        factor = picture.shape[1] / shown.image.shape[1]
        over = draw_detections(picture, found.boxes * factor, found.scores, found.labels, shown.names)
        return in_a_row({"image": enlarged(shown.image), "detections over the heatmaps of corners": over})
