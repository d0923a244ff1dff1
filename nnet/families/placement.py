"""How an image lies on the canvas that the network sees, and the way back to its pixels. Boxes are x1, y1, x2, y2."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from models.backbones import feature_size
from sample.geometry import Size, fit_image, place


class Placement(NamedTuple):
    """How an image lies on the canvas. Pairs are (height, width) or (y, x)."""

    canvas: Size  # pixels
    cells: Size  # size of the feature maps
    border: tuple[float, float]  # where the resized image begins on the canvas, in pixels
    size: tuple[float, float]  # of the resized image, in pixels
    scale: tuple[float, float]  # pixels of the resized image per pixel of the image
    exact_mirror: bool = False  # undo the mirror image as training makes it, not as the released test does


def place_original(height: int, width: int, scale: float, stride: int, divisor: int = 128) -> Placement:
    """Placement of an image at `scale` times its own resolution, centred on a canvas of zeros.

    Each side of the canvas is k * divisor - 1 pixels, the least that holds the image (`| 127` in the released code).
    `divisor` is a power of two.
    """
    size = max(1, int(height * scale)), max(1, int(width * scale))
    canvas = tuple(n | (divisor - 1) for n in size)
    border = tuple(c // 2 - n // 2 for c, n in zip(canvas, size, strict=True))
    return Placement(canvas, feature_size(canvas, stride), border, size, (scale, scale))


def paste(image: np.ndarray, placement: Placement) -> np.ndarray:
    """The canvas of an image (H, W, 3) uint8, placed by place_original.

    Sizes are halved by integer division, as in the released code. So an image as high (wide) as its canvas loses its
    last row (column).
    """
    height, width = placement.size
    return place(cv2.resize(image, (width, height)), width // 2, height // 2, placement.canvas)[0]


def fit(image: np.ndarray, canvas: Size, stride: int) -> tuple[np.ndarray, Placement]:
    """The whole image (H, W, 3) uint8 on a canvas of this size, and its placement."""
    pixels, window = fit_image(image, canvas)
    ratio = window.ratio_y, window.ratio_x
    border = window.shift_y * ratio[0], window.shift_x * ratio[1]
    size = image.shape[0] * ratio[0], image.shape[1] * ratio[1]
    return pixels, Placement(canvas, feature_size(canvas, stride), border, size, ratio)


def to_canvas(boxes: np.ndarray, placement: Placement) -> np.ndarray:
    """Boxes (n, 4) in pixels of the image -> in pixels of the canvas."""
    scale, border = placement.scale[::-1], placement.border[::-1]
    return boxes * np.tile(scale, 2) + np.tile(border, 2)


def from_cells(points: np.ndarray, placement: Placement) -> np.ndarray:
    """Points in cells -> in pixels of the resized image: (B, n, 2) x, y -> (B * n, 2).

    If B is 2, the second row is of the mirror image. The released test undoes mirroring by x -> width - x. Training
    mirrors by x -> width - 1 - x, so these points lie one pixel of the canvas too far to the right. `exact_mirror`
    undoes what training does.
    """
    cells, width = placement.cells, placement.canvas[1]
    points = points.copy()
    if len(points) == 2:
        end = cells[1] * ((width - 1) / width) if placement.exact_mirror else cells[1]
        points[1, :, 0] = end - points[1, :, 0]
    for axis, column in ((1, 0), (0, 1)):
        points[..., column] /= cells[axis] / placement.canvas[axis]
        points[..., column] -= placement.border[axis]
    return points.reshape(-1, 2)


def boxes_from_cells(boxes: np.ndarray, placement: Placement, outside: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in cells -> in pixels of the image, clipped to it: (B, n, 4) float32 -> (B * n, 4).

    They are clipped to the resized image before its scale is undone. If B is 2, the second row is of the mirror image.

    Returns:
        The boxes, and (B * n,) bool: whether a box reaches `outside` or more pixels of the resized image outside it.
        With outside=0, none does.
    """
    first, last = from_cells(boxes[..., :2], placement), from_cells(boxes[..., 2:], placement)
    mirrored = slice(boxes.shape[1], None)  # left and right have changed places
    first[mirrored, 0], last[mirrored, 0] = last[mirrored, 0], first[mirrored, 0].copy()
    return clip_boxes(np.concatenate([first, last], 1), placement, outside)


def clip_boxes(boxes: np.ndarray, placement: Placement, outside: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in pixels of the resized image -> in pixels of the image, clipped to it, (n, 4) float32; and which reach
    `outside`. See boxes_from_cells."""
    height, width = placement.size
    far = np.zeros(len(boxes), bool)
    if outside:
        far = (boxes[:, :2] <= -outside).any(1) | (boxes[:, 2] >= width + outside) | (boxes[:, 3] >= height + outside)
    boxes = boxes.clip(0, np.array([width, height] * 2, boxes.dtype))
    boxes /= np.array([placement.scale[1], placement.scale[0]] * 2, boxes.dtype)
    return boxes, far


def scores_on_image(scores: np.ndarray, placement: Placement, size: Size) -> np.ndarray:
    """Scores (h, w) of the cells of a canvas -> of the pixels of an image of size (H, W): (H, W) float32."""
    canvas = cv2.resize(scores, placement.canvas[::-1])
    top, left = (max(0, round(b)) for b in placement.border)
    height, width = (max(1, round(n)) for n in placement.size)
    return cv2.resize(canvas[top : top + height, left : left + width], size[::-1])
