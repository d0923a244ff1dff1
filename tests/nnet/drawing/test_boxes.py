"""Pictures and charts: what is drawn where, whatever the input's size, and what is left alone."""

import cv2
import numpy as np
import pytest

from nnet.pictures import (
    LEGIBLE,
    Panel,
    class_colour,
    draw_boxes,
    draw_chart,
    draw_detections,
    draw_heatmap,
    plot_panels,
    side_by_side,
    write_image,
)


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(axis=2).any())


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
    assert max(picture.shape[:2]) == max(LEGIBLE, *size) and picture.dtype == np.uint8
    assert has(picture, (0, 0, 255))


def test_texts_of_boxes_in_one_place_do_not_hide_each_other():
    colours = [class_colour(i) for i in range(3)]
    picture = draw_boxes(grey(480, 640), np.array([[200, 200, 320, 320]] * 3), ["first", "second", "third"], colours)
    assert all((picture == colour).all(axis=2).sum() > 150 for colour in colours)


def test_heatmap_is_bright_where_it_is_high():
    heatmap = np.zeros((2, 32, 32), np.float32)
    heatmap[0, 8, 24], heatmap[1, 24, 8] = 1.0, 0.5
    picture = draw_heatmap(grey(128, 128), heatmap)
    assert picture.shape == (LEGIBLE, LEGIBLE, 3)
    cell = LEGIBLE / 32
    peak, half, none = (
        picture[int((y + 0.5) * cell), int((x + 0.5) * cell)].astype(int) for y, x in ((8, 24), (24, 8), (2, 2))
    )
    assert peak.sum() > half.sum() and half[2] > none[2] + 50  # red rises with the score
    assert len(set(none.tolist())) == 1  # grey without
    assert np.array_equal(picture, draw_heatmap(grey(128, 128), heatmap.max(axis=0)))
    assert draw_heatmap(grey(128, 128), np.full((4, 4), np.nan)).max() < 128


def test_side_by_side_brings_pictures_to_one_height():
    picture = side_by_side([grey(100, 50), grey(200, 100)], ["one", "a title that is too long for its picture by far"])
    assert picture.shape[1] == 100 + 6 + 100 and picture.shape[0] > 200
    assert (picture[-200:, :100] == 128).all()


def test_class_colours_differ():
    colours = np.array([class_colour(i) for i in range(80)], int)
    assert len({tuple(c) for c in colours.tolist()}) == 80
    distances = np.abs(colours[:10, None] - colours[None, :10]).sum(axis=2) + 1000 * np.eye(10, dtype=int)
    assert distances.min() > 60


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize(
    "series",
    [
        {},
        {"empty": ([], [])},
        {"one": ([5], [3])},
        {"constant": ([0, 1], [2, 2])},
        {"zero": ([0, 1], [0, 0])},
        {"gaps": ([0, 1, 2], [1.0, float("nan"), float("inf")]), "negative": ([0, 1], [-1, -2])},
        {"huge": ([0, 500_000], [1e-12, 1e12])},
        {"tiny": ([0, 1], [1.0, 1.0 + 1e-6])},
    ],
)
def test_charts_of_any_series(series, log_y):
    chart = draw_chart(Panel(series, "title", "iteration", "loss", log_y, smooth=5))
    assert chart.shape == (420, 640, 3) and chart.min() < 100


def test_chart_places_its_line():
    chart = draw_chart(Panel({"up": ([0, 1], [0, 1])}))
    blue = (chart[..., 0].astype(int) - chart[..., 2] > 100) & (np.arange(640) < 600)
    left, right = np.nonzero(blue[:, 100])[0].max(), np.nonzero(blue[:, 500])[0].max()  # the lowest: not the legend's
    assert left > right + 150  # rises to the right; pixels count downwards


def test_panels_fill_rows(tmp_path):
    panel = Panel({"a": ([0, 1], [0, 1])})
    plot_panels(tmp_path / "three.png", [panel] * 3)
    assert cv2.imread(str(tmp_path / "three.png")).shape == (840, 1280, 3)
    plot_panels(tmp_path / "deep" / "one.png", [panel])
    assert cv2.imread(str(tmp_path / "deep" / "one.png")).shape == (420, 640, 3)


def test_write_image_creates_folders_and_leaves_no_parts(tmp_path):
    write_image(tmp_path / "a" / "b" / "c.png", grey(3, 5))
    assert (cv2.imread(str(tmp_path / "a" / "b" / "c.png")) == 128).all()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c.png"]


def test_write_image_says_what_it_cannot_write(tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*a\.nonsense"):
        write_image(tmp_path / "a.nonsense", grey(3, 5))
    with pytest.raises(OSError, match=r"cannot write .*a\.png"):
        write_image(tmp_path / "a.png", np.zeros((0, 0, 3), np.uint8))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        write_image(tmp_path / "file" / "a.png", grey(3, 5))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_pictures_of_real_photographs(shared_data):
    path = sorted((shared_data / "coco_tiny" / "val2017").glob("*.jpg"))[0]
    image = cv2.imread(str(path))
    box = np.array([[10.0, 20.0, 200.0, 150.0]])
    picture = draw_detections(image, box, np.array([0.8]), np.array([3]), {3: "car"})
    assert picture.shape == image.shape and has(picture, class_colour(3))
    assert np.array_equal(picture[200:], image[200:])
