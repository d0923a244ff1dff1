"""Augmentations: their draws, and that boxes stay on their objects."""

import numpy as np
import pytest

from sample import augment
from sample.augment import (
    Augmentation,
    AugmentOptions,
    Crop,
    Fit,
    Mirror,
    RandomCrop,
    RandomFit,
    Sample,
    Turn,
    augmentations,
)
from tests.sample.data import golden_crops, picture


def without_boxes(image) -> Sample:
    return Sample(image, np.zeros((0, 4)), np.zeros(0, np.int64))


def crop_of(options, input_size=(64, 64)) -> RandomCrop:
    return RandomCrop(input_size, options.scales, options.border)


def test_golden_crop_resize_mirror(golden, shared_data):
    expected = np.load(golden("augment.npz"))
    for n, (_, make) in enumerate(golden_crops(golden, shared_data)):
        rows = expected[f"{n}_resized_rows"]
        image, boxes, labels, *_ = make((511, rows.shape[1]))
        assert np.array_equal(image[::73], rows)
        assert np.array_equal(boxes, expected[f"{n}_dets"][:, :4])
        assert np.array_equal(labels + 1, expected[f"{n}_dets"][:, 4])  # the golden's classes count from 1


@pytest.mark.parametrize("input_size", [(64, 64), (48, 96)])
def test_boxes_follow_the_pixels(input_size):
    """A white rectangle is found where its box says, wherever the crop puts it."""
    rng = np.random.default_rng(0)
    options = AugmentOptions()
    crop, mirror = crop_of(options, input_size), Mirror(options.mirror)
    box = np.array([[60.0, 40.0, 130.0, 110.0]])
    image = np.zeros((150, 200, 3), np.uint8)
    image[40:110, 60:130] = 255
    seen = 0
    for _ in range(40):
        shown, boxes, labels, *_ = mirror(crop(Sample(image, box, np.array([3])), rng), rng)
        assert shown.shape == (*input_size, 3) and shown.dtype == np.uint8
        rows, columns = np.nonzero(shown[:, :, 0] > 127)
        assert len(boxes) == len(labels) <= 1
        if len(boxes):
            seen += 1
            edges = [columns.min(), rows.min(), columns.max(), rows.max()] if len(rows) else boxes[0]
            assert np.abs(boxes[0] - edges).max() < 2.1
    assert seen > 20


@pytest.mark.parametrize("input_size", [(64, 64), (48, 96)])
def test_the_whole_image_at_random_sizes_and_places(input_size):
    """A white rectangle is found where its box says. The input shows all of a small image, and is filled by a large
    one."""
    rng = np.random.default_rng(0)
    box = np.array([[60.0, 40.0, 130.0, 110.0]])
    image = np.full((150, 200, 3), 50, np.uint8)
    image[40:110, 60:130] = 255
    fit, scales, seen = RandomFit(input_size, (0.5, 2.0)), [], 0
    for _ in range(60):
        drawn = fit.draw(without_boxes(image), rng)
        scales.append(drawn.scale)
        shown, boxes, labels, *_ = fit.apply(Sample(image, box, np.array([3])), drawn)
        assert shown.shape == (*input_size, 3) and shown.dtype == np.uint8
        fitted = min(input_size[0] / 150, input_size[1] / 200)
        sides = [min(round(n * fitted * drawn.scale), most) for n, most in zip((150, 200), input_size, strict=True)]
        shown_sides = [np.count_nonzero(shown[:, :, 0].max(axis)) for axis in (1, 0)]
        assert np.abs(np.subtract(sides, shown_sides)).max() <= 1  # the last row of an odd window is empty
        rows, columns = np.nonzero(shown[:, :, 0] > 152)
        if len(boxes):
            seen += 1
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else boxes[0]
            assert np.abs(boxes[0] - edges).max() < 1.1 and list(labels) == [3]
    assert seen > 40 and min(scales) < 0.6 and max(scales) > 1.7 and 0.8 < np.median(scales) < 1.25


def test_long_images_at_random_sizes():
    fit, long = RandomFit((64, 64), (0.5, 2.0)), without_boxes(np.full((1, 60_000, 3), 255, np.uint8))
    shown = [fit(long, np.random.default_rng(i)).image for i in range(8)]
    assert {np.count_nonzero(image[:, :, 0].any(1)) for image in shown} == {1}


def test_the_eight_turns_and_flips():
    """Boxes lie exactly on their pixels, and each of the eight is drawn."""
    image = np.random.default_rng(0).integers(1, 255, (30, 40, 3), dtype=np.uint8)
    boxes = np.array([[3, 5, 20, 9], [0, 0, 40, 30]], float)
    sample, rng, found = Sample(image, boxes, np.array([1, 2])), np.random.default_rng(0), set()
    for _ in range(60):
        shown = Turn()(sample, rng)
        found.add(shown.image.tobytes())
        assert shown.image.flags.c_contiguous and np.array_equal(shown.labels, [1, 2])
        x1, y1, x2, y2 = shown.boxes[0].astype(int)
        assert sorted(shown.image[y1:y2, x1:x2].ravel()) == sorted(image[5:9, 3:20].ravel())
        assert np.array_equal(shown.boxes[1], [0, 0, *shown.image.shape[1::-1]])
    assert len(found) == 8 and np.array_equal(boxes[0], [3, 5, 20, 9])


