"""Cutting windows out of images and resizing them: numpy and OpenCV, uint8, BGR. Boxes are x1, y1, x2, y2."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

Size = tuple[int, int]  # height, width
WINDOW = 2**27  # pixels: larger windows are not made (400 MB)


class Window(NamedTuple):
    """How a window of an image lies on the network's input: input = (image + shift) * ratio along each axis."""

    shift_x: int  # pixels of the image
    shift_y: int
    ratio_x: float  # pixels of the input per pixel of the image
    ratio_y: float

    def boxes_to_input(self, boxes: np.ndarray) -> np.ndarray:
        """(n, 4) float64 boxes in image pixels -> boxes in input pixels, not clipped."""
        return (boxes + self[:2] * 2) * (self[2:] * 2)


def place(image: np.ndarray, center_x: int, center_y: int, size: Size) -> tuple[np.ndarray, tuple[int, int]]:
    """Cut a window of `size` around a point out of an image (H, W, 3). Outside the image it is zero.

    Sizes are halved by integer division, as in the released code: the last row (column) of a window of odd height
    (width) is always zero.

    Returns:
        The window (h, w, 3), and (shift_x, shift_y), which is added to image coordinates to get window coordinates.
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


def resize_window(window: np.ndarray, shift: tuple[int, int], input_size: Size) -> tuple[np.ndarray, Window]:
    """Resize what `place` returned to the input (h, w, 3)."""
    height, width = input_size
    lies = Window(*shift, width / window.shape[1], height / window.shape[0])
    return cv2.resize(window, (width, height), interpolation=cv2.INTER_LINEAR), lies


def fit_image(image: np.ndarray, input_size: Size) -> tuple[np.ndarray, Window]:
    """The whole image (H, W, 3), padded with zeros to the input's proportions and resized to (h, w, 3)."""
    height, width = image.shape[:2]
    window = (
        max(height, math.ceil(width * input_size[0] / input_size[1])),
        max(width, math.ceil(height * input_size[1] / input_size[0])),
    )
    if window[0] * window[1] > WINDOW:
        return fit_long_image(image, window, input_size)
    return resize_window(*place(image, width // 2, height // 2, window), input_size)


def fit_long_image(image: np.ndarray, window: Size, input_size: Size) -> tuple[np.ndarray, Window]:
    """As `fit_image`, for a window (height, width) that is not made: one of a 1x60000 image would take 10 GB.

    Equal up to rounding. The window differs from the image along one axis only. The longer one is resized first.
    """
    shift = [side // 2 - length // 2 for side, length in zip(window, image.shape, strict=False)]
    lies = Window(shift[1], shift[0], input_size[1] / window[1], input_size[0] / window[0])
    pixels = image
    for axis in sorted((0, 1), key=lambda axis: -image.shape[axis]):
        pixels = resize_axis(pixels, axis, shift[axis], window[axis], input_size[axis])
    return np.rint(pixels).astype(np.uint8), lies


def resize_axis(image: np.ndarray, axis: int, shift: int, length: int, size: int) -> np.ndarray:
    """Resize `length` pixels along an axis to `size`, bilinearly. The image lies `shift` pixels in, beside zeros.

    Pixel i of the result is at (i + 0.5) * length / size - 0.5, as in OpenCV. The last of an odd number of pixels is
    zero, as in `place`.
    """
    at = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, length - 1)
    first = np.floor(at).astype(np.int64)
    result = 0.0
    for cell, weight in ((first, 1 - (at - first)), (first + 1, at - first)):
        cell = cell - shift
        weight = weight * ((cell >= 0) & (cell < min(image.shape[axis], length // 2 * 2 - shift)))
        taken = image.take(cell.clip(0, image.shape[axis] - 1), axis).astype(np.float32)
        result = result + taken * np.expand_dims(weight.astype(np.float32), tuple({0, 1, 2} - {axis}))
    return result


def clip_boxes(boxes: np.ndarray, labels: np.ndarray, input_size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes (n, 4) in input pixels to [0, W - 1] x [0, H - 1], and drop those left without area."""
    height, width = input_size
    boxes = np.minimum(np.maximum(boxes, 0), np.array([width - 1, height - 1] * 2))
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[kept], labels[kept]


def mirror(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirror an image (h, w, 3) and its boxes (n, 4): x -> w - x - 1."""
    boxes = boxes[:, [2, 1, 0, 3]]
    boxes[:, [0, 2]] = image.shape[1] - boxes[:, [0, 2]] - 1
    return cv2.flip(image, 1), boxes  # a copy: a view with negative strides is slow to copy later
