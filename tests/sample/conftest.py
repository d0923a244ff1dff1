"""Fixtures of the sampling tests."""

import os

import cv2
import numpy as np
import pytest

from db import AnnotationIndex


@pytest.fixture
def index(tmp_path) -> AnnotationIndex:
    """Twelve images of several sizes; image i has i % 4 boxes."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(40, 90, (12, 2))
    names = [f"{i:02}.jpg" for i in range(12)]
    boxes, labels = [], []
    for i, (height, width) in enumerate(sizes):
        image = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / names[i]), cv2.resize(image, (int(width), int(height))))
        for _ in range(i % 4):
            x1, y1 = rng.uniform(0, 20, 2)
            boxes.append([x1, y1, x1 + rng.uniform(5, 20), y1 + rng.uniform(5, 20)])
            labels.append(rng.integers(3))
    boxes = np.array(boxes)
    extents = boxes[:, 2:] - boxes[:, :2]
    return AnnotationIndex(
        image_ids=np.arange(12) * 10 + 5,
        sizes=sizes.astype(np.int32),
        names=np.array([os.fsencode(name) for name in names]),
        folder_of=np.zeros(12, np.int16),
        folders=(str(tmp_path),),
        first=np.concatenate([[0], np.cumsum(np.arange(12) % 4)]),
        boxes=boxes,
        extents=extents,
        areas=extents.prod(1),
        labels=np.array(labels),
        crowd=np.zeros(len(boxes), bool),
        category_ids=(1, 2, 3),
        category_names=("a", "b", "c"),
        sources=(),
    )
