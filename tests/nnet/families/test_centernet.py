"""The center test: regions, which center is taken, scores; whole images."""

import numpy as np
import pytest

from nnet.detection.detector import Detector
from nnet.families.base import Candidates, Points
from nnet.families.centernet import central_regions, find_centers, keep_triplets, regions_of
from nnet.families.options import DetectionOptions
from tests.builders import small_family
from tests.nnet.oracles import CPU, black, objects_of, triplet_detector


def pairs_of(*boxes, score=0.6, label=0):
    count = len(boxes)
    corner_scores = np.tile(np.array([0.5, 0.7], np.float32), (count, 1))
    scores, labels = np.full(count, score, np.float32), np.full(count, label)
    return Candidates(np.array(boxes, np.float32).reshape(-1, 4), scores, labels, corner_scores)


def centers_of(*points, labels=None, scores=None):
    labels = [0] * len(points) if labels is None else labels
    scores = [0.9] * len(points) if scores is None else scores
    points = np.array(points, np.float32).reshape(-1, 2)
    return Points(points, np.array(labels, np.int64), np.array(scores, np.float32))


def centers_in(pairs, centers, *match):
    return find_centers(pairs.boxes, pairs.labels, centers, *match).tolist()


def test_a_third_of_boxes_up_to_150_squared_a_fifth_of_larger_ones():
    boxes = np.array([[0, 30, 150, 180], [0, 0, 151, 150], [10, 10, 10, 10]], np.float64)
    expected = [[50, 80, 100, 130], [60.4, 60, 90.6, 90], [10, 10, 10, 10]]
    np.testing.assert_allclose(central_regions(boxes), expected)


def test_the_options_set_the_regions():
    boxes = np.array([[0, 0, 30, 30], [0, 0, 31, 30]], np.float64)
    options = DetectionOptions(region_divisors=(1, 3), region_size=30)
    np.testing.assert_allclose(regions_of(options)(boxes), [[0, 0, 30, 30], [31 / 3, 10, 62 / 3, 20]])
    pairs, centers = pairs_of([0, 0, 30, 30]), centers_of((5, 5))
    assert find_centers(pairs.boxes, pairs.labels, centers, regions=regions_of(options)).tolist() == [0]
    assert len(keep_triplets(pairs, centers, regions=regions_of(options)).scores) == 1
    assert len(keep_triplets(pairs, centers).scores) == 0


def test_the_first_center_or_the_best():
    pairs = pairs_of([0, 0, 30, 30], [100, 100, 130, 130])
    centers = centers_of((200, 5), (15, 15), (16, 14), (115, 115), scores=[0.9, 0.3, 0.6, 0.9])
    assert centers_in(pairs, centers) == [1, 3]
    assert centers_in(pairs, centers, "best") == [2, 3]
    kept = keep_triplets(pairs, centers)
    assert kept.scores == pytest.approx([(1.2 + 0.9) / 3, (1.2 + 0.3) / 3])  # the best first
    assert kept.boxes[:, 0].tolist() == [100, 0]
    assert pairs.scores[0] == np.float32(0.6)  # the argument is unchanged


def test_strictly_inside_and_of_its_class():
    pairs = pairs_of([0, 0, 30, 30])
    assert centers_in(pairs, centers_of((10, 15))) == [-1]  # on the edge of the region
    assert centers_in(pairs, centers_of((10.01, 15))) == [0]
    assert centers_in(pairs, centers_of((15, 15), labels=[1])) == [-1]
    assert len(keep_triplets(pairs, centers_of((10, 15))).scores) == 0


