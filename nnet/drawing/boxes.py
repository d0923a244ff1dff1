"""Boxes and detections, drawn on images.

Images are uint8 BGR (H, W, 3). Boxes are (N, 4) x1, y1, x2, y2 in pixels of the image that is passed in; they may reach
outside it. No function changes its arguments. Small images are enlarged, so that text is legible, except with
enlarge=False.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from nnet.drawing.images import FONT, drawable, enlarged, enlarged_coordinates, enlargement, fitting_scale, text_size
from nnet.families.options import SHOWN_SCORE

Colour = tuple[int, int, int]
"""Blue, green, red, each 0 to 255."""

Rectangle = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; the area of a label."""

BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def class_colour(label: int) -> Colour:
    """A bright colour for a class; consecutive labels have very different hues."""
    hue = int(180 * ((0.02 + 0.61803399 * label) % 1.0))  # steps of the golden ratio around the colour wheel
    # Hues come close to earlier ones after 13 classes: saturation and value tell them apart.
    saturation, value = ((230, 255), (120, 255), (255, 165))[label // 13 % 3]
    blue, green, red = cv2.cvtColor(np.uint8([[[hue, saturation, value]]]), cv2.COLOR_HSV2BGR)[0, 0]
    return int(blue), int(green), int(red)


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str] | Mapping[int, str],
    threshold: float = SHOWN_SCORE,
    enlarge: bool = True,
) -> np.ndarray:
    """Draw the detections with a score of at least `threshold`, with class name and score, the best on top.

    Args:
        image: (H, W, 3).
        boxes: (N, 4).
        scores: (N,).
        labels: (N,) int, indices or keys of `names`.

        enlarge: whether a small image is enlarged.

    Returns:
        A new image.
    """
    scores = np.asarray(scores, dtype=np.float64)
    order = [i for i in np.argsort(scores, kind="stable") if scores[i] >= threshold]
    classes = [int(labels[i]) for i in order]
    texts = [f"{names[label]} {scores[i]:.2f}" for i, label in zip(order, classes, strict=True)]
    shown = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)[order]
    return draw_boxes(image, shown, texts, [class_colour(label) for label in classes], enlarge)


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, texts: Sequence[str], colours: Sequence[Colour], enlarge: bool = True
) -> np.ndarray:
    """Draw boxes, later ones on top, each with a text as its label.

    Args:
        image: (H, W, 3).
        boxes: (N, 4).
        texts: N labels; a box with the text "" has none.
        colours: N colours.
        enlarge: whether a small image is enlarged.

    Returns:
        A new image.
    """
    picture = enlarged(image) if enlarge else image.copy()
    height, width = picture.shape[:2]
    thickness = max(1, round(max(height, width) / 400))
    corners = enlarged_coordinates(boxes, enlargement(image) if enlarge else 1.0, columns=4)
    corners = np.clip(corners, 0, [width - 1, height - 1, width - 1, height - 1]).round().astype(int).tolist()
    for (x1, y1, x2, y2), colour in zip(corners, colours, strict=True):
        for ink, line in ((BLACK, thickness + 2), (colour, thickness)):  # a dark rim stands out on any background
            cv2.rectangle(picture, (x1, y1), (x2, y2), ink, line, cv2.LINE_AA)
    occupied: list[Rectangle] = []
    for corner, text, colour in zip(corners, texts, colours, strict=True):  # after all boxes: no line crosses a label
        if text:
            occupied.append(_draw_label(picture, text, corner, colour, occupied))
    return picture


def _draw_label(
    picture: np.ndarray, text: str, box: Sequence[int], colour: Colour, occupied: Sequence[Rectangle]
) -> Rectangle:
    """Draw the text on a filled rectangle beside the box, into the picture; return that rectangle.

    occupied: the rectangles of earlier labels, of which the label covers as little as possible.
    """
    height, width = picture.shape[:2]
    scale = fitting_scale(text, max(0.4, 0.4 * max(height, width) / 640), width - 6)
    thickness = max(1, round(scale))
    text_width, text_height = text_size(text, scale, thickness)
    left, top, right, bottom = _label_area(box, text_width + 6, text_height + 8, (height, width), occupied)
    cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, cv2.FILLED)
    brightness = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2]
    ink = BLACK if brightness > 110 else WHITE
    cv2.putText(picture, drawable(text), (left + 3, top + text_height + 3), FONT, scale, ink, thickness, cv2.LINE_AA)
    return left, top, right, bottom


def _label_area(
    box: Sequence[int], width: int, height: int, size: tuple[int, int], occupied: Sequence[Rectangle]
) -> Rectangle:
    """Where a label of this width and height covers the fewest pixels of earlier ones, at a corner of its box.

    box: x1, y1, x2, y2. size: height and width of the picture, inside which the label lies.
    """
    x1, y1, x2, y2 = box
    above = [(x1, y1 - height), (x2 - width, y1 - height)] if y1 >= height else []
    areas = []
    for x, y in [*above, (x1, y1), (x1, y2), (x2 - width, y2), (x1, y2 - height)]:
        left, top = min(max(x, 0), max(size[1] - width, 0)), min(max(y, 0), max(size[0] - height, 0))
        areas.append((left, top, left + width, top + height))
    return min(areas, key=lambda area: sum(_intersection(area, other) for other in occupied))


def _intersection(one: Rectangle, other: Rectangle) -> int:
    """Number of pixels that two rectangles share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)
