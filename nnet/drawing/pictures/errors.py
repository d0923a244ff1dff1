"""Missed and false corners, and false boxes by what is wrong with their corners (CornerNet, Figure 9)."""

from __future__ import annotations

import cv2
import numpy as np

from models.keypoints import CORNERS
from nnet.analysis.corners import corner_radius
from nnet.analysis.errors import KINDS, classify
from nnet.detection.detector import Detector
from nnet.drawing.boxes import Colour, draw_boxes
from nnet.drawing.images import enlarged
from nnet.drawing.pictures.base import (
    CYAN,
    GREEN,
    MAGENTA,
    ORANGE,
    RED,
    YELLOW,
    Picture,
    Shown,
    draw_objects,
    in_a_row,
)
from nnet.families.options import SHOWN_SCORE
from sample.targets import PLACES

COLOURS = {"wrong_pairing": MAGENTA, "wrong_corner": ORANGE, "imprecise": CYAN}


class Errors(Picture):
    """Corners that are missed or false, and false boxes."""

    name = "errors"
    needs_corners = True

    def draw(self, shown: Shown, detector: Detector) -> np.ndarray:
        pictures = {
            "corners: found green, missed red, false yellow": draw_corners(shown, detector),
            "false boxes: pairing magenta, corner orange, imprecise cyan": draw_false_boxes(shown),
        }
        return in_a_row(draw_objects(shown) | pictures)


def draw_corners(shown: Shown, detector: Detector) -> np.ndarray:
    """Annotated corners that are found (green) or missed (red), and false ones (yellow)."""
    objects, picture = shown.objects, enlarged(shown.image)
    factor, radius = picture.shape[1] / shown.image.shape[1], corner_radius(objects.boxes, shown.penalty)
    found = detector.corners(shown.image, objects)
    for kind, direction in zip(CORNERS, (1, -1), strict=True):
        points, labels, scores = found[kind]
        annotated, sure = PLACES[kind].locate(objects.boxes), scores >= SHOWN_SCORE
        distance = np.linalg.norm(points[sure, None] - annotated, axis=-1)  # (predicted, annotated)
        near = (distance <= radius) & (labels[sure, None] == objects.labels)
        for where, colour in (
            (points[sure][~near.any(1)], YELLOW),
            (annotated[near.any(0)], GREEN),
            (annotated[~near.any(0) & ~objects.crowd], RED),
        ):
            for point in where * factor:
                draw_corner(picture, point, direction, colour)
    return picture


def draw_false_boxes(shown: Shown) -> np.ndarray:
    """The false detections, in the colours of their kinds."""
    found = shown.found.take(shown.found.scores >= SHOWN_SCORE)
    kinds = [KINDS[k] for k in classify(found.boxes, found.labels, shown.objects, shown.penalty)]
    false = [i for i, kind in enumerate(kinds) if kind != "right"]
    texts = [f"{shown.names[found.labels[i]]} {found.scores[i]:.2f}" for i in false]
    return draw_boxes(shown.image, found.boxes[false], texts, [COLOURS[kinds[i]] for i in false])


def draw_corner(picture: np.ndarray, point: np.ndarray, direction: int, colour: Colour) -> None:
    """Draw the angle of a corner of a box into the picture. direction: 1 for right and down, -1 for left and up."""
    x, y = point.round().astype(int).tolist()
    length = max(8, max(picture.shape[:2]) // 40) * direction
    for ink, line in (((0, 0, 0), 5), (colour, 2)):
        cv2.line(picture, (x, y), (x + length, y), ink, line, cv2.LINE_AA)
        cv2.line(picture, (x, y), (x, y + length), ink, line, cv2.LINE_AA)
