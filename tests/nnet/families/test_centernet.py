"""The center test: regions, which center is taken, scores; whole images; pictures."""

import numpy as np
import pytest
import torch

from models.centernet import centernet
from models.cornernet import KeypointMaps, cornernet
from models.hourglass import feature_size
from nnet.centers import (
    GREEN,
    RED,
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
    pictures = detector.pictures(image, ["a", "b"], (np.zeros((0, 4)), np.zeros(0, np.int64)))
    assert {p.dtype for p in pictures.values()} == {np.dtype(np.uint8)}
    assert [k for k in pictures if "center keypoints" in k] and [k for k in pictures if "removed" in k]
    assert {"load", "network", "decode", "nms"} == set(detector.seconds)


def test_annotated_centers_in_place_of_predicted_ones():
    torch.manual_seed(0)
    settings = DetectSettings(embedding_distance=9.0, as_published=False)
    detector = make_detector(centernet(2, **SMALL), settings, (32, 48), CPU, truth=["centers"])
    image = np.random.default_rng(0).integers(0, 256, (64, 90, 3), dtype=np.uint8)
    rows, centers = detector.candidates(image, (np.array([[10.0, 20, 30, 60]]), np.array([1])))
    assert centers.points.tolist() == [[20, 40]] and centers.labels.tolist() == [1] and centers.scores.tolist() == [1]
    assert len(rows)
    none = np.zeros((0, 4)), np.zeros(0, np.int64)
    assert len(detector(image, none).scores) == 0  # no object is annotated, so no box has a center
    predicted = make_detector(centernet(2, **SMALL), settings, (32, 48), CPU)
    assert len(predicted.candidates(image, none)[1].scores) == 2 * settings.centers
    with pytest.raises(ValueError, match="needs the image's annotations"):
        detector(image)
    with pytest.raises(ValueError, match="does not predict"):
        make_detector(cornernet(2, **SMALL), settings, (32, 48), CPU, truth=["centers"])


SIZE = 40  # pixels of the image that Drawn is asked about; the canvas at scale 1 has 63, 11 of them before the image


class Drawn(torch.nn.Module):
    """Answers with the maps of one box and of centers (x, y, score), in pixels of the image, by scale."""

    divisor, keypoints = 32, ("top_left", "bottom_right", "center")

    def __init__(self, box, by_scale):
        super().__init__()
        self.box, self.by_scale = box, by_scale
        placements = {scale: place_original(SIZE, SIZE, scale, self.divisor) for scale in by_scale}
        self.placements = {placement.canvas: (scale, placement) for scale, placement in placements.items()}

    def forward(self, images):
        canvas = tuple(images.shape[-2:])
        scale, placement = self.placements[canvas]
        cells = feature_size(canvas)[0]
        points = {"top_left": [(*self.box[:2], 0.6)], "bottom_right": [(*self.box[2:], 0.6)]}
        maps = {}
        for name, these in (points | {"center": self.by_scale[scale]}).items():
            heatmap, offset = torch.full((1, 1, cells, cells), -9.0), torch.zeros(1, 2, cells, cells)
            for x, y, score in these:
                where = [(v * scale + placement.border[0]) * cells / canvas[0] for v in (x, y)]
                column, row = map(int, where)
                heatmap[0, 0, row, column] = torch.tensor(score).logit()
                offset[0, :, row, column] = torch.tensor(where) - torch.tensor([column, row])
            maps[name] = KeypointMaps(heatmap, torch.zeros(1, 1, cells, cells), offset)
        return [maps]


# One keypoint of each kind: those of empty cells would be the next.
ONE = DetectSettings(mirror=False, as_published=False, corners=1, centers=1)


def detect(box, by_scale, **options):
    """Boxes and scores that the detector finds."""
    settings = ONE._replace(scales=tuple(by_scale), **options)
    found = make_detector(Drawn(box, by_scale), settings, (64, 64), CPU)(np.zeros((SIZE, SIZE, 3), np.uint8))
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


def test_what_the_pictures_show(monkeypatch):
    """A kept box in green and one that is removed in red, their regions, and the center that decides."""
    drawn = {}
    monkeypatch.setattr("nnet.centers.draw_boxes", lambda image, *rest: drawn.update(boxes=rest) or image)
    monkeypatch.setattr("nnet.centers.draw_regions", lambda image, heatmap, *rest: drawn.update(regions=rest) or image)
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    for center, colour in (((*INSIDE, 0.2), GREEN), ((*ASIDE, 0.8), RED)):
        make_detector(Drawn(BOX, {1.0: [center]}), ONE, (64, 64), CPU).pictures(image, ["ring"])
        boxes, texts, colours = drawn["boxes"]
        assert boxes.round(3).tolist() == [list(BOX)] and colours == [colour]
        assert texts == [f"ring {0.6 if colour == RED else 1.4 / 3:.2f}"]
        regions, region_colours, points, _ = drawn["regions"]
        np.testing.assert_allclose(regions, [[44 / 3, 14, 76 / 3, 24]], rtol=1e-4)
        assert region_colours == [colour] and points.round(3).tolist() == [list(map(float, center[:2]))]
