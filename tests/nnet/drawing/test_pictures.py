"""Pictures of detections: what they show, for each kind of network."""

import numpy as np
import pytest

from nnet.detection.detector import Detector
from nnet.detection.suppression import Found
from nnet.drawing import pictures
from nnet.drawing.boxes import class_colour
from nnet.drawing.pictures import beside as beside_module
from nnet.drawing.pictures import errors, heatmaps, row, targets, views
from nnet.drawing.pictures.base import CYAN, GREEN, MAGENTA, ORANGE, RED, YELLOW, Picture, Shown
from nnet.drawing.pictures.beside import beside
from nnet.drawing.pictures.row import Row
from nnet.families.base import Candidates, Points, View
from nnet.families.options import DetectionOptions
from nnet.families.placement import Placement
from nnet.runtime.discovery import classes_in
from sample.targets import PenaltyOptions
from tests.builders import small_family
from tests.nnet.drawing.images import grey, has
from tests.nnet.oracles import CPU, black, objects_of, triplet_detector

PICTURES = classes_in(pictures, Picture)
BOX = (4, 4, 36, 34)
INSIDE, ASIDE = (20, 19), (8, 8)
NOTHING = Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def shown(image, objects=None, found=NOTHING, names=("ring", "cross")):
    return Shown(image, objects or objects_of([], []), found, names, PenaltyOptions())


def found_of(*boxes, score=0.9, label=0):
    count = len(boxes)
    return Found(np.array(boxes, np.float32), np.full(count, score, np.float32), np.full(count, label))


@pytest.fixture
def titles(monkeypatch):
    """The titles of the pictures that are put in a row, by picture."""
    seen = []
    for module in (row, errors, heatmaps, targets, views, beside_module):
        original = module.in_a_row
        monkeypatch.setattr(module, "in_a_row", lambda parts, f=original: seen.append(list(parts)) or f(parts))
    return seen


def test_what_the_center_test_shows(monkeypatch):
    """A kept box in green and one that is removed in red, their regions, and the center that decides."""
    drawn = {}
    monkeypatch.setattr(row, "draw_boxes", lambda image, *rest: drawn.update(boxes=rest) or image)
    monkeypatch.setattr(row, "draw_regions", lambda image, heatmap, *rest: drawn.update(regions=rest) or image)
    for center, colour in (((*INSIDE, 0.2), GREEN), ((*ASIDE, 0.8), RED)):
        Row().draw(shown(black(), names=["ring"]), triplet_detector(BOX, {1.0: [center]}))
        boxes, texts, colours = drawn["boxes"]
        assert boxes.round(3).tolist() == [list(BOX)] and colours == [colour]
        assert texts == [f"ring {0.6 if colour == RED else 1.4 / 3:.2f}"]
        regions, region_colours, points, _ = drawn["regions"]
        np.testing.assert_allclose(regions, [[44 / 3, 14, 76 / 3, 24]], rtol=1e-4)
        assert region_colours == [colour] and points.round(3).tolist() == [list(map(float, center[:2]))]


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
def test_the_row_of_any_image(size, options, titles):
    options = DetectionOptions(embedding_distance=9.0, **options)
    detector = Detector(small_family("centernet", classes=2), options, (32, 48), CPU)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = Row().draw(shown(image, names=["a", "b"]), detector)
    assert picture.dtype == np.uint8 and picture.ndim == 3
    assert [k for k in titles[0] if "center keypoints" in k] and [k for k in titles[0] if "removed" in k]


@pytest.mark.parametrize("name", ["cornernet", "centernet"])
def test_the_titles_of_the_row(titles, name):
    detector = Detector(small_family(name, classes=2), DetectionOptions(embedding_distance=9.0), (63, 63), CPU)
    corners = ["top-left corners", "bottom-right corners"]
    tested = "kept (green), removed by the center test (red)"
    Row().draw(shown(grey(60, 80)), detector)
    Row().draw(shown(grey(60, 80), objects_of([[10, 10, 50, 50]], [1])), detector)
    expected = ["detections", *corners]
    if name == "centernet":
        expected = ["detections", tested, *corners, "center keypoints, central regions"]
    assert titles == [expected, ["ground truth", *expected]]


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("objects", [0, 2])
def test_every_picture_of_an_image(name, objects):
    kind = PICTURES[name]
    if kind.needs_objects and not objects:
        objects = 1
    detector = Detector(small_family(classes=2), DetectionOptions(embedding_distance=9.0), (63, 63), CPU)
    annotation = objects_of([[4.0, 6, 30, 40], [20, 10, 50, 55]][:objects], [0, 1][:objects])
    image, found = grey(60, 80), found_of([4, 6, 30, 40], [1, 1, 70, 50])
    picture = kind().draw(shown(image, annotation, found), detector)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and picture.shape[1] > picture.shape[0]
    assert (image == 128).all()  # the image is unchanged


