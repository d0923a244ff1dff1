"""The interface of a picture, and what pictures have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from db import Objects
from nnet.detection.detector import Detector
from nnet.detection.suppression import Found
from nnet.drawing.boxes import class_colour, draw_boxes
from nnet.drawing.images import side_by_side
from sample.targets import PenaltyOptions

# BGR
GREEN, RED, ORANGE = (80, 200, 60), (60, 60, 230), (0, 150, 255)
YELLOW, MAGENTA, CYAN = (0, 230, 255), (230, 60, 220), (220, 200, 0)


class Shown(NamedTuple):
    """An image, its annotation and its detections.

    image: (H, W, 3) uint8 BGR. names: of the classes. penalty: of the network's training.
    """

    image: np.ndarray
    objects: Objects
    found: Found
    names: Sequence[str]
    penalty: PenaltyOptions


class Picture(ABC):
    """A kind of picture of an image and its detections.

    Attributes:
        name: its name for --pictures.
        needs_corners: whether it needs a network that predicts corners.
        needs_objects: whether it needs annotated images.
    """

    name: ClassVar[str]
    needs_corners: ClassVar[bool] = False
    needs_objects: ClassVar[bool] = True

    @abstractmethod
    def draw(self, shown: Shown, detector: Detector) -> np.ndarray:
        """The picture (H, W, 3) uint8 BGR."""


def draw_objects(shown: Shown) -> dict[str, np.ndarray]:
    """The annotated boxes, by title. Empty without objects."""
    boxes, labels, _ = shown.objects
    texts, colours = [shown.names[k] for k in labels], [class_colour(k) for k in labels]
    return {"ground truth": draw_boxes(shown.image, boxes, texts, colours)} if len(boxes) else {}


def in_a_row(pictures: Mapping[str, np.ndarray]) -> np.ndarray:
    """Pictures side by side under their titles."""
    return side_by_side(list(pictures.values()), list(pictures))
