"""Annotation in place of predictions: the maps by hand, and what testing makes of them."""

import numpy as np
import pytest
import torch

from models.keypoints import KeypointMaps
from nnet.detection.detector import Detector
from nnet.families.ground_truth import MAPS, SPACING, mirrored, shared_groups, true_maps
from nnet.families.options import DetectionOptions
from sample.geometry import mirror
from tests.builders import small_family
from tests.nnet.oracles import CPU, objects_of

CANVAS = 63, 31  # 16 x 8 cells
BOXES = np.array([[0.0, 6.0, 20.0, 40.0], [9.0, 6.0, 29.0, 62.0]])
LABELS = np.array([1, 0])


def predicted(batch=2, classes=2):
    torch.manual_seed(0)
    sizes = {"heatmap": classes, "embedding": 1, "offset": 2}
    corners = ("top_left", "bottom_right")
    return {kind: KeypointMaps(**{k: torch.rand(batch, n, 16, 8) for k, n in sizes.items()}) for kind in corners}


def test_maps_by_hand():
    maps = true_maps(predicted(), BOXES, LABELS, CANVAS, MAPS)["bottom_right"]
    scores = maps.heatmap.sigmoid()
    assert set(scores.unique().tolist()) == {0, 1} and scores.sum() == 4
    x, y = 20 * 8 / 31, 40 * 16 / 63  # 5.16, 10.16
    assert scores[0, 1, 10, 5] == 1
    assert maps.offset[0, :, 10, 5].tolist() == pytest.approx([x - 5, y - 10], abs=1e-6)
    assert maps.embedding[0, 0, 10, 5] == 0 and maps.embedding[0, 0, 15, 7] == SPACING
    # The mirror image's bottom-right corner of the first object is at 30 - 0 pixels: in the last cell.
    assert scores[1, 1, 10, 7] == 1 and maps.offset[1, 0, 10, 7] == pytest.approx(30 * 8 / 31 - 7, abs=1e-6)


def test_any_subset():
    before = predicted()
    for name, changed in zip(MAPS, ("heatmap", "offset", "embedding"), strict=True):
        after = true_maps(before, BOXES, LABELS, CANVAS, [name])
        for kind, maps in before.items():
            for field in maps._fields:
                assert torch.equal(getattr(maps, field), getattr(after[kind], field)) == (field != changed)
    assert true_maps(before, BOXES, LABELS, CANVAS, ["centers"]) is before
    assert true_maps(before, BOXES, LABELS, CANVAS, []) is before


def test_offsets_elsewhere_are_those_predicted():
    before = predicted()["top_left"].offset
    after = true_maps(predicted(), BOXES, LABELS, CANVAS, ["offsets"])["top_left"].offset
    assert (before != after).any(1).sum() == 4  # two corners, two views


def test_embeddings_are_those_of_the_nearest_corner():
    embedding = true_maps(predicted(1), BOXES, LABELS, CANVAS, ["embeddings"])["top_left"].embedding[0, 0]
    # Top-left corners in cells (0, 1) and (2, 1): as near to both is the column between, which the first has.
    assert (embedding[:, :2] == 0).all() and (embedding[:, 2:] == SPACING).all()


def test_the_first_object_has_a_cell_that_two_share():
    boxes = np.array([[8.0, 8, 20, 40], [9.0, 9, 29, 62]])
    maps = true_maps(predicted(1), boxes, LABELS, CANVAS, MAPS)["top_left"]
    assert maps.heatmap[0, :, 2, 2].sigmoid().tolist() == [1, 1]  # of two classes
    assert maps.embedding[0, 0, 2, 2] == 0
    assert maps.offset[0, :, 2, 2].tolist() == pytest.approx([8 * 8 / 31 - 2, 8 * 16 / 63 - 2], abs=1e-6)


def test_objects_that_share_a_cell_are_one_group():
    # by top-left cell 0 with 1, by bottom-right cell 1 with 3: one group of three; 2 and 4 are alone
    cells = torch.tensor([5, 5, 7, 8, 0]), torch.tensor([9, 4, 6, 4, 5])
    assert shared_groups(cells).tolist() == [0, 0, 2, 0, 4]
    assert shared_groups([torch.zeros(0, dtype=torch.int64)] * 2).tolist() == []
    chain = torch.arange(40).flip(0)
    assert shared_groups([chain // 2, (chain + 1) // 2]).tolist() == [0] * 40


@pytest.mark.parametrize("labels", [[0, 0], [0, 1]])
def test_objects_that_share_a_corner_both_come_back(labels):
    objects = objects_of([[8.0, 8, 32, 40], [8.0, 8, 60, 52]], labels)
    options = DetectionOptions(as_published=False)
    detector = Detector(small_family(classes=2), options, (127, 127), CPU, truth=MAPS)
    found = detector(np.zeros((60, 100, 3), np.uint8), objects)
    sure = found.scores > 0.5
    assert np.abs(np.sort(found.boxes[sure][:, 2]) - [32, 60]).max() < 0.02


def test_maps_in_channels_last_and_without_objects():
    maps = {k: KeypointMaps(*(v.to(memory_format=torch.channels_last) for v in m)) for k, m in predicted().items()}
    for kind, expected in true_maps(predicted(), BOXES, LABELS, CANVAS, MAPS).items():
        found = true_maps(maps, BOXES, LABELS, CANVAS, MAPS)[kind]
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    none = true_maps(predicted(), BOXES[:0], LABELS[:0], CANVAS, MAPS)["top_left"]
    assert not none.heatmap.sigmoid().any() and torch.equal(none.offset, predicted()["top_left"].offset)


def test_the_annotation_is_mirrored_as_training_mirrors_it():
    box = np.array([[3.0, 4, 10, 12]])
    assert mirrored(box, 31).tolist() == mirror(np.zeros((20, 31, 3)), box)[1].tolist() == [[20, 4, 27, 12]]


@pytest.mark.parametrize(
    "options",
    [
        DetectionOptions(),
        DetectionOptions(mirror=False),
        DetectionOptions(resize="fit", embedding_distance=9.0, as_published=False),
        DetectionOptions(as_published=False),
        DetectionOptions(scales=(1.0, 1.5), merge=True, as_published=False),
    ],
)
@pytest.mark.parametrize("name", ["cornernet", "centernet"])
def test_with_everything_true_the_annotation_comes_back(name, options):
    """And nothing else: neither cells without a corner nor corners of different objects make a sure detection."""
    boxes = np.array([[4.0, 6.0, 30.0, 40.0], [20.0, 10.0, 50.0, 55.0], [22.0, 20.0, 80.0, 58.0]])
    family = small_family(name, classes=2)
    detector = Detector(family, options, (127, 127), CPU, truth=family.truths)
    found = detector(np.zeros((60, 100, 3), np.uint8), objects_of(boxes, [1, 1, 0]))
    sure = found.scores > 0.5
    order = np.lexsort((found.boxes[sure][:, 0], -found.labels[sure]))
    assert found.labels[sure][order].tolist() == [1, 1, 0]
    # Merging averages in the boxes of views where two objects share a cell, and with it the first one's offset
    # The released test puts the boxes of the mirror image one pixel too far to the right
    shift = 1 if options.mirror and options.as_published else 0
    assert np.abs(found.boxes[sure][order] - boxes).max() < (0.5 if options.merge else 0.02) + shift
    assert not (detector(np.zeros((60, 100, 3), np.uint8), objects_of([], [])).scores > 0).any()
