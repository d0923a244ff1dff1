"""Corner AP on data small enough to check by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from nnet.analysis.corners import Corners, corner_ap, corner_radius
from nnet.detection.detector import Detector
from nnet.detection.images import Detected
from nnet.families.options import DetectionOptions
from sample.targets import PenaltyOptions, gaussian_radius
from tests.builders import small_family
from tests.nnet.analysis.annotations import BOX, index_of
from tests.nnet.oracles import CPU

PENALTY = PenaltyOptions()
RADIUS = float(gaussian_radius(40, 40, 0.3))  # 9.05 pixels


def top_left(*rows, image=0):
    return [(image, "top_left", np.array(rows, np.float32).reshape(-1, 4))]


def test_radius_by_hand():
    assert RADIUS == pytest.approx(9.0455, abs=1e-4)
    boxes = np.array([[10.0, 10, 50, 50], [0, 0, 4, 4], [5, 5, 5, 9]])
    radii = corner_radius(boxes, PENALTY)
    assert radii == pytest.approx([RADIUS, RADIUS / 10, 0])  # not rounded to cells, and nothing without area
    assert np.array_equal(radii, corner_radius(boxes, PenaltyOptions(kind="none")))


def test_a_corner_is_right_within_the_radius(tmp_path):
    index = index_of(tmp_path, (1, 3, BOX, 0))
    for distance, expected in ((0, 1), (0.99 * RADIUS, 1), (1.01 * RADIUS, 0)):
        found = top_left([10 + distance, 10, 0, 0.9])
        assert corner_ap(index, found, PENALTY)["top_left"]["image"] == pytest.approx(expected)
    assert corner_ap(index, top_left([10, 10, 1, 0.9]), PENALTY)["top_left"]["image"] == 0  # of another class
    assert corner_ap(index, [], PENALTY)["bottom_right"]["image"] == 0


def test_an_annotated_corner_is_taken_once_by_the_best(tmp_path):
    index = index_of(tmp_path, (1, 3, BOX, 0), (1, 3, [110, 10, 40, 40], 0))
    # By score: right, the same again (false), right. Precision 1 up to recall 1/2 (51 of the 101), then 2/3.
    found = top_left([10, 10, 0, 0.9], [11, 10, 0, 0.8], [110, 12, 0, 0.7])
    assert corner_ap(index, found, PENALTY)["top_left"]["image"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_quadrants(tmp_path):
    """In an image of 200 x 100, top-left corners at (10, 10), (120, 60), bottom-right ones at (50, 50), (160, 100)."""
    index = index_of(tmp_path, (1, 3, BOX, 0), (1, 3, [120, 60, 40, 40], 0))
    first, second, astray = [10, 10, 0, 0.5], [120, 60, 0, 0.6], [150, 10, 0, 0.9]  # the last in neither quadrant
    result = corner_ap(index, top_left(astray, second, first), PENALTY)["top_left"]
    assert result["top_left_quadrant"] == pytest.approx(1)  # the astray and the second lie outside: no matter
    assert result["bottom_right_quadrant"] == pytest.approx(1)
    assert result["image"] == pytest.approx(2 / 3)
    wrong = [30, 30, 0, 0.9]
    result = corner_ap(index, top_left(wrong, second, first), PENALTY)["top_left"]
    assert result["top_left_quadrant"] == pytest.approx(1 / 2)
    assert result["bottom_right_quadrant"] == pytest.approx(1)
    # (50, 50) is no corner of the top-left quadrant any more: it ends at y < 50
    assert corner_ap(index, [], PENALTY)["bottom_right"]["top_left_quadrant"] is None


def test_a_corner_across_the_border_of_quadrants(tmp_path):
    index = index_of(tmp_path, (1, 3, [98, 48, 40, 40], 0))
    found = top_left([101, 51, 0, 0.9])  # itself in the bottom-right quadrant
    result = corner_ap(index, found, PENALTY)["top_left"]
    assert result["top_left_quadrant"] == pytest.approx(1) and result["bottom_right_quadrant"] is None


def test_corners_of_crowds_are_ignored(tmp_path):
    index = index_of(tmp_path, (1, 3, BOX, 0), (1, 3, [110, 10, 40, 40], 1))
    found = top_left([110, 10, 0, 0.9], [111, 10, 0, 0.8], [10, 10, 0, 0.7])
    assert corner_ap(index, found, PENALTY)["top_left"]["image"] == pytest.approx(1)


def test_a_mean_over_categories_with_objects(tmp_path):
    index = index_of(tmp_path, (1, 3, BOX, 0), (1, 7, BOX, 0))
    assert corner_ap(index, top_left([10, 10, 0, 0.9]), PENALTY)["top_left"]["image"] == pytest.approx(1 / 2)


def test_the_analysis_looks_without_the_mirror_image_and_apart_from_the_detection(tmp_path):
    index = index_of(tmp_path, (1, 3, BOX, 0))
    detector = Detector(small_family(classes=2), DetectionOptions(scales=(0.5, 1.5)), (64, 64), CPU, ["heatmaps"])
    tool = Corners(index, detector, PENALTY)
    assert not tool.detector.options.mirror and tool.detector.truth == detector.truth
    records = tool.see(Detected(0, np.zeros((100, 200, 3), np.uint8), None, []))
    assert [(position, kind) for position, kind, _ in records] == [(0, "top_left"), (0, "bottom_right")]
    assert all(rows.shape == (1, 4) for _, _, rows in records)  # x, y, class, score of the one annotated corner
    assert not detector.seconds  # its time is no time of the detection
    assert tool.figures(records, []) == corner_ap(index, records, PENALTY)


def test_a_network_without_corners_has_no_records(tmp_path):
    tool = Corners.__new__(Corners)
    tool.index = index_of(tmp_path, (1, 3, BOX, 0))
    tool.detector = SimpleNamespace(corners=lambda image, objects: {})
    assert tool.see(Detected(0, None, None, [])) == []
