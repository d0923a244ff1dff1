"""CornerNet-Saccade's training samples and attention targets (Law, Teng, Russakovsky, Deng, "CornerNet-Lite",
arXiv:1904.08900), as released. In a sample, one of the image's objects, the reference, has a random size.

Sizes are those of the release, whose input has 255 pixels. At other input sizes they are in proportion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch

from sample.geometry import Size, clip_boxes, place
from sample.targets import BatchObjects

SIDE = 255  # pixels of the published input
SIZES = (32, 96)  # longer sides of objects: small up to the first, large from the second on
SMALLEST = 16  # longer side of objects: smaller ones are ignored
LEAST_SHARE = 0.5  # of an object's area: objects of which no more than this is in the crop are ignored
NEAR = 15  # pixels: a centred crop is centred less than this away from the reference
SCALES = tuple(np.arange(0.5, 1.1, 0.1).tolist())  # of images without objects; as computed, 1.1 is included
MOST_PIXELS = 2**23  # larger resized images are not computed as a whole


def relative_size(input_size: Size) -> float:
    """Size of the input relative to the published one. A side of n pixels has (n + 1) / 4 cells."""
    return (max(input_size) + 1) / (SIDE + 1)


@dataclass(frozen=True)
class ZoomOptions:
    """Crops in which a reference object has a random size: the config's `augment.zoom:` section."""

    full: bool = False
    """Copy the image to the last row and column of a crop as well. The released code leaves them empty."""


class ZoomedCrop(NamedTuple):
    """How an image is resized, and which part of it is taken."""

    scale: float  # of the image
    center_x: int  # of the crop, in pixels of the resized image
    center_y: int


def draw_crop(size: Size, boxes: np.ndarray, input_size: Size, rng: np.random.Generator) -> ZoomedCrop:
    """Draw a reference object, its new size, and a crop that contains it.

    Args:
        size: (height, width) of the image. boxes: (n, 4), may reach outside the image.
    """
    boxes, _ = clip_boxes(boxes, np.zeros(len(boxes)), size)
    unit = relative_size(input_size)
    if len(boxes):
        reference = boxes[rng.integers(len(boxes))]
        first, last = reference.astype(np.float32).reshape(2, 2)
        side = float((last - first).max())
        scale = float(rng.integers(*target_sizes(side, input_size))) / side
        reference = scale_boxes(reference, scale)
    else:
        scale, reference = SCALES[rng.integers(len(SCALES))], None
    centred, near = rng.random() > 0.5, max(1, int(NEAR * unit))
    height, width = resized_size(size, scale)
    x, y = (
        draw_center(n, crop, reference if reference is None else reference[axis::2], centred, near, rng)
        for axis, n, crop in ((0, width, input_size[1]), (1, height, input_size[0]))
    )
    return ZoomedCrop(scale, x, y)


def target_sizes(side: float, input_size: Size) -> tuple[int, int]:
    """Range of new sizes, without the upper end, of a reference whose longer side has so many pixels in the image.

    Small objects stay small, medium ones medium, and large ones large.
    """
    unit = relative_size(input_size)
    least, small, large = (round(n * unit) for n in (SMALLEST, *SIZES))
    if side > SIZES[1]:
        return large, min(input_size)
    return (small, large + 1) if side > SIZES[0] else (least, small + 1)


def draw_center(
    size: int, crop: int, reference: np.ndarray | None, centred: bool, near: int, rng: np.random.Generator
) -> int:
    """Center of the crop along an axis on which the resized image has `size` pixels and the crop `crop`.

    reference: its first and last coordinate (2,). None: there is no reference, and the crop may lie anywhere.
    """
    if size <= crop:
        return size // 2
    if reference is None:
        return int(rng.integers(0, size - crop + 1)) + crop // 2
    first, last = reference.tolist()
    if centred:
        middle = int((first + last) / 2)
        before, behind = rng.integers(near), rng.integers(near)
        return int(rng.integers(max(middle - before, 0), min(middle + behind, size - 1) + 1))
    return int(rng.integers(int(max(last - crop, 0)), int(min(size - crop, first)) + 1)) + crop // 2


def scale_boxes(boxes: np.ndarray, scale: float) -> np.ndarray:
    """Boxes of an image in pixels of the resized image, float64, computed in float32 as released.

    Corners thus fall into the cells of the release also where they lie on the border of two cells.
    """
    return (boxes.astype(np.float32) * np.float32(scale)).astype(np.float64)


