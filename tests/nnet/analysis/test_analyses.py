"""Corner AP, AP by number of objects and kinds of errors, on data small enough to check by hand."""

import json

import numpy as np
import pytest
import torch
from nnet.analyses import (
    KINDS,
    Annotated,
    ap_by_objects,
    corner_ap,
    corner_radius,
    error_shares,
    find_corners,
    judge,
    objects_of,
    overlaps,
)
from nnet.inference import Detector, DetectSettings
from nnet.truth import MAPS

from db import load_index
from models.cornernet import cornernet
from sample import Penalty, gaussian_radius

PENALTY = Penalty()
BOX = [10, 10, 40, 40]  # x, y, width, height
RADIUS = float(gaussian_radius(40, 40, 0.3))  # 9.05 pixels


def index_of(tmp_path, *annotations, images=1, size=(100, 200)):
    """An index of images (height, width) with annotations (image, category, [x, y, width, height], crowd)."""
    entries = [
        {"id": n, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd, "area": box[2] * box[3]}
        for n, (image, category, box, crowd) in enumerate(annotations, 1)
    ]
    names = [{"id": i, "file_name": f"{i}.jpg", "height": size[0], "width": size[1]} for i in range(1, images + 1)]
    categories = [{"id": 3, "name": "ring"}, {"id": 7, "name": "cross"}]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": names, "annotations": entries, "categories": categories}))
    for name in names:
        (tmp_path / name["file_name"]).touch()
    return load_index(path, tmp_path), [path]


def top_left(*rows, image=0):
    return [(image, "top_left", np.array(rows, np.float32).reshape(-1, 4))]


def test_radius_by_hand():
    assert RADIUS == pytest.approx(9.0455, abs=1e-4)
    boxes = np.array([[10.0, 10, 50, 50], [0, 0, 4, 4], [5, 5, 5, 9]])
    radii = corner_radius(boxes, PENALTY)
    assert radii == pytest.approx([RADIUS, RADIUS / 10, 0])  # not rounded to cells, and nothing without area
    assert np.array_equal(radii, corner_radius(boxes, Penalty(kind="none")))


def test_a_corner_is_right_within_the_radius(tmp_path):
    index, _ = index_of(tmp_path, (1, 3, BOX, 0))
    for distance, expected in ((0, 1), (0.99 * RADIUS, 1), (1.01 * RADIUS, 0)):
        found = top_left([10 + distance, 10, 0, 0.9])
        assert corner_ap(index, found, PENALTY)["top_left"]["image"] == pytest.approx(expected)
    assert corner_ap(index, top_left([10, 10, 1, 0.9]), PENALTY)["top_left"]["image"] == 0  # of another class
    assert corner_ap(index, [], PENALTY)["bottom_right"]["image"] == 0


