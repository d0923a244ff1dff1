"""Training targets, and the boxes that corners within the radius still make (CornerNet, Figure 5)."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from models.keypoints import CORNERS
from nnet.analysis.overlap import iou_with_objects
from nnet.detection.detector import Detector
from nnet.drawing.boxes import Colour, draw_boxes
from nnet.drawing.heatmaps import draw_heatmap
from nnet.drawing.pictures.base import GREEN, ORANGE, RED, Picture, Shown, draw_objects, in_a_row
from nnet.families.placement import scores_on_image, to_canvas
from sample.targets import penalty_spread

SHOWN_OBJECTS = 3  # number of objects, the largest ones, whose moved boxes are drawn


class Targets(Picture):
    """Target heatmaps with their radii, and the boxes that corners within the radius still make."""

    name = "targets"
    needs_corners = True

    def draw(self, shown: Shown, detector: Detector) -> np.ndarray:
        image, objects = shown.image, shown.objects
        boxes = objects.boxes
        _, placement = detector.place(image, 1.0)
        on_canvas = torch.from_numpy(to_canvas(boxes, placement))
        maps = detector.family.targets(on_canvas, torch.from_numpy(objects.labels), placement)
        heat = np.maximum(*(maps[kind].amax(0).numpy() for kind in CORNERS))
        picture = draw_heatmap(image, scores_on_image(heat, placement, image.shape[:2]))
        factor = picture.shape[1] / image.shape[1]
        spread = penalty_spread(on_canvas, placement.canvas, placement.cells, shown.penalty)
        radii = spread.radius.numpy() * detector.family.network.stride / placement.scale[1]
        least, moved = 1.0, []
        for i in np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(1), kind="stable")[:SHOWN_OBJECTS]:
            moved += moved_boxes(boxes[i], radii[i])
            alone = type(objects)(boxes[i : i + 1], objects.labels[i : i + 1], np.zeros(1, bool))
            least = min(least, iou_with_objects(np.array(moved[-3:]), alone).min())
        picture = draw_boxes(picture, boxes * factor, [""] * len(boxes), [RED] * len(boxes))
        for box in moved:
            draw_dashed_box(picture, box * factor, GREEN)
        for box, radius in zip(boxes * factor, radii * factor, strict=True):
            for x, y in box.reshape(2, 2).round().astype(int).tolist():
                cv2.circle(picture, (x, y), max(2, round(radius)), ORANGE, 1, cv2.LINE_AA)
        title = f"targets; boxes from within the radius (green): IoU >= {least:.2f}"
        return in_a_row(draw_objects(shown) | {title: picture})


def moved_boxes(box: np.ndarray, radius: float) -> list[np.ndarray]:
    """The box (4,) with its corners moved by the radius: both outwards, both inwards, both down and to the right."""
    step = radius / np.sqrt(2)
    return [box + step * np.array(signs) for signs in ((-1, -1, 1, 1), (1, 1, -1, -1), (1, 1, 1, 1))]


def draw_dashed_box(picture: np.ndarray, box: np.ndarray, colour: Colour, dash: int = 7) -> None:
    """Draw a dashed rectangle into the picture."""
    x1, y1, x2, y2 = box
    for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
        start, end = np.array(start), np.array(end)
        steps = max(1, round(float(np.linalg.norm(end - start)) / dash))
        points = np.linspace(start, end, steps + 1).round().astype(int).tolist()
        for a, b in zip(points[::2], points[1::2], strict=False):
            cv2.line(picture, a, b, colour, 2, cv2.LINE_AA)
