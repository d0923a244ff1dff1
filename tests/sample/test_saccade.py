"""CornerNet-Saccade's samples: crops in which a reference object has a random size, and attention targets."""

import numpy as np
import pytest
import torch

import sample.saccade as module
from db import load_index
from db.toy import draw_toy
from sample.augment import AugmentOptions, IgnoreSmall, Sample, ZoomToReference, augmentations
from sample.batch import collate, pack
from sample.dataset import TrainingSet
from sample.saccade import ZoomedCrop, ZoomOptions, attention_targets, cut_crop, draw_crop, relative_size
from sample.targets import BatchObjects

PUBLISHED, HALF = (255, 255), (127, 127)


def one_object(size, box):
    """A black image with a white object."""
    image = np.zeros((*size, 3), np.uint8)
    x1, y1, x2, y2 = map(int, box)
    image[y1:y2, x1:x2] = 255
    return Sample(image, np.array([box], np.float64), np.zeros(1, np.int64))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("input_size", [PUBLISHED, HALF])
@pytest.mark.parametrize(
    ("box", "sizes"),
    [((310, 200, 330, 212), (16, 32)), ((100, 90, 150, 180), (32, 96)), ((20, 10, 420, 250), (96, 254))],
)
def test_the_reference_is_in_the_crop_at_a_size_of_its_kind(box, sizes, input_size, full):
    unit = relative_size(input_size)
    zoom = ZoomToReference(input_size, ZoomOptions(full=full))
    sample, seen = one_object((300, 460), box), []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        crop = zoom.draw(sample, rng)
        made = zoom.apply(sample, crop)
        assert made.image.shape == (*input_size, 3) and made.image.dtype == np.uint8
        ((x1, y1, x2, y2),) = made.boxes
        side = max(box[2] - box[0], box[3] - box[1]) * crop.scale
        assert sizes[0] * unit - 1 <= side <= sizes[1] * unit + 1
        assert max(x2 - x1, y2 - y1) >= side - 18 * unit  # large ones may reach outside a crop centred beside them
        assert made.ignored.tolist() == [False]
        middle = made.image[int((y1 + y2) / 2), int((x1 + x2) / 2)]
        assert (middle == 255).all()
        outside = made.image.copy()
        outside[max(0, int(y1) - 1) : int(y2) + 2, max(0, int(x1) - 1) : int(x2) + 2] = 0
        assert (outside < 16).all()
        seen.append((round(side), made.image[-1].any() or made.image[:, -1].any()))
    assert len({size for size, _ in seen}) > 5
    if not full:
        assert not any(last for _, last in seen)


def test_the_last_row_and_column():
    """Empty as released, or filled. Everything else is equal."""
    image = np.full((600, 600, 3), 9, np.uint8)
    crop = ZoomedCrop(1.0, 300, 290)
    short, offset, part = cut_crop(image, crop, PUBLISHED)
    full, same, whole = cut_crop(image, crop, PUBLISHED, full=True)
    assert offset.tolist() == same.tolist() == [173, 163]
    assert part == (0, 0, 254, 254) and whole == (0, 0, 255, 255)
    assert (full == 9).all() and (short[:254, :254] == 9).all()
    assert not short[254].any() and not short[:, 254].any()