def test_an_annotated_corner_is_taken_once_by_the_best(tmp_path):
    index, _ = index_of(tmp_path, (1, 3, BOX, 0), (1, 3, [110, 10, 40, 40], 0))
    # By score: right, the same again (false), right. Precision 1 up to recall 1/2 (51 of the 101), then 2/3.
    found = top_left([10, 10, 0, 0.9], [11, 10, 0, 0.8], [110, 12, 0, 0.7])
    assert corner_ap(index, found, PENALTY)["top_left"]["image"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_quadrants(tmp_path):
    """In an image of 200 x 100, top-left corners at (10, 10), (120, 60), bottom-right ones at (50, 50), (160, 100)."""
    index, _ = index_of(tmp_path, (1, 3, BOX, 0), (1, 3, [120, 60, 40, 40], 0))
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
    index, _ = index_of(tmp_path, (1, 3, [98, 48, 40, 40], 0))
    found = top_left([101, 51, 0, 0.9])  # itself in the bottom-right quadrant
    result = corner_ap(index, found, PENALTY)["top_left"]
    assert result["top_left_quadrant"] == pytest.approx(1) and result["bottom_right_quadrant"] is None


def test_corners_of_crowds_are_ignored(tmp_path):
    index, _ = index_of(tmp_path, (1, 3, BOX, 0), (1, 3, [110, 10, 40, 40], 1))
    found = top_left([110, 10, 0, 0.9], [111, 10, 0, 0.8], [10, 10, 0, 0.7])
    assert corner_ap(index, found, PENALTY)["top_left"]["image"] == pytest.approx(1)


def test_a_mean_over_categories_with_objects(tmp_path):
    index, _ = index_of(tmp_path, (1, 3, BOX, 0), (1, 7, BOX, 0))
    assert corner_ap(index, top_left([10, 10, 0, 0.9]), PENALTY)["top_left"]["image"] == pytest.approx(1 / 2)


def test_corners_of_a_detector():
    boxes, labels = np.array([[4.0, 6, 30, 40], [20, 10, 50, 55]]), np.array([0, 1])
    network = cornernet(2, stacks=1, stem_width=4, widths=[4, 6], blocks=[1, 1], pool_width=2)
    detector = Detector(network, DetectSettings(scales=(0.5, 1.5)), (64, 64), torch.device("cpu"), truth=MAPS)
    found = find_corners(detector, np.zeros((60, 100, 3), np.uint8), (boxes, labels))
    for kind, columns in (("top_left", slice(0, 2)), ("bottom_right", slice(2, 4))):
        points, classes, scores = found[kind]
        order = np.argsort(classes)
        assert classes[order].tolist() == [0, 1] and scores.tolist() == [1, 1]
        np.testing.assert_allclose(points[order], boxes[:, columns], atol=1e-3)


def test_ap_by_objects(tmp_path):
    many = [(2, 3, [5 * n, 5 * n, 5, 5], 0) for n in range(5)]
    index, files = index_of(tmp_path, (1, 3, BOX, 0), (1, 7, BOX, 1), *many, images=3)
    results = [{"image_id": 1, "category_id": 3, "bbox": BOX, "score": 0.9}]
    groups = ap_by_objects(index, files, results)
    assert groups["1-4"] == {"images": 1, "AP": pytest.approx(1), "AP50": pytest.approx(1)}
    assert groups["5-9"] == {"images": 1, "AP": 0, "AP50": 0}
    assert groups["10-19"] == groups["20+"] == {"images": 0, "AP": None, "AP50": None}


def test_overlaps():
    truth = Annotated(np.array([[0.0, 0, 10, 10], [0, 0, 100, 10]]), np.zeros(2), np.array([False, True]))
    assert overlaps(np.array([[0.0, 0, 10, 5], [5, 0, 15, 10]]), truth).tolist() == [
        [0.5, 1],
        [pytest.approx(1 / 3), 1],
    ]


def test_kinds_of_errors():
    truth = Annotated(
        np.array([[10.0, 10, 50, 50], [110, 10, 150, 50], [10, 60, 50, 100]]), np.array([0, 0, 1]), np.zeros(3, bool)
    )
    cases = {
        "right": [12, 10, 50, 50],
        "wrong_pairing": [10, 10, 150, 50],  # from the first object's corner to the second's
        "wrong_corner": [10, 10, 100, 50],  # IoU 40 / 90
        "imprecise": [16, 16, 44, 44],  # 8.5 pixels from both corners of the first, IoU 784 / 1600
    }
    boxes = np.array([*cases.values(), [10, 60, 50, 100], [10, 10, 50, 100]], np.float32)
    labels = np.array([0, 0, 0, 0, 0, 1])  # the fifth is another class's object; of the sixth so is the first corner
    kinds = judge(boxes, labels, truth, PENALTY)
    assert [KINDS[k] for k in kinds[:4]] == list(cases)
    assert [KINDS[k] for k in kinds[4:]] == ["wrong_corner", "wrong_corner"]
    # In the mirror image a pair is of what are the top-right corner of one object and the bottom-left one of another
    apart = Annotated(np.array([[110.0, 10, 150, 50], [10, 60, 50, 100]]), np.zeros(2, int), np.zeros(2, bool))
    pair = judge(np.array([[10.0, 10, 150, 100]]), np.zeros(1, int), apart, PENALTY)
    assert [KINDS[k] for k in pair] == ["wrong_pairing"]
    none = Annotated(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))
    assert [KINDS[k] for k in judge(boxes[:1], labels[:1], none, PENALTY)] == ["wrong_corner"]
    assert judge(boxes[:0], labels[:0], truth, PENALTY).shape == (0,)


def test_shares_of_errors():
    figures = error_shares([0, 0, 1, 1, 1, 2])
    assert (figures["detections"], figures["false"], figures["wrong_pairing"]) == (6, 4, 3)
    assert figures["wrong_pairing_share"] == 0.75 and figures["wrong_corner_share"] == 0.25
    assert error_shares([])["wrong_corner_share"] is None


def test_objects_of_an_image(tmp_path):
    index, _ = index_of(tmp_path, (1, 7, BOX, 1), (1, 3, BOX, 0))
    assert objects_of(index, 0).labels.tolist() == [0, 1] and objects_of(index, 0).crowd.tolist() == [False, True]
