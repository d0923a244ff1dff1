"""Boxes, detections and class colours: what is drawn where, for any size of image and box."""

import cv2
import numpy as np
import pytest

from nnet.drawing.boxes import class_colour, draw_boxes, draw_detections
from nnet.drawing.images import LEGIBLE_SIDE, side_by_side
from tests.nnet.drawing.images import grey, has


def test_detections_below_the_threshold_are_left_out():
    boxes, labels = np.array([[100, 100, 300, 300], [320, 100, 500, 300]], np.float32), np.array([0, 1])
    image = grey(480, 640)
    picture = draw_detections(image, boxes, np.array([0.9, 0.2]), labels, ["ring", "cross"])
    assert picture.shape == image.shape and (image == 128).all()
    assert has(picture, class_colour(0)) and not has(picture, class_colour(1))
    assert has(draw_detections(image, boxes, np.array([0.9, 0.2]), labels, {0: "a", 1: "b"}, 0.1), class_colour(1))


def test_best_detection_is_on_top():
    boxes = np.array([[100, 100, 300, 300], [100, 100, 300, 300]], np.float32)
    picture = draw_detections(grey(480, 640), boxes, np.array([0.9, 0.5]), np.array([0, 1]), ["", ""])
    assert tuple(picture[200, 100]) == class_colour(0)


def test_no_detections():
    empty = np.zeros((0,))
    picture = draw_detections(grey(480, 640), np.zeros((0, 4)), empty, empty.astype(int), [])
    assert (picture == 128).all()


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (60, 40), (511, 511), (900, 20)])
@pytest.mark.parametrize("box", [(-50, -50, 5000, 5000), (0, 0, 1, 1), (5000, 5000, 6000, 6000), (3, 3, 2, 2)])
def test_any_size_of_image_and_box(size, box):
    picture = draw_boxes(grey(*size), np.array([box, box]), ["a rather long class name 0.99", "b"], [(0, 0, 255)] * 2)
    assert max(picture.shape[:2]) == max(LEGIBLE_SIDE, *size) and picture.dtype == np.uint8
    assert has(picture, (0, 0, 255))


def test_texts_of_boxes_in_one_place_do_not_hide_each_other():
    colours = [class_colour(i) for i in range(3)]
    picture = draw_boxes(grey(480, 640), np.array([[200, 200, 320, 320]] * 3), ["first", "second", "third"], colours)
    assert all((picture == colour).all(axis=2).sum() > 150 for colour in colours)


def test_class_colours_differ():
    colours = np.array([class_colour(i) for i in range(80)], int)
    assert len({tuple(c) for c in colours.tolist()}) == 80
    distances = np.abs(colours[:10, None] - colours[None, :10]).sum(axis=2) + 1000 * np.eye(10, dtype=int)
    assert distances.min() > 60


def test_pictures_of_real_photographs(shared_data):
    path = sorted((shared_data / "coco_tiny" / "val2017").glob("*.jpg"))[0]
    image = cv2.imread(str(path))
    box = np.array([[10.0, 20.0, 200.0, 150.0]])
    picture = draw_detections(image, box, np.array([0.8]), np.array([3]), {3: "car"})
    assert picture.shape == image.shape and has(picture, class_colour(3))
    assert np.array_equal(picture[200:], image[200:])


@pytest.mark.parametrize("text", ["na\udcefve", "\0", "\n", "a" * 5000])
def test_any_text_can_be_drawn(text):
    """OpenCV crashes on a lone surrogate, as in a file name that is not UTF-8."""
    picture = draw_boxes(np.zeros((40, 60, 3), np.uint8), np.array([[5, 5, 30, 30]]), [text], [(0, 0, 255)])
    assert picture.any()
    assert side_by_side([picture], [text]).any()
