"""Laying images on the network's input."""

import json

import numpy as np
import pytest

from db import load_index, read_image
from sample.augment import (
    Augment,
    Crop,
    apply_crop,
    apply_fit,
    crop_image,
    draw_crop,
    fit_image,
    place,
)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_golden_crop_resize_mirror(goldens, shared_data):
    coco = shared_data / "coco_tiny"
    drawn = json.loads((goldens / "augment.json").read_text())
    expected = np.load(goldens / "augment.npz")
    index = load_index(coco / "annotations" / f"instances_{drawn['split']}.json", coco / drawn["split"])
    where = {index.path(i).rpartition("/")[2]: i for i in range(len(index))}
    for n, draw in enumerate(drawn["images"]):
        i = where[draw["file"]]
        rows = expected[f"{n}_resized_rows"]
        size = (511, rows.shape[1])
        crop = Crop(draw["scale"], draw["center_x"], draw["center_y"], draw["flip"])
        image, boxes, labels = apply_crop(read_image(index.path(i)), *index.annotations(i), crop, size)
        assert np.array_equal(image[::73], rows)
        assert np.array_equal(boxes, expected[f"{n}_dets"][:, :4])
        assert np.array_equal(labels + 1, expected[f"{n}_dets"][:, 4])  # the golden's classes count from 1


def test_place():
    image = picture(7, 9)
    window, shift = place(image, 0, 0, (4, 5))
    assert shift == (2, 2)
    assert not window[:2].any() and not window[:, :2].any()
    assert np.array_equal(window[2:, 2:4], image[:2, :2])  # 2 + 2 of the 5 columns: the odd one stays zero
    assert not window[:, 4].any()
    window, shift = place(image, 4, 3, (20, 20))
    assert np.array_equal(window[shift[1] : shift[1] + 7, shift[0] : shift[0] + 9], image)
    assert int(window.sum()) == int(image.sum())
    assert not place(image, 100, -50, (4, 4))[0].any()


@pytest.mark.parametrize("input_size", [(64, 64), (48, 96), (100, 40)])
@pytest.mark.parametrize("size", [(50, 80), (81, 33), (1, 1), (64, 64)])
def test_fit_shows_all(size, input_size):
    fitted, view = fit_image(np.full((*size, 3), 255, np.uint8), input_size)
    assert fitted.shape == (*input_size, 3)
    whole = np.array([[0.0, 0.0, size[1], size[0]]])
    there = view.boxes_to_input(whole)
    # One axis is filled, up to the pixel that rounding may cost
    assert (there >= 0).all() and (there <= [*input_size[::-1]] * 2).all()
    filled = (there[0, 2:] - there[0, :2]) / input_size[::-1]
    assert filled.max() > 0.97


@pytest.mark.parametrize("input_size", [(64, 64), (48, 96)])
def test_boxes_follow_the_pixels(input_size):
    """A white rectangle is found where its box says, wherever the crop puts it."""
    rng = np.random.default_rng(0)
    augment = Augment()
    box = np.array([[60.0, 40.0, 130.0, 110.0]])
    image = np.zeros((150, 200, 3), np.uint8)
    image[40:110, 60:130] = 255
    seen = 0
    for _ in range(40):
        crop = draw_crop(rng, 150, 200, augment)
        shown, boxes, labels = apply_crop(image, box, np.array([3]), crop, input_size)
        assert shown.shape == (*input_size, 3) and shown.dtype == np.uint8
        rows, columns = np.nonzero(shown[:, :, 0] > 127)
        assert len(boxes) == len(labels) <= 1
        if len(boxes):
            seen += 1
            edges = [columns.min(), rows.min(), columns.max(), rows.max()] if len(rows) else boxes[0]
            assert np.abs(boxes[0] - edges).max() < 2.1
    assert seen > 20


def test_draws():
    augment = Augment()
    assert (
        len(augment.scales) == 8 and augment.scales[4] == 0.9999999999999999 and augment.scales[5] == 1.0999999999999999
    )
    rng = np.random.default_rng(0)
    crops = [draw_crop(rng, 300, 200, augment) for _ in range(2000)]
    assert {c.scale for c in crops} == set(augment.scales)
    # 128 leaves room in 300 rows but not in 200 columns, where it is halved
    assert (min(c.center_y for c in crops), max(c.center_y for c in crops)) == (128, 171)
    assert (min(c.center_x for c in crops), max(c.center_x for c in crops)) == (64, 135)
    assert 900 < sum(c.flip for c in crops) < 1100
    assert draw_crop(rng, 1, 1, augment)[1:3] == (0, 0)
    assert not any(draw_crop(rng, 9, 9, Augment(mirror=0.0)).flip for _ in range(20))


def test_boxes_are_clipped_and_dropped():
    image = picture(64, 64)
    boxes = np.array([[0, 0, 64, 64], [10, 10, 10, 20], [63.5, 0, 64, 9], [5, 6, 7, 8]], float)
    labels = np.arange(4)
    for flip, expected in ((False, [[0, 0, 63, 63], [5, 6, 7, 8]]), (True, [[0, 0, 63, 63], [56, 6, 58, 8]])):
        shown, kept, kept_labels = apply_fit(image, boxes, labels, flip, (64, 64))
        assert np.array_equal(kept, expected) and np.array_equal(kept_labels, [0, 3])
        assert np.array_equal(shown, image[:, ::-1] if flip else image)
    assert np.array_equal(boxes[0], [0, 0, 64, 64])  # the index's own rows are left alone
    shown, kept, kept_labels = apply_fit(image, np.zeros((0, 4)), np.zeros(0, np.int64), True, (32, 32))
    assert kept.shape == (0, 4) and kept_labels.shape == (0,)


def test_tiny_scale_keeps_a_pixel():
    assert crop_image(picture(4, 4), Crop(0.001, 2, 2, False), (64, 64))[0].shape == (64, 64, 3)