def test_what_the_pictures_need():
    needs = {name: (kind.needs_corners, kind.needs_objects) for name, kind in PICTURES.items()}
    assert needs == {
        "errors": (True, True),
        "heatmaps": (True, False),
        "row": (False, False),
        "targets": (True, True),
        "views": (False, False),
    }


class Corners:
    """A detector that finds these corners."""

    def __init__(self, top_left, bottom_right):
        none = np.zeros((0, 2), np.float32)
        found = {"top_left": np.array(top_left, np.float32), "bottom_right": np.array(bottom_right, np.float32)}
        self.found = {
            k: Points(p if len(p) else none, np.zeros(len(p), np.int64), np.full(len(p), 0.9)) for k, p in found.items()
        }

    def corners(self, image, objects):
        return self.found


def test_found_missed_and_false_corners():
    objects = objects_of([[40, 40, 120, 120]], [0])
    image = shown(grey(200, 300), objects)
    found = errors.draw_corners(image, Corners([[40, 40]], [[120, 120]]))
    assert has(found, GREEN) and not has(found, RED) and not has(found, YELLOW)
    missed = errors.draw_corners(image, Corners([[40, 40]], []))
    assert has(missed, GREEN) and has(missed, RED) and not has(missed, YELLOW)
    false = errors.draw_corners(image, Corners([[200, 40]], [[120, 120]]))
    assert has(false, GREEN) and has(false, RED) and has(false, YELLOW)


@pytest.mark.parametrize(
    "box, colour",
    [
        ((12, 10, 50, 50), None),
        ((10, 10, 150, 50), MAGENTA),  # from the first object's corner to the second's
        ((10, 10, 100, 50), ORANGE),
        ((16, 16, 44, 44), CYAN),
    ],
)
def test_false_boxes_in_the_colours_of_their_kinds(box, colour):
    objects = objects_of([[10, 10, 50, 50], [110, 10, 150, 50]], [0, 0])
    picture = errors.draw_false_boxes(shown(grey(200, 300), objects, found_of(box)))
    assert [has(picture, c) for c in (MAGENTA, ORANGE, CYAN)] == [colour == c for c in (MAGENTA, ORANGE, CYAN)]
    weak = errors.draw_false_boxes(shown(grey(200, 300), objects, found_of(box, score=0.2)))
    assert not any(has(weak, c) for c in (MAGENTA, ORANGE, CYAN))


def test_the_views_of_an_image(titles):
    """Their outlines on the image, where their placements say, and what they show."""
    lies = Placement((63, 63), (16, 16), (-20.0, -10.0), (200.0, 240.0), (2.0, 2.0))  # of an image of 100 x 120
    box = np.array([[20, 20, 30, 30]], np.float32)
    closer = View(2.0, lies, None, title="closer", found=Candidates(box, np.array([0.9]), np.zeros(1, np.int64), None))
    assert views.outline(closer).tolist() == [5, 10, 36.5, 41.5]
    image = np.zeros((100, 120, 3), np.uint8)
    image[20:30, 20:30] = 255
    there = views.draw_view(shown(image), closer)
    assert there.shape == (200, 200, 3) and has(there, class_colour(0))
    plain = views.draw_view(shown(image), closer._replace(found=None))
    rows, columns = (np.flatnonzero((plain == 255).all(2).any(axis)) for axis in (1, 0))
    shrink = 200 / 63
    np.testing.assert_allclose([columns[0], columns[-1] + 1], [(40 - 10) * shrink, (60 - 10) * shrink], atol=4)
    np.testing.assert_allclose([rows[0], rows[-1] + 1], [(40 - 20) * shrink, (60 - 20) * shrink], atol=4)

    detector = Detector(small_family(classes=2), DetectionOptions(scales=(0.5, 1.0)), (63, 63), CPU)
    picture = views.Views().draw(shown(grey(60, 80)), detector)
    assert titles[-1] == ["looked at (scale 0.5: 1, scale 1: 1)", "seen there"]
    assert has(picture, ORANGE) and has(picture, CYAN)


def test_moved_boxes_have_their_corners_on_the_radius():
    box = np.array([10.0, 10, 50, 50])
    moved = targets.moved_boxes(box, 5.0)
    assert len(moved) == 3
    for other in moved:
        distances = np.linalg.norm((other - box).reshape(2, 2), axis=1)
        np.testing.assert_allclose(distances, 5)


def test_networks_beside_each_other(titles):
    others = {"one": found_of([10, 10, 50, 50]), "another": NOTHING}
    picture = beside(shown(grey(100, 80), objects_of([[10, 10, 50, 50]], [1])), others)
    assert titles == [["ground truth", "one", "another"]]
    assert has(picture, class_colour(0)) and has(picture, class_colour(1))
