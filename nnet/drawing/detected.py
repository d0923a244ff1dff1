"""The objects found in an image: what a Python caller gets, and what detect.py writes."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np

from db import coco_results
from nnet.drawing.boxes import draw_detections
from nnet.drawing.images import write_image


@dataclass(frozen=True, eq=False)
class DetectedObjects:
    """The n objects found in an image, the best first.

    Attributes:
        boxes: (n, 4) float32, x1, y1, x2, y2 in pixels of the image.
        scores: (n,) float32 in 0..1.
        labels: (n,) int64, positions in `class_names`.
        image: (H, W, 3) uint8 BGR, the image as the network saw it.
        class_names, category_ids: of all classes of the network.
        decimals: to which `to_coco` rounds, as the network's config says; None: not at all.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    image: np.ndarray
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    decimals: int | None = None

    @property
    def names(self) -> list[str]:
        """Class name of each object."""
        return [self.class_names[label] for label in self.labels]

    def __len__(self) -> int:
        return len(self.scores)

    def __str__(self) -> str:
        found = ", ".join(f"{name} {score:.2f}" for name, score in zip(self.names, self.scores, strict=True))
        return f"{len(self)} object{'s' * (len(self) != 1)}{': ' * bool(found)}{found}"

    def take(self, which: np.ndarray) -> DetectedObjects:
        """The objects at these indices, or where this mask is true, such as `found.scores > 0.5`."""
        return replace(self, boxes=self.boxes[which], scores=self.scores[which], labels=self.labels[which])

    def draw(self) -> np.ndarray:
        """A copy of the image with the boxes, class names and scores, at its own size: (H, W, 3) uint8 BGR.

        Without objects it is a plain copy.
        """
        columns = (self.boxes, self.scores, self.labels)
        return draw_detections(self.image, *columns, self.class_names, threshold=-np.inf, enlarge=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what `draw` returns to a file, whose folder is created. Raises OSError."""
        write_image(path, self.draw())

    def crops(self) -> list[np.ndarray]:
        """The objects cut out of the image, at least a pixel each: (h, w, 3) uint8 BGR."""
        height, width = self.image.shape[:2]
        first = np.floor(self.boxes[:, :2]).astype(int).clip(0, [width - 1, height - 1])
        last = np.ceil(self.boxes[:, 2:]).astype(int).clip(first + 1, [width, height])
        corners = np.concatenate([first, last], 1).tolist()
        return [self.image[y1:y2, x1:x2].copy() for x1, y1, x2, y2 in corners]

    def to_coco(self, image_id: int = 0) -> list[dict]:
        """The objects in COCO's result format: image_id, category_id, bbox (x, y, width, height), score."""
        return coco_results(image_id, self.category_ids, self.boxes, self.scores, self.labels, self.decimals)
