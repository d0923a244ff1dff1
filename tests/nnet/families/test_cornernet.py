"""CornerNet as a family: keypoints in pixels of the image."""

import numpy as np
import pytest
import torch

from models.keypoints import KeypointMaps
from nnet.families.cornernet import find_points
from nnet.families.placement import place_original


def test_points_return_to_the_image_and_those_of_the_mirror_image_too():
    placement = place_original(100, 301, 1.0, 4, divisor=128)  # canvas 127 x 383: 32 x 96 cells
    x, y, label, score = 20, 12, 4, 0.8
    heatmap = torch.full((2, 5, 32, 96), -9.0)
    heatmap[0, label, y, x] = heatmap[1, label, y, 96 - x] = torch.tensor(score).logit()
    found = find_points(KeypointMaps(heatmap, None, torch.zeros(2, 2, 32, 96)), placement, 1, 3)
    expected = 20 * 383 / 96 - placement.border[1], 12 * 127 / 32 - placement.border[0]
    np.testing.assert_allclose(found.points, [expected] * 2, rtol=1e-5)
    assert found.labels.tolist() == [4, 4] and found.scores == pytest.approx([0.8, 0.8])
