"""Overlap of boxes with annotated objects."""

import numpy as np
import pytest

from db import Objects
from nnet.analysis.overlap import iou_with_objects


def test_iou_with_objects_and_crowds():
    truth = Objects(np.array([[0.0, 0, 10, 10], [0, 0, 100, 10]]), np.zeros(2), np.array([False, True]))
    assert iou_with_objects(np.array([[0.0, 0, 10, 5], [5, 0, 15, 10]]), truth).tolist() == [
        [0.5, 1],
        [pytest.approx(1 / 3), 1],
    ]
