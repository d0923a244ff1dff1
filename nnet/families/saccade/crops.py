"""The square crops of an image that CornerNet-Saccade looks at, as released: cut out and resized to the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from models.backbones import feature_size
from nnet.families.placement import Placement
from sample.saccade import relative_size


class Crop(NamedTuple):
    """A part of an image.

    y, x: its center in the image. scale: pixels of the input per pixel of the image. pixels: side in the image.
    title: why it is looked at.
    """

    y: int
    x: int
    scale: float
    pixels: int
    title: str

    @staticmethod
    def at(y: float, x: float, scale: float, side: int, title: str) -> Crop:
        """The crop of an input of `side` pixels, at least 2 pixels large (the release divides by zero for less).

        As released, the scale is rounded to float32.
        """
        scale = min(float(np.float32(scale)), side / 2)
        return Crop(int(y), int(x), scale, int(side / scale), title)

    @property
    def offset(self) -> tuple[int, int]:
        """y and x in the image of the crop's first row and column."""
        return self.y - self.pixels // 2, self.x - self.pixels // 2


def first_crops(size: tuple[int, int], side: int, sizes: Sequence[float]) -> list[Crop]:
    """Crops of the whole image.

    Args:
        size: (height, width) of the image. side: of the input.
        sizes: longer sides of the image in the published input.
    """
    height, width = size
    longer, unit = max(size), relative_size((side, side))
    return [Crop.at(height // 2, width // 2, n * unit / longer, side, "whole image") for n in sizes]


def cut(image: np.ndarray, crop: Crop, side: int) -> np.ndarray:
    """The network's input for a crop of an image (H, W, 3) uint8: (side, side, 3) float32, 0 to 255; 0 outside.

    As released, the distances from the crop's center to its edges are scaled and truncated. So the actual scale is a
    little smaller than crop.scale, by which detections are mapped back.
    """
    canvas = np.zeros((side, side, 3), np.float32)
    zoom, half = side / crop.pixels, crop.pixels // 2
    spans, places = [], []
    for center, size in ((crop.y, image.shape[0]), (crop.x, image.shape[1])):
        first, last = max(center - half, 0), min(center + half, size)
        spans.append(slice(first, last))
        places.append(slice(side // 2 - int((center - first) * zoom), side // 2 + int((last - center) * zoom)))
    height, width = (place.stop - place.start for place in places)
    if height > 0 and width > 0:
        part = image[tuple(spans)].astype(np.float32)  # values between grey levels are kept
        canvas[tuple(places)] = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
    return canvas


def placement(crop: Crop, size: tuple[int, int], side: int, stride: int) -> Placement:
    """How an image of this (height, width) lies on the input of a crop."""
    border = tuple(-start * crop.scale for start in crop.offset)
    resized = tuple(n * crop.scale for n in size)
    return Placement((side, side), feature_size((side, side), stride), border, resized, (crop.scale, crop.scale))