def test_options_of_small_data_leave_the_others_as_they_are():
    plain = augmentations(AugmentOptions(crop=False), (64, 64))
    assert plain[0] == Fit((64, 64))
    varied = augmentations(AugmentOptions(crop=False, fit_scales=(0.7, 1.4), turns=True), (64, 64))
    assert varied == [Turn(), RandomFit((64, 64), (0.7, 1.4)), *plain[1:]]
    with pytest.raises(ValueError, match="least, most"):
        AugmentOptions(crop=False, fit_scales=(2.0, 1.0))


def test_draws():
    options = AugmentOptions()
    assert (
        len(options.scales) == 8 and options.scales[4] == 0.9999999999999999 and options.scales[5] == 1.0999999999999999
    )
    rng = np.random.default_rng(0)
    crop, mirror, large = crop_of(options), Mirror(options.mirror), without_boxes(picture(300, 200))
    crops, flips = zip(*((crop.draw(large, rng), mirror.draw(large, rng)) for _ in range(2000)), strict=True)
    assert {c.scale for c in crops} == set(options.scales)
    # 128 leaves room in 300 rows but not in 200 columns, where it is halved
    assert (min(c.center_y for c in crops), max(c.center_y for c in crops)) == (128, 171)
    assert (min(c.center_x for c in crops), max(c.center_x for c in crops)) == (64, 135)
    assert 900 < sum(flips) < 1100
    assert crop.draw(without_boxes(picture(1, 1)), rng)[1:3] == (0, 0)
    assert not any(Mirror(0.0).draw(large, rng) for _ in range(20))


def test_boxes_are_clipped_and_dropped():
    image = picture(64, 64)
    boxes = np.array([[0, 0, 64, 64], [10, 10, 10, 20], [63.5, 0, 64, 9], [5, 6, 7, 8]], float)
    labels = np.arange(4)
    for flip, expected in ((False, [[0, 0, 63, 63], [5, 6, 7, 8]]), (True, [[0, 0, 63, 63], [56, 6, 58, 8]])):
        shown, kept, kept_labels, *_ = Mirror(0.5).apply(Fit((64, 64)).apply(Sample(image, boxes, labels)), flip)
        assert np.array_equal(kept, expected) and np.array_equal(kept_labels, [0, 3])
        assert np.array_equal(shown, image[:, ::-1] if flip else image)
    assert np.array_equal(boxes[0], [0, 0, 64, 64])  # the index's own rows are left alone
    shown, kept, kept_labels, *_ = Mirror(0.5).apply(Fit((32, 32)).apply(without_boxes(image)), True)
    assert kept.shape == (0, 4) and kept_labels.shape == (0,)


def test_tiny_scale_keeps_a_pixel():
    shown = crop_of(AugmentOptions()).apply(without_boxes(picture(4, 4)), Crop(0.001, 2, 2))
    assert shown.image.shape == (64, 64, 3)


class Shift(Augmentation):
    """Moves the image and its boxes down by a few rows."""

    def draw(self, sample, rng):
        return int(rng.integers(1, 4))

    def apply(self, sample, drawn):
        boxes = sample.boxes + [0, drawn, 0, drawn]
        return sample._replace(image=np.roll(sample.image, drawn, 0), boxes=boxes)


def test_registered_augmentation(monkeypatch):
    """A class in EXTRA is named in `augment.extra`. It comes last, so the draws before it stay as they are."""
    monkeypatch.setitem(augment.EXTRA, "shift", Shift)
    sample = Sample(picture(90, 80), np.array([[20.0, 30, 60, 70]]), np.array([1]))
    plain = augmentations(AugmentOptions(), (64, 64))
    changed = augmentations(AugmentOptions(extra=("shift",)), (64, 64))
    assert changed[:-1] == plain and isinstance(changed[-1], Shift)
    results = []
    for steps in (plain, changed):
        rng, shown = np.random.default_rng(5), sample
        for step in steps:
            shown = step(shown, rng)
        results.append(shown)
    before, after = results
    (rows,) = {*(after.boxes - before.boxes)[:, 1]}
    assert rows in (1, 2, 3) and np.array_equal(after.image, np.roll(before.image, int(rows), 0))
    assert all(np.array_equal(a, b) for a, b in zip(after.colour, before.colour, strict=True))


def test_unknown_augmentation_is_rejected():
    with pytest.raises(ValueError, match="there is no augmentation shift"):
        AugmentOptions(extra=("shift",))
