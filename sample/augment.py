"""From an image file to the network's square input, on the host: numpy and OpenCV, uint8, BGR.

Every random number is drawn by `draw_crop` and `sample.colour.draw_colour`; the functions that use the draws are
deterministic, so a sample can be made again from its draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Augment:
    """How training samples vary (CornerNet, section 4.2: "training details")."""

    crop: bool = True  # crop at a random scale and place; otherwise the whole image, padded
    # Spelt as the released code does: 1.0 comes out as 0.9999999999999999, and its crop one pixel smaller.
    scales: tuple[float, ...] = tuple(np.arange(0.6, 1.4, 0.1).tolist())
    border: int = 128  # pixels: how near the crop's centre may come to the image's edge
    mirror: float = 0.5  # probability of mirroring
    colour: float = 0.4  # strength of brightness, contrast and saturation
    lighting: float = 0.1  # standard deviation of the PCA lighting


class Crop(NamedTuple):
    """The draws that place one training crop."""

    scale: float  # the crop's size, in units of the input size
    center_x: int  # pixels of the image
    center_y: int
    flip: bool


class View(NamedTuple):
    """How a window of an image was laid on the input: input = (image + shift) * ratio along each axis."""

    shift_x: int
    shift_y: int
    ratio_x: float
    ratio_y: float

    def boxes_to_input(self, boxes: np.ndarray) -> np.ndarray:
        """(n, 4) float64 boxes in image pixels -> input pixels, not clipped."""
        return (boxes + self[:2] * 2) * (self[2:] * 2)


def place(image: np.ndarray, center_x: int, center_y: int, size: Size) -> tuple[np.ndarray, tuple[int, int]]:
    """Cut a window of `size` around a point out of an image (H, W, 3); what lies outside the image is zeros.

    Sizes are halved by integer division, as in the released code: the last row (column) of a window of odd height
    (width) is always zeros.

    Returns the window (h, w, 3) and (shift_x, shift_y), to be added to image coordinates to get the window's.
    """
    height, width = size
    half_h, half_w = height // 2, width // 2
    shift_x, shift_y = half_w - center_x, half_h - center_y
    x1, x2 = max(center_x - half_w, 0), min(center_x + half_w, image.shape[1])
    y1, y2 = max(center_y - half_h, 0), min(center_y + half_h, image.shape[0])
    window = np.zeros((height, width, 3), dtype=image.dtype)
    if x1 < x2 and y1 < y2:
        window[y1 + shift_y : y2 + shift_y, x1 + shift_x : x2 + shift_x] = image[y1:y2, x1:x2]
    return window, (shift_x, shift_y)


def draw_crop(rng: np.random.Generator, height: int, width: int, augment: Augment) -> Crop:
    """Draw scale, centre and mirroring for an image of this size."""
    scale = augment.scales[rng.integers(len(augment.scales))]
    border_x, border_y = _border(augment.border, width), _border(augment.border, height)
    center_x = int(rng.integers(border_x, width - border_x))
    center_y = int(rng.integers(border_y, height - border_y))
    return Crop(scale, center_x, center_y, draw_flip(rng, augment))


def draw_flip(rng: np.random.Generator, augment: Augment) -> bool:
    """Whether to mirror."""
    return bool(rng.random() < augment.mirror)


def _border(border: int, size: int) -> int:
    """The border, halved until it leaves room for a centre."""
    while size - border <= border:
        border //= 2
    return border


def crop_image(image: np.ndarray, crop: Crop, input_size: Size) -> tuple[np.ndarray, View]:
    """The crop, resized to the input (h, w, 3) and not yet mirrored, and how it lies there."""
    height, width = (int(side * crop.scale) for side in input_size)
    return _resize(*place(image, crop.center_x, crop.center_y, (max(height, 1), max(width, 1))), input_size)


def fit_image(image: np.ndarray, input_size: Size) -> tuple[np.ndarray, View]:
    """The whole image (H, W, 3), padded with zeros to the input's proportions and resized to (h, w, 3)."""
    height, width = image.shape[:2]
    window = (
        max(height, math.ceil(width * input_size[0] / input_size[1])),
        max(width, math.ceil(height * input_size[1] / input_size[0])),
    )
    return _resize(*place(image, width // 2, height // 2, window), input_size)


def _resize(window: np.ndarray, shift: tuple[int, int], input_size: Size) -> tuple[np.ndarray, View]:
    height, width = input_size
    view = View(*shift, width / window.shape[1], height / window.shape[0])
    return cv2.resize(window, (width, height), interpolation=cv2.INTER_LINEAR), view


def finish_boxes(boxes: np.ndarray, labels: np.ndarray, input_size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes (n, 4) in input pixels to [0, W - 1] x [0, H - 1], and drop those left without area."""
    height, width = input_size
    boxes = np.minimum(np.maximum(boxes, 0), np.array([width - 1, height - 1] * 2))
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[kept], labels[kept]


def mirror(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirror an image (h, w, 3) and its boxes (n, 4): x -> w - x - 1."""
    boxes = boxes[:, [2, 1, 0, 3]]
    boxes[:, [0, 2]] = image.shape[1] - boxes[:, [0, 2]] - 1
    return cv2.flip(image, 1), boxes  # not a view: its pixels would be copied one by one later


def apply_crop(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, crop: Crop, input_size: Size
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crop, resize, mirror: the image (h, w, 3) uint8, and the boxes (n, 4) float64 and labels (n,) that are left."""
    image, view = crop_image(image, crop, input_size)
    return _finish(image, view, boxes, labels, crop.flip, input_size)


def apply_fit(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, flip: bool, input_size: Size
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `apply_crop`, with the whole image in view."""
    image, view = fit_image(image, input_size)
    return _finish(image, view, boxes, labels, flip, input_size)


def _finish(
    image: np.ndarray, view: View, boxes: np.ndarray, labels: np.ndarray, flip: bool, input_size: Size
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes, labels = finish_boxes(view.boxes_to_input(boxes), labels, input_size)
    if flip:
        image, boxes = mirror(image, boxes)
    return image, boxes, labels
