"""The center test: regions, which center is taken, scores; whole images; pictures."""

import numpy as np
import pytest
import torch

from models.centernet import centernet
from models.cornernet import cornernet
from nnet.centers import (
    Centers,
    TripletDetector,
    centers_to_image,
    central_regions,
    find_centers,
    keep_triplets,
)
from nnet.experiment import make_detector
from nnet.inference import Detector, DetectSettings, place_original

SMALL = {"stacks": 1, "stem_width": 4, "widths": [4, 6], "blocks": [1, 1], "pool_width": 2}
CPU = torch.device("cpu")


def rows_of(*boxes, score=0.6, label=0):
    return np.array([[*box, score, 0.5, 0.7, label] for box in boxes], np.float32)


def centers_of(*points, labels=None, scores=None):
    labels = [0] * len(points) if labels is None else labels
    scores = [0.9] * len(points) if scores is None else scores
    points = np.array(points, np.float32).reshape(-1, 2)
    return Centers(points, np.array(labels, np.float32), np.array(scores, np.float32))


def test_a_third_of_boxes_up_to_150_squared_a_fifth_of_larger_ones():
    boxes = np.array([[0, 30, 150, 180], [0, 0, 151, 150], [10, 10, 10, 10]], np.float64)
    expected = [[50, 80, 100, 130], [60.4, 60, 90.6, 90], [10, 10, 10, 10]]
    np.testing.assert_allclose(central_regions(boxes), expected)


def test_the_first_center_or_the_best():
    rows = rows_of([0, 0, 30, 30], [100, 100, 130, 130])
    centers = centers_of((200, 5), (15, 15), (16, 14), (115, 115), scores=[0.9, 0.3, 0.6, 0.9])
    assert find_centers(rows, centers).tolist() == [1, 3]
    assert find_centers(rows, centers, "best").tolist() == [2, 3]
    kept = keep_triplets(rows, centers)
    assert kept[:, 4] == pytest.approx([(1.2 + 0.9) / 3, (1.2 + 0.3) / 3])  # the best first
    assert kept[:, 0].tolist() == [100, 0]
    assert rows[0, 4] == np.float32(0.6)  # what was given is left alone


def test_strictly_inside_and_of_its_class():
    rows = rows_of([0, 0, 30, 30])
    assert find_centers(rows, centers_of((10, 15))).tolist() == [-1]  # on the edge of the region
    assert find_centers(rows, centers_of((10.01, 15))).tolist() == [0]
    assert find_centers(rows, centers_of((15, 15), labels=[1])).tolist() == [-1]
    assert len(keep_triplets(rows, centers_of((10, 15)))) == 0


def test_nothing_to_match():
    assert keep_triplets(rows_of([0, 0, 3, 3]), centers_of()).shape == (0, 8)
    assert keep_triplets(rows_of([0, 0, 3, 3])[:0], centers_of((1, 1))).shape == (0, 8)


def test_centers_return_to_the_image_and_those_of_the_mirror_image_too():
    placement = place_original(100, 301, 1.0, divisor=128)  # canvas 127 x 383: 32 x 96 cells
    point = np.array([20.0, 12.0, 4.0, 0.8])
    mirrored = np.array([96 - point[0], *point[1:]])
    found = centers_to_image(np.array([[point], [mirrored]], np.float32), placement)
    expected = 20 * 383 / 96 - placement.border[1], 12 * 127 / 32 - placement.border[0]
    np.testing.assert_allclose(found.points, [expected] * 2, rtol=1e-5)
    assert found.labels.tolist() == [4, 4] and found.scores == pytest.approx([0.8, 0.8])


def test_the_detector_of_a_network():
    settings = DetectSettings()
    assert type(make_detector(cornernet(2, **SMALL), settings, (32, 32), CPU)) is Detector
    assert type(make_detector(centernet(2, **SMALL), settings, (32, 32), CPU)) is TripletDetector


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (64, 90)])
@pytest.mark.parametrize(
    "settings",
    [
        DetectSettings(corners=70, outside=5.0),
        DetectSettings(scales=(0.6, 1.0, 1.8), merge=True, outside=5.0),
        DetectSettings(scales=(0.5, 1.5), mirror=False, center_match="best"),  # no scale of 1: the nearest
        DetectSettings(resize="fit", as_published=False),
    ],
)
def test_any_image(size, settings):
    torch.manual_seed(0)
    detector = make_detector(centernet(2, **SMALL), settings._replace(embedding_distance=9.0), (32, 48), CPU)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = detector(image)
    assert np.isfinite(found.boxes).all() and (found.scores <= 1).all()
    pictures = detector.pictures(image, (np.zeros((0, 4)), np.zeros(0, np.int64)))
    assert {p.dtype for p in pictures.values()} == {np.dtype(np.uint8)}
    assert [k for k in pictures if "center keypoints" in k] and [k for k in pictures if "removed" in k]
    assert {"load", "network", "decode", "nms"} == set(detector.seconds)


def test_annotated_centers_in_place_of_predicted_ones():
    torch.manual_seed(0)
    settings = DetectSettings(embedding_distance=9.0, as_published=False)
    detector = make_detector(centernet(2, **SMALL), settings, (32, 48), CPU, true_centers=True)
    image = np.random.default_rng(0).integers(0, 256, (64, 90, 3), dtype=np.uint8)
    rows, centers = detector.candidates(image, (np.array([[10.0, 20, 30, 60]]), np.array([1])))
    assert centers.points.tolist() == [[20, 40]] and centers.labels.tolist() == [1] and centers.scores.tolist() == [1]
    assert len(rows)
    none = np.zeros((0, 4)), np.zeros(0, np.int64)
    assert len(detector(image, none).scores) == 0  # no object is annotated, so no box has a center
    predicted = make_detector(centernet(2, **SMALL), settings, (32, 48), CPU)
    assert len(predicted.candidates(image, none)[1].scores) == 2 * settings.centers