def test_nothing_to_match():
    for pairs, centers in ((pairs_of([0, 0, 3, 3]), centers_of()), (pairs_of(), centers_of((1, 1)))):
        kept = keep_triplets(pairs, centers)
        assert [v.shape for v in kept] == [(0, 4), (0,), (0,), (0, 2)]


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (64, 90)])
@pytest.mark.parametrize(
    "options",
    [
        {"corners": 70, "outside": 5.0},
        {"scales": (0.6, 1.0, 1.8), "merge": True, "outside": 5.0},
        {"scales": (0.5, 1.5), "mirror": False, "center_match": "best"},  # no scale of 1: the nearest
        {"resize": "fit", "as_published": False},
    ],
)
def test_any_image(size, options):
    family, options = small_family("centernet", classes=2), DetectionOptions(embedding_distance=9.0, **options)
    detector = Detector(family, options, (32, 48), CPU)
    found = detector(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    assert np.isfinite(found.boxes).all() and (found.scores <= 1).all()
    assert {"load", "network", "decode", "nms"} == set(detector.seconds)


def test_annotated_centers_in_place_of_predicted_ones():
    options = DetectionOptions(embedding_distance=9.0, as_published=False)

    def make(detector="centernet", **truth):
        return Detector(small_family(detector, classes=2), options, (32, 48), CPU, **truth)

    def candidates(detector, objects):
        return detector.family.pairs_and_centers(detector.views(image, objects), options)

    detector = make(truth=["centers"])
    image = np.random.default_rng(0).integers(0, 256, (64, 90, 3), dtype=np.uint8)
    pairs, centers = candidates(detector, objects_of([[10.0, 20, 30, 60]], [1]))
    assert centers.points.tolist() == [[20, 40]] and centers.labels.tolist() == [1] and centers.scores.tolist() == [1]
    assert len(pairs.scores)
    none = objects_of([], [])
    assert len(detector(image, none).scores) == 0  # no object is annotated, so no box has a center
    assert len(candidates(make(), none)[1].scores) == 2 * options.centers
    with pytest.raises(ValueError, match="the image has no annotation"):
        detector(image)
    with pytest.raises(ValueError, match="does not predict"):
        make("cornernet", truth=["centers"])


def detect(box, by_scale, **options):
    """Boxes and scores that the detector finds."""
    found = triplet_detector(box, by_scale, **options)(black())
    return np.round(found.boxes.astype(float), 3).tolist(), np.round(found.scores.astype(float), 3).tolist()


BOX = (4, 4, 36, 34)
INSIDE, ALSO, ASIDE = (20, 19), (22, 18), (8, 8)


def test_a_box_with_a_center_and_one_without():
    boxes, scores = detect(BOX, {1.0: [(*INSIDE, 0.9)]})
    assert boxes == [list(BOX)] and scores == [0.7]
    assert detect(BOX, {1.0: [(*ASIDE, 0.9)]}) == ([], [])


def test_centers_of_the_scale_of_one_or_of_all():
    elsewhere = {2.0: [(*INSIDE, 0.9)], 1.0: [(*ASIDE, 0.9)], 0.6: [(*INSIDE, 0.9)]}
    assert detect(BOX, elsewhere) == ([], [])
    assert len(detect(BOX, elsewhere, center_scales="all")[0])
    assert len(detect(BOX, {2.0: [(*ASIDE, 0.9)], 1.0: [(*INSIDE, 0.9)]})[0])
    assert len(detect(BOX, {2.0: [(*ASIDE, 0.9)], 0.6: [(*INSIDE, 0.9)]})[0])  # without 1, the next to it


def test_first_and_best_of_several():
    centers = {2.0: [(*INSIDE, 0.3)], 1.0: [(*ALSO, 0.9)]}
    scores = [detect(BOX, centers, center_scales="all", center_match=match)[1][0] for match in ("first", "best")]
    assert scores == [0.5, 0.7]


def test_how_many_centers_are_looked_at():
    centers = {1.0: [(*ASIDE, 0.9), (*INSIDE, 0.6)]}
    assert [len(detect(BOX, centers, centers=n)[0]) for n in (1, 2)] == [0, 1]


def test_boxes_that_reach_far_outside():
    box, centers = (-6, 4, 36, 34), {1.0: [(15, 19, 0.9)]}
    assert [len(detect(box, centers, outside=n)[0]) for n in (0, 5, 6, 7)] == [1, 0, 0, 1]


def test_evidence_says_which_boxes_have_a_center():
    for center, kept in ((INSIDE, 1), (ASIDE, 0)):
        detector = triplet_detector(BOX, {1.0: [(*center, 0.9)]}, center_match="best")
        evidence = detector.family.evidence(detector.views(black()), detector.options)
        assert len(evidence.kept.scores) == kept and len(evidence.removed.scores) == 1 - kept
        assert evidence.points.points.round(3).tolist() == [list(center)] and evidence.keypoint == "center"
        chosen = evidence.kept if kept else evidence.removed
        assert evidence.deciding(chosen.boxes, chosen.labels).tolist() == [0 if kept else -1]
        assert np.array_equal(evidence.regions(chosen.boxes), central_regions(chosen.boxes))
        (box,) = (evidence.kept if kept else evidence.removed).boxes.round(3).tolist()
        assert box == list(BOX)


def test_without_center_keypoints_boxes_are_not_tested():
    family = small_family("centernet", classes=2, center_keypoints=False, center_pooling=False)
    detector = Detector(family, DetectionOptions(embedding_distance=9.0), (32, 48), CPU)
    image = np.random.default_rng(0).integers(0, 256, (64, 90, 3), dtype=np.uint8)
    assert len(detector(image).scores)
    assert family.evidence(detector.views(image), detector.options) is None