def resized_size(size: Size, scale: float) -> Size:
    """(height, width) of the resized image."""
    return tuple(max(1, int(n * scale)) for n in size)


def cut_crop(
    image: np.ndarray, crop: ZoomedCrop, input_size: Size, full: bool = False
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int, int]]:
    """The crop of an image (H, W, 3).

    Returns:
        The crop (h, w, 3), which is zero outside the image; what is subtracted from coordinates (x, y) of the resized
        image to get those of the crop, (2,); and the part of the crop that shows the image: x1, y1, x2, y2, without
        x2 and y2.
    """
    height, width = resized_size(image.shape[:2], crop.scale)
    size = input_size if not full else (input_size[0] + 2, input_size[1] + 2)
    center = crop.center_x, crop.center_y
    if height * width <= MOST_PIXELS:
        pixels, shift = place(cv2.resize(image, (width, height)), *center, size)
    else:
        pixels, shift = place_resized(image, (height, width), center, size)
    window, shift = (pixels, shift) if not full else (pixels[1:-1, 1:-1], tuple(s - 1 for s in shift))
    last = [n if full else 2 * (n // 2) for n in window.shape[1::-1]]  # `place` leaves the rest empty
    x1, y1 = (max(s, 0) for s in shift)
    x2, y2 = (min(s + n, end) for s, n, end in zip(shift, (width, height), last, strict=True))
    return window, -np.array(shift, np.float64), (x1, y1, x2, y2)


def place_resized(image: np.ndarray, resized: Size, center: tuple[int, int], size: Size) -> tuple[np.ndarray, tuple]:
    """As `place` with the image resized to `resized`, of which only the window is computed, to 1/32 of a pixel."""
    (height, width), shift = size, (size[1] // 2 - center[0], size[0] // 2 - center[1])
    ratio = [image.shape[1] / resized[1], image.shape[0] / resized[0]]  # pixels of the image per pixel of the window
    start = [(0.5 - s) * r - 0.5 for s, r in zip(shift, ratio, strict=True)]
    matrix = np.array([[ratio[0], 0, start[0]], [0, ratio[1], start[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    window = cv2.warpAffine(image, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    x1, y1 = (max(s, 0) for s in shift)
    x2, y2 = (min(s + n, 2 * (m // 2)) for s, n, m in zip(shift, resized[::-1], (width, height), strict=True))
    shown = np.zeros_like(window)
    shown[y1:y2, x1:x2] = window[y1:y2, x1:x2]
    return shown, shift


def areas(boxes: np.ndarray) -> np.ndarray:
    """Areas of boxes (n, 4): (n,)."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def too_small(boxes: np.ndarray, input_size: Size) -> np.ndarray:
    """Which boxes (n, 4), in pixels of the crop, are ignored because they are small: (n,) bool.

    As released, coordinates are truncated before sides are computed.
    """
    whole = boxes.astype(np.int64)
    return (whole[:, 2:] - whole[:, :2]).max(1, initial=0) < SMALLEST * relative_size(input_size)


def attention_targets(
    objects: BatchObjects, images: int, input_size: Size, stride: int, levels: int = 3
) -> list[torch.Tensor]:
    """Attention maps to learn: 1 in the cells of the centers of objects of a map's size, 0 elsewhere.

    The maps are those of large, medium and small objects. An object on the border of two sizes is in both. No value is
    copied from the device.

    Args:
        objects: of all images. images: their number. stride: pixels per cell of the last map; each other map has half
            the resolution of the next.

    Returns:
        (images, 1, h, w) float32 each, coarsest first.
    """
    boxes, unit = objects.boxes, relative_size(input_size)
    longer, centers = (boxes[:, 2:] - boxes[:, :2]).amax(1), (boxes[:, :2] + boxes[:, 2:]) / 2  # (N,), (N, 2)
    edges = [0, *(n * unit for n in SIZES), max(input_size) + 1]
    targets = []
    for level in range(levels):
        pixels, least, most = stride * 2 ** (levels - 1 - level), edges[levels - 1 - level], edges[levels - level]
        height, width = (-(-n // pixels) for n in input_size)
        x, y = (centers / pixels).long().clamp(min=0).unbind(1)
        cells = (objects.image_index * height + y.clamp(max=height - 1)) * width + x.clamp(max=width - 1)
        there = ((longer >= least) & (longer <= most)).float()
        target = torch.zeros(images * height * width, device=boxes.device).scatter_reduce(0, cells, there, "amax")
        targets.append(target.view(images, 1, height, width))
    return targets
