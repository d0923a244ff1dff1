"""Radii, Gaussians and targets of keypoints."""

import json

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from db import read_image
from models.keypoints import CORNERS
from sample.augment import Fit, Sample
from sample.targets import (
    OBJECTS_AT_ONCE,
    BatchObjects,
    Grid,
    PenaltyOptions,
    Spread,
    box_targets,
    draw_gaussians,
    gaussian_radius,
    penalty_spread,
)
from tests.sample.data import golden_index


@pytest.mark.parametrize("rule", ["cornernet", "centernet"])
def test_golden_radius(golden, rule):
    cases = json.loads(golden(f"gaussian_{rule}.json").read_text())["height_width_iou_radius"]
    for height, width, overlap, radius in cases:
        assert float(gaussian_radius(height, width, overlap, rule)) == radius
    for overlap in {case[2] for case in cases}:
        some = torch.tensor([case for case in cases if case[2] == overlap], dtype=torch.float64)
        assert torch.equal(gaussian_radius(some[:, 0], some[:, 1], overlap, rule), some[:, 3])


@pytest.mark.parametrize(
    "name, key, divisor",
    [("cornernet", "heatmap", 6), ("centernet", "heatmap", 6), ("centernet", "center_heatmap", 5)],
)
def test_golden_gaussians(golden, name, key, divisor):
    drawn = json.loads(golden(f"gaussian_{name}.json").read_text())["draws_x_y_radius"]
    expected = torch.from_numpy(np.load(golden(f"gaussian_{name}.npz"))[key])
    x_y_radius = torch.tensor(drawn)
    radius = x_y_radius[:, 2]
    spread = Spread(radius, radius.double(), int(radius.max()))
    zeros = torch.zeros(len(drawn), dtype=torch.int64)
    heatmap = torch.zeros(1, 1, *expected.shape)
    assert draw_gaussians(heatmap, zeros, zeros, x_y_radius[:, :2], spread, divisor) is heatmap
    assert torch.equal(heatmap[0, 0], expected)


def check_keypoint(expected, prefix, classes, result):
    """One kind of keypoint against the released code's arrays, which hold 128 rows per image."""
    heatmap = torch.zeros(len(expected["mask"]), classes, *result.heatmap.shape[2:])
    heatmap[tuple(torch.from_numpy(expected[f"{prefix}_heat_idx"].astype(np.int64)).T)] = torch.from_numpy(
        expected[f"{prefix}_heat_val"]
    )
    assert torch.equal(result.heatmap, heatmap)
    there = expected["mask"].astype(bool)
    assert np.array_equal(result.cells, expected[f"{prefix}_ind"][there])
    assert np.array_equal(result.offsets.float(), expected[f"{prefix}_off"][there])


def golden_objects(golden, shared_data, name):
    """The released code's arrays, the objects of its batch, and their grid."""
    listed = json.loads(golden(f"targets_{name}.json").read_text())
    expected = np.load(golden(f"targets_{name}.npz"))
    index, where = golden_index(shared_data, listed["split"])
    boxes, labels = [], []
    for n, file in enumerate(listed["files"]):
        i = where[file]
        sample = Sample(read_image(index.path(i)), *index.annotations(i))
        image, some, their, *_ = Fit((511, 511)).apply(sample)
        assert np.array_equal(image.transpose(2, 0, 1)[:, ::64], expected["image_rows"][n])
        np.testing.assert_allclose(image.mean((0, 1)), expected["image_mean"][n], rtol=1e-5)
        boxes.append(torch.from_numpy(some))
        labels.append(torch.from_numpy(their))
    image_index = torch.repeat_interleave(torch.tensor([len(some) for some in boxes]))
    objects = BatchObjects(torch.cat(boxes), torch.cat(labels), image_index)
    return expected, objects, Grid(len(boxes), index.num_classes, (511, 511), (128, 128))


def test_golden_targets_cornernet(golden, shared_data):
    expected, objects, grid = golden_objects(golden, shared_data, "cornernet")
    result = box_targets(CORNERS, objects, grid, PenaltyOptions())
    check_keypoint(expected, "tl", grid.classes, result["top_left"])
    check_keypoint(expected, "br", grid.classes, result["bottom_right"])


def test_golden_targets_centernet(golden, shared_data):
    expected, objects, grid = golden_objects(golden, shared_data, "centernet")
    penalty = PenaltyOptions(overlap=0.7, rule="centernet")
    result = box_targets([*CORNERS, "center"], objects, grid, penalty)
    check_keypoint(expected, "tl", grid.classes, result["top_left"])
    check_keypoint(expected, "br", grid.classes, result["bottom_right"])
    check_keypoint(expected, "ct", grid.classes, result["center"])


