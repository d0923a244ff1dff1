"""The qualitative figures of the CornerNet paper, for one image each. Images are uint8 BGR (H, W, 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch

from models.hourglass import STRIDE, feature_size
from nnet.analyses import KINDS, SURE, Annotated, corner_radius, find_corners, judge, overlaps
from nnet.inference import Detector, Found, scores_on_image, to_canvas
from nnet.pictures import (
    Colour,
    class_colour,
    draw_boxes,
    draw_detections,
    draw_heatmap,
    enlarged,
    side_by_side,
)
from sample import CORNERS, Penalty, box_targets
from sample.targets import POINTS, penalty_spread

GREEN, RED, ORANGE = (80, 200, 60), (60, 60, 230), (0, 150, 255)  # BGR
YELLOW, MAGENTA, CYAN = (0, 230, 255), (230, 60, 220), (220, 200, 0)
SHOWN_OBJECTS = 3  # of an image, the largest, of which Figure 5 shows the boxes that corners in the radius make


class Shown(NamedTuple):
    """An image (H, W, 3), what is annotated and what was found in it, and what is needed to show it.

    names: of the classes. penalty: how the network was trained.
    """

    image: np.ndarray
    truth: Annotated
    found: Found
    names: Sequence[str]
    penalty: Penalty


def row(shown: Shown, detector: Detector) -> np.ndarray:
    """Ground truth, detections (Figure 11), and how they come about, side by side."""
    pictures = draw_truth(shown) | {"detections": draw_detections(shown.image, *shown.found, shown.names)}
    return _in_a_row(pictures | detector.pictures(shown.image, shown.names, shown.truth.truth))


def draw_truth(shown: Shown) -> dict[str, np.ndarray]:
    """By its title, a picture of the annotated boxes, if there are any."""
    boxes, labels, _ = shown.truth
    texts, colours = [shown.names[k] for k in labels], [class_colour(k) for k in labels]
    return {"ground truth": draw_boxes(shown.image, boxes, texts, colours)} if len(boxes) else {}


def targets(shown: Shown, detector: Detector) -> np.ndarray:
    """Target heatmaps with their radii, and the boxes that corners inside the radius still make (Figure 5)."""
    image, (boxes, labels, _) = shown.image, shown.truth
    _, placement = detector.place(image, 1.0)
    on_canvas, size = torch.from_numpy(to_canvas(boxes, placement)), feature_size(placement.canvas)
    alone = torch.zeros(len(boxes), dtype=torch.int64), 1, len(shown.names)  # one image
    shape = placement.canvas, size
    maps = box_targets(CORNERS, on_canvas, torch.from_numpy(labels), *alone, *shape, shown.penalty)
    heat = np.maximum(*(maps[kind].heatmap[0].amax(0).numpy() for kind in CORNERS))
    picture = draw_heatmap(image, scores_on_image(heat, placement, image.shape[:2]))
    factor = picture.shape[1] / image.shape[1]
    radii = penalty_spread(on_canvas, *shape, shown.penalty).radius.numpy() * STRIDE / placement.scale[1]
    least, moved = 1.0, []
    for i in np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(1), kind="stable")[:SHOWN_OBJECTS]:
        moved += moved_boxes(boxes[i], radii[i])
        alone = Annotated(boxes[i : i + 1], labels[i : i + 1], np.zeros(1, bool))
        least = min(least, overlaps(np.array(moved[-3:]), alone).min())
    picture = draw_boxes(picture, boxes * factor, [""] * len(boxes), [RED] * len(boxes))
    for box in moved:
        _dashed_box(picture, box * factor, GREEN)
    for box, radius in zip(boxes * factor, radii * factor, strict=True):
        for x, y in box.reshape(2, 2).round().astype(int).tolist():
            cv2.circle(picture, (x, y), max(2, round(radius)), ORANGE, 1, cv2.LINE_AA)
    return _in_a_row(
        draw_truth(shown) | {f"targets; boxes from within the radius (green): IoU >= {least:.2f}": picture}
    )


def moved_boxes(box: np.ndarray, radius: float) -> list[np.ndarray]:
    """The box (4,) with its corners moved by the radius: both outwards, both inwards, both down and to the right."""
    step = radius / np.sqrt(2)
    return [box + step * np.array(signs) for signs in ((-1, -1, 1, 1), (1, 1, -1, -1), (1, 1, 1, 1))]


def heatmaps(shown: Shown, detector: Detector) -> np.ndarray:
    """Detections over the predicted heatmaps of both kinds of corners (Figure 10)."""
    maps, found = detector.heatmaps(shown.image, shown.truth.truth), shown.found
    picture = draw_heatmap(shown.image, np.maximum(*(maps[kind] for kind in CORNERS)))
    factor = picture.shape[1] / shown.image.shape[1]
    over = draw_detections(picture, found.boxes * factor, found.scores, found.labels, shown.names)
    return _in_a_row({"image": enlarged(shown.image), "detections over the heatmaps of corners": over})


def errors(shown: Shown, detector: Detector) -> np.ndarray:
    """Corners that are missed or false, and false boxes by what is wrong with their corners (Figure 9)."""
    truth, corners = shown.truth, enlarged(shown.image)
    factor, radius = corners.shape[1] / shown.image.shape[1], corner_radius(truth.boxes, shown.penalty)
    for kind, (points, labels, scores) in find_corners(detector, shown.image, truth.truth).items():
        annotated, sure = POINTS[kind](truth.boxes), scores >= SURE
        distance = np.linalg.norm(points[sure, None] - annotated, axis=-1)  # (predicted, annotated)
        near = (distance <= radius) & (labels[sure, None] == truth.labels)
        for where, colour in (
            (points[sure][~near.any(1)], YELLOW),
            (annotated[near.any(0)], GREEN),
            (annotated[~near.any(0) & ~truth.crowd], RED),
        ):
            for point in where * factor:
                _corner_mark(corners, point, kind, colour)
    sure = shown.found.scores >= SURE
    boxes, scores, labels = (values[sure] for values in shown.found)
    kinds = [KINDS[k] for k in judge(boxes, labels, truth, shown.penalty)]
    false = [i for i, kind in enumerate(kinds) if kind != "right"]
    colours = {"wrong_pairing": MAGENTA, "wrong_corner": ORANGE, "imprecise": CYAN}
    texts = [f"{shown.names[labels[i]]} {scores[i]:.2f}" for i in false]
    pictures = {
        "corners: found green, missed red, false yellow": corners,
        "false boxes: pairing magenta, corner orange, imprecise cyan": draw_boxes(
            shown.image, boxes[false], texts, [colours[kinds[i]] for i in false]
        ),
    }
    return _in_a_row(draw_truth(shown) | pictures)


def beside(shown: Shown, others: Mapping[str, Found]) -> np.ndarray:
    """Ground truth, and by their titles the detections of several networks (Figure 8)."""
    pictures = {title: draw_detections(shown.image, *found, shown.names) for title, found in others.items()}
    return _in_a_row(draw_truth(shown) | pictures)


PICTURES = {"row": row, "targets": targets, "heatmaps": heatmaps, "errors": errors}


def _in_a_row(pictures: Mapping[str, np.ndarray]) -> np.ndarray:
    return side_by_side(list(pictures.values()), list(pictures))


def _dashed_box(picture: np.ndarray, box: np.ndarray, colour: Colour, dash: int = 7) -> None:
    """Draw a dashed rectangle into the picture."""
    x1, y1, x2, y2 = box
    for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
        start, end = np.array(start), np.array(end)
        steps = max(1, round(float(np.linalg.norm(end - start)) / dash))
        points = np.linspace(start, end, steps + 1).round().astype(int).tolist()
        for a, b in zip(points[::2], points[1::2], strict=False):
            cv2.line(picture, a, b, colour, 2, cv2.LINE_AA)


def _corner_mark(picture: np.ndarray, point: np.ndarray, kind: str, colour: Colour) -> None:
    """Draw the angle that a corner of a box makes, into the picture."""
    x, y = point.round().astype(int).tolist()
    length = max(8, max(picture.shape[:2]) // 40) * (1 if kind == "top_left" else -1)
    for ink, line in (((0, 0, 0), 5), (colour, 2)):
        cv2.line(picture, (x, y), (x + length, y), ink, line, cv2.LINE_AA)
        cv2.line(picture, (x, y), (x, y + length), ink, line, cv2.LINE_AA)