def test_a_crop_of_a_much_enlarged_image(monkeypatch):
    """It is computed without the enlarged image, whose memory a tiny object would make immense."""
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 256, (8, 9, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    for crop in (ZoomedCrop(7.3, 200, 100), ZoomedCrop(5.0, 20, 300), ZoomedCrop(3.1, 111, 99)):
        for full in (False, True):
            monkeypatch.setattr(module, "MOST_PIXELS", 2**23)
            wanted, *places = cut_crop(image, crop, PUBLISHED, full)
            monkeypatch.setattr(module, "MOST_PIXELS", 0)
            found, *same = cut_crop(image, crop, PUBLISHED, full)
            assert [np.array(p).tolist() for p in places] == [np.array(p).tolist() for p in same]
            assert np.abs(wanted.astype(int) - found).max() <= 3
    tiny = Sample(np.zeros((480, 640, 3), np.uint8), np.array([[5.0, 5.0, 5.05, 5.05]]), np.zeros(1, np.int64))
    monkeypatch.setattr(module, "MOST_PIXELS", 2**23)
    zoom = ZoomToReference(PUBLISHED, ZoomOptions())
    assert zoom(tiny, np.random.default_rng(0)).image.shape == (255, 255, 3)


def test_objects_that_are_ignored():
    boxes = [[10, 10, 110, 60], [160, 10, 260, 60], [240, 10, 290, 60], [10, 100, 25, 115], [10, 130, 26, 140]]
    sample = Sample(np.zeros((300, 300, 3), np.uint8), np.array(boxes, np.float64), np.arange(5))
    made = ZoomToReference(PUBLISHED, ZoomOptions()).apply(sample, ZoomedCrop(1.0, 127, 127))
    assert made.labels.tolist() == [0, 1, 2, 3, 4]
    assert made.ignored.tolist() == [False, False, True, False, False]  # a quarter of the third is in the crop
    assert IgnoreSmall(PUBLISHED).apply(made).ignored.tolist() == [False, False, True, True, False]
    assert IgnoreSmall(HALF).apply(made).ignored.tolist() == [False, False, True, False, False]


def test_an_image_without_objects():
    zoom, image = ZoomToReference(PUBLISHED, ZoomOptions()), np.full((300, 400, 3), 5, np.uint8)
    scales = set()
    for seed in range(50):
        crop = zoom.draw(Sample(image, np.zeros((0, 4)), np.zeros(0, np.int64)), np.random.default_rng(seed))
        scales.add(round(crop.scale, 3))
        made = zoom.apply(Sample(image, np.zeros((0, 4)), np.zeros(0, np.int64)), crop)
        assert made.boxes.shape == (0, 4) and len(made.ignored) == 0 and made.image.any()
    assert scales == {0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1}


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (700, 3)])
def test_images_of_any_size(size):
    sample = Sample(np.zeros((*size, 3), np.uint8), np.array([[0.0, 0.0, size[1], size[0]]]), np.zeros(1, np.int64))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        assert draw_crop(size, sample.boxes, PUBLISHED, rng).scale > 0
        assert ZoomToReference(PUBLISHED, ZoomOptions())(sample, rng).image.shape == (255, 255, 3)


def test_attention_is_at_the_centers_of_objects_of_a_size():
    boxes = [[0, 0, 96, 10], [0, 0, 32, 32], [200, 200, 254, 254], [40, 40, 60, 70], [100, 100, 250, 254]]
    objects = BatchObjects(torch.tensor(boxes).double(), torch.zeros(5), torch.tensor([0, 0, 1, 1, 1]))
    large, medium, small = attention_targets(objects, 2, PUBLISHED, 4)
    assert [tuple(level.shape) for level in (large, medium, small)] == [(2, 1, n, n) for n in (16, 32, 64)]
    assert large.nonzero().tolist() == [[0, 0, 0, 3], [1, 0, 11, 10]]
    assert medium.nonzero().tolist() == [[0, 0, 0, 6], [0, 0, 2, 2], [1, 0, 28, 28]]
    assert small.nonzero().tolist() == [[0, 0, 4, 4], [1, 0, 13, 12]]
    none = BatchObjects(torch.zeros(0, 4).double(), torch.zeros(0), torch.zeros(0).long())
    assert not any(level.any() for level in attention_targets(none, 1, PUBLISHED, 4))


def test_batches_hold_ignored_objects_apart(tmp_path):
    draw_toy(tmp_path / "toy", seed=3, images=20, size=191)
    index = load_index(tmp_path / "toy" / "annotations" / "instances_train.json", tmp_path / "toy" / "train")
    samples = TrainingSet(index, HALF, AugmentOptions(zoom=ZoomOptions()), 0)
    some = samples.__getitems__([(epoch, i) for epoch in range(2) for i in range(8)])
    made, found = collate(some), pack(some).unpack()
    flags = np.concatenate([s.sample.ignored for s in some])
    assert 0 < flags.sum() == len(made.ignored.boxes) and len(made.objects.boxes) == (~flags).sum() > 0
    for batch in (found, made.to("cpu")):
        for one, other in zip((*made.objects, *made.ignored), (*batch.objects, *batch.ignored), strict=True):
            assert one.dtype == other.dtype and torch.equal(one, other)
    boxes = np.concatenate([s.sample.boxes for s in some])
    assert made.ignored.boxes.tolist() == boxes[flags].tolist()
    assert collate(TrainingSet(index, HALF, AugmentOptions(), 0).__getitems__([(0, 0)])).ignored is None


def test_options():
    with pytest.raises(ValueError, match="is a kind of crop"):
        AugmentOptions(zoom=ZoomOptions(), crop=False)
    kinds = [type(step).__name__ for step in augmentations(AugmentOptions(zoom=ZoomOptions()), PUBLISHED)]
    assert kinds == ["ZoomToReference", "Mirror", "IgnoreSmall", "Colour"]