def test_the_spread_of_centers_is_an_option():
    boxes, zero = torch.tensor([[60.0, 70, 300, 390]], dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    grid = Grid(1, 1, (511, 511), (128, 128))
    for divisor in (3.0, 5.0, 6.0):
        penalty = PenaltyOptions(overlap=0.7, rule="centernet", center_divisor=divisor)
        targets = box_targets([*CORNERS, "center"], BatchObjects(boxes, zero, zero), grid, penalty)
        radius = penalty_spread(boxes, *grid[2:], penalty).radius.item()
        for name, expected in (("center", divisor), ("top_left", 6)):
            y, x = divmod(targets[name].cells.item(), 128)
            beside = np.exp(-1 / (2 * ((2 * radius + 1) / expected) ** 2))
            assert targets[name].heatmap[0, 0, y, x + 1].item() == pytest.approx(beside)


def random_objects(n, batch, classes, input_size, seed=0):
    r = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, 2, generator=r, dtype=torch.float64) * (torch.tensor(input_size[::-1]) - 1)
    boxes = torch.cat([corner.amin(1), corner.amax(1)], 1)
    image_index = torch.randint(batch, (n,), generator=r).sort().values
    return BatchObjects(boxes, torch.randint(classes, (n,), generator=r), image_index)


def reference_heatmap(objects, grid, radius_sigma, columns):
    """Object by object, cell by cell."""
    boxes, labels, image_index = objects
    batch, classes, input_size, output_size = grid
    heatmap = np.zeros((batch, classes, *output_size))
    rows, cols = np.indices(output_size)
    for box, label, image in zip(boxes.numpy(), labels, image_index, strict=True):
        x = int(box[columns[0]] * (output_size[1] / input_size[1]))
        y = int(box[columns[1]] * (output_size[0] / input_size[0]))
        height = np.ceil((box[3] - box[1]) * (output_size[0] / input_size[0]))
        width = np.ceil((box[2] - box[0]) * (output_size[1] / input_size[1]))
        radius, sigma = radius_sigma(height, width)
        value = np.exp(-((cols - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
        value[(abs(cols - x) > radius) | (abs(rows - y) > radius)] = 0
        heatmap[image, label] = np.maximum(heatmap[image, label], value)
    return heatmap.astype(np.float32)


def by_size(height, width):
    radius = max(0, int(gaussian_radius(height, width, 0.3)))
    return radius, (2 * radius + 1) / 6


@pytest.mark.parametrize(
    "penalty, radius_sigma",
    [
        (PenaltyOptions(), by_size),
        (PenaltyOptions("fixed"), lambda height, width: (2, 1.0)),
        (PenaltyOptions("none"), lambda height, width: (0, 1.0)),
    ],
)
@pytest.mark.parametrize("n, input_size, output_size", [(1, (64, 64), (16, 16)), (500, (95, 191), (24, 48))])
def test_against_object_by_object(penalty, radius_sigma, n, input_size, output_size):
    objects, grid = random_objects(n, 3, 4, input_size), Grid(3, 4, input_size, output_size)
    boxes, labels, image_index = objects
    result = box_targets(CORNERS, objects, grid, penalty)
    for name, columns in (("top_left", (0, 1)), ("bottom_right", (2, 3))):
        expected = reference_heatmap(objects, grid, radius_sigma, columns)
        assert np.array_equal(result[name].heatmap, expected)
        y, x = result[name].cells // output_size[1], result[name].cells % output_size[1]
        assert (result[name].heatmap[image_index, labels, y, x] == 1).all()
        exact = boxes[:, columns] * (torch.tensor(output_size[::-1]) / torch.tensor(input_size[::-1]).double())
        assert torch.allclose(torch.stack([x, y], 1) + result[name].offsets, exact, atol=1e-12)
    if penalty.kind == "none":
        assert set(result["top_left"].heatmap.unique().tolist()) == {0.0, 1.0}


def test_more_objects_than_are_drawn_at_once():
    n = 2 * OBJECTS_AT_ONCE + 7
    objects, grid = random_objects(n, 2, 2, (64, 64)), Grid(2, 2, (64, 64), (16, 16))
    whole = box_targets(CORNERS, objects, grid, PenaltyOptions())
    halves = [BatchObjects(*(part[half::2] for part in objects)) for half in (0, 1)]
    parts = [box_targets(CORNERS, half, grid, PenaltyOptions()) for half in halves]
    for name, target in whole.items():
        assert torch.equal(target.heatmap, torch.maximum(*(part[name].heatmap for part in parts)))
        assert len(target.cells) == n


def test_no_objects():
    none = torch.zeros(0, dtype=torch.int64)
    for penalty in (
        PenaltyOptions(),
        PenaltyOptions("fixed"),
        PenaltyOptions("none"),
        PenaltyOptions(overlap=0.7, rule="centernet"),
    ):
        objects = BatchObjects(torch.zeros(0, 4).double(), none, none)
        for target in box_targets(CORNERS, objects, Grid(2, 3, (64, 64), (16, 16)), penalty).values():
            assert target.heatmap.shape == (2, 3, 16, 16) and not target.heatmap.any()
            assert target.cells.shape == (0,) and target.offsets.shape == (0, 2)


def test_boxes_at_the_borders():
    boxes = torch.tensor([[0, 0, 510, 510], [510, 510, 511, 511], [-3, 0, 600, 1]], dtype=torch.float64)
    zeros = torch.zeros(3, dtype=torch.int64)
    grid = Grid(1, 1, (511, 511), (128, 128))
    result = box_targets(CORNERS, BatchObjects(boxes, zeros, zeros), grid, PenaltyOptions())
    assert result["top_left"].cells.tolist() == [0, 127 * 128 + 127, 0]
    assert result["bottom_right"].cells.tolist() == [127 * 128 + 127, 127 * 128 + 127, 127]
    assert (result["bottom_right"].heatmap.flatten()[result["bottom_right"].cells] == 1).all()


@pytest.mark.parametrize("rule", ["cornernet", "centernet"])
@pytest.mark.parametrize("overlap", [0.1, 0.3, 0.7, 0.9])
def test_no_radius_is_above_the_limit(rule, overlap):
    boxes = random_objects(500, 1, 1, (300, 200)).boxes
    boxes[0] = torch.tensor([0, 0, 199, 299])
    spread = penalty_spread(boxes, (300, 200), (75, 50), PenaltyOptions("object", overlap, rule=rule))
    assert spread.cut.max() <= spread.limit


PENALTIES = (
    PenaltyOptions(),
    PenaltyOptions("fixed"),
    PenaltyOptions("none"),
    PenaltyOptions(overlap=0.7, rule="centernet"),
)
KEYPOINTS = [*CORNERS, "center"]


def test_heatmaps_in_channels_last():
    objects = random_objects(60, 3, 4, (95, 191))
    settings = Grid(3, 4, (95, 191), (24, 48)), PenaltyOptions()
    rows = box_targets(KEYPOINTS, objects, *settings)
    columns = box_targets(KEYPOINTS, objects, *settings, torch.channels_last)
    for name, target in rows.items():
        assert target.heatmap.is_contiguous()
        assert columns[name].heatmap.is_contiguous(memory_format=torch.channels_last)
        assert all(torch.equal(*pair) for pair in zip(target, columns[name], strict=True))


def test_no_size_or_choice_depends_on_the_boxes():
    """Anything that would make the host wait for the device fails on tensors without values."""
    grid = Grid(2, 3, (64, 64), (16, 16))
    for penalty in PENALTIES:
        box_targets(KEYPOINTS, random_objects(1, 2, 3, (64, 64)), grid, penalty)  # makes the table of radii
        with FakeTensorMode(allow_non_fake_inputs=True):
            boxes, index = torch.empty(7, 4, dtype=torch.float64), torch.empty(7, dtype=torch.int64)
            targets = box_targets(KEYPOINTS, BatchObjects(boxes, index, index), grid, penalty)
        assert all(target.heatmap.shape == (2, 3, 16, 16) and len(target.cells) == 7 for target in targets.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_on_cuda_as_on_the_cpu_without_waiting(layout):
    objects = random_objects(OBJECTS_AT_ONCE + 60, 3, 4, (95, 191))
    there = BatchObjects(*(part.cuda() for part in objects))
    for penalty in PENALTIES:
        settings = Grid(3, 4, (95, 191), (24, 48)), penalty, layout
        box_targets(KEYPOINTS, there, *settings)  # makes the table of radii
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = box_targets(KEYPOINTS, there, *settings)
        finally:
            torch.cuda.set_sync_debug_mode(before)
        for name, expected in box_targets(KEYPOINTS, objects, *settings).items():
            # the device's exponential may differ in the last place; the heatmap is rounded to float32
            torch.testing.assert_close(found[name].heatmap.cpu(), expected.heatmap, rtol=2e-7, atol=0)
            assert torch.equal(found[name].cells.cpu(), expected.cells)
            assert torch.equal(found[name].offsets.cpu(), expected.offsets)
