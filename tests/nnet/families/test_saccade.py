"""CornerNet-Saccade: crops, locations, loss, and detection in two passes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import configs
from models.decode import Detections
from models.losses import LossOptions
from nnet.api import load_detector
from nnet.detection.detector import Detector
from nnet.families.base import Candidates
from nnet.families.options import DetectionOptions
from nnet.families.placement import to_canvas
from nnet.families.saccade.crops import Crop, cut, first_crops, placement
from nnet.families.saccade.family import candidates
from nnet.families.saccade.locations import Locations, attention_locations, detected_locations, suppress_locations
from nnet.families.saccade.options import SaccadeDetectionOptions
from tests.builders import make_batch, save_detector, small_family
from tests.nnet.oracles import CPU

BACKBONE = {"stacks": 2, "widths": (4, 4, 4, 4), "blocks": (1, 1, 1, 1)}
OPTIONS = DetectionOptions(
    mirror=False, corners=12, pairs=12, embedding_distance=9.0, edge_pairs=False, as_published=False
)
SIDE = 63
TINY = """
model: {detector: saccade, backbone: {stacks: 2, widths: [8, 8, 8, 8], blocks: [1, 1, 1, 1]}}
data: {input_size: [63, 63]}
augment: {zoom: {full: false}}
test: {mirror: false, edge_pairs: false, embedding_distance: 9, as_published: false}
"""


def family_of(**options):
    return small_family("saccade", 3, BACKBONE, **options)


def detector_of(family=None, **saccade):
    options = replace(OPTIONS, saccade=SaccadeDetectionOptions(**saccade))
    return Detector(family or family_of(), options, (SIDE, SIDE), CPU)


def noise(*size):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def locations_of(*rows):
    y, x, scale, score = np.array(rows, np.float64).reshape(-1, 4).T
    return Locations.of(y, x, scale, score, "attention")


@pytest.mark.parametrize(("y", "x", "scale"), [(50, 70, 1.0), (5, 99, 2.5), (50, 50, 0.6), (99, 0, 40.0)])
def test_what_is_cut_lies_where_the_placement_says(y, x, scale):
    """A white pixel of the image, within the error of the release: it truncates sizes."""
    image = np.zeros((100, 100, 3), np.uint8)
    image[y, x] = 255
    crop = Crop.at(y + 0.7, x + 0.2, scale, 255, "")
    canvas = cut(image, crop, 255)
    assert canvas.shape == (255, 255, 3) and canvas.dtype == np.float32
    lies = placement(crop, (100, 100), 255, 4)
    rows, columns = np.nonzero(canvas[..., 0] > 0.6 * canvas.max())
    expected = to_canvas(np.array([[x, y, x + 1, y + 1]], np.float64), lies)[0]
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(found, expected, atol=1.5 + 0.5 * scale)


def test_a_corner_in_cells_is_mapped_to_the_image():
    lies = placement(Crop.at(40, 60, 2.0, 255, ""), (100, 120), 255, 4)
    pairs = Detections(np.array([[[16, 8, 32, 32]]], np.float32), *np.zeros((2, 1, 1), np.float32), np.ones((1, 1, 2)))
    found = candidates(pairs, lies)
    offset = np.array([60 - 63, 40 - 63] * 2)  # half of the 127 pixels of the crop, rounded down
    np.testing.assert_allclose(found.boxes, [np.array([16, 8, 32, 32]) * 255 / 64 / 2 + offset], atol=1e-4)


def test_the_first_crops_show_the_whole_image():
    for crop, size in zip(first_crops((480, 640), 255, (192, 255)), (192, 255), strict=True):
        canvas = cut(np.full((480, 640, 3), 100, np.uint8), crop, 255)
        rows, columns = (np.flatnonzero(canvas[..., 0].any(axis)) for axis in (1, 0))
        assert abs(np.ptp(columns) + 1 - size) <= 2 and abs(np.ptp(rows) + 1 - 0.75 * size) <= 2
    assert [c.scale * 640 for c in first_crops((480, 640), 127, (192, 255))] == pytest.approx([96, 127.5])


def test_locations_of_attention():
    large, medium, small = np.zeros((2, 4, 4)), np.zeros((2, 8, 8)), np.zeros((2, 16, 16))
    large[0, 1, 2], medium[0, 3, 3], small[0, 5, 6], small[0, 6, 6], medium[1, 4, 4] = 0.9, 0.5, 0.4, 0.3, 0.8
    crops = [Crop.at(32, 32, 1.0, 63, "a"), Crop.at(32, 32, 2.5, 63, "b")]  # the second is too large a scale
    found = attention_locations([large, medium, small], crops, (60, 60), 4, 0.3)
    offset = 32 - 31
    assert found.y.tolist() == [16 + offset, 24 + offset, 20 + offset]
    assert found.x.tolist() == [32 + offset, 24 + offset, 24 + offset]
    assert found.scale.tolist() == [1, 2, 4] and found.score.tolist() == [0.9, 0.5, 0.4]
    outside = attention_locations([large, medium, small], crops, (20, 60), 4, 0.3)
    assert outside.y.tolist() == [17]


def test_locations_of_detections():
    boxes = np.array([[0, 0, 200, 100], [10, 10, 60, 90], [4, 4, 20, 8], [5, 5, 5, 5], [0, 0, 50, 50]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.9, 0.4], np.float32)  # the fourth has no extent, the fifth is below 0.5
    found = detected_locations(Candidates(boxes, scores, np.zeros(5, np.int64), None), 1.0, 0.5)
    assert found.y.tolist() == [50, 50, 6] and found.x.tolist() == [100, 35, 12]
    assert found.scale.tolist() == pytest.approx([192 / 200, 64 / 80, 24 / 16])
    assert found.score.tolist() == [1, 1, 1]


def test_suppression_of_locations():
    same_row, same_scale, other_scale = (10, 200, 1.0, 0.8), (12, 12, 1.0, 0.7), (10, 10, 2.0, 0.6)
    found = suppress_locations(locations_of(same_row, (10, 10, 1.0, 0.9), same_scale, other_scale), 1.0)
    assert np.stack(found[:4], 1).tolist() == [[10, 10, 1, 0.9], [10, 10, 2, 0.6]]  # a cross: the row is removed
    found = suppress_locations(locations_of(same_row, (10, 10, 1.0, 0.9), same_scale, other_scale), 1.0, "disc")
    assert found.score.tolist() == [0.9, 0.8, 0.6]
    tied = suppress_locations(locations_of((0, 0, 1, 1), (50, 50, 1, 1), (90, 90, 1, 1)), 1.0)
    assert tied.y.tolist() == [90, 50, 0]  # the last one first
    assert len(suppress_locations(locations_of(), 1.0).y) == 0


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (130, 100)])
def test_detection_in_two_passes(size):
    """Locations everywhere, in batches of any size, and none at all."""
    family, image = family_of(), noise(*size)
    detector = detector_of(family, attention_threshold=0, crops=7)
    views = list(detector.views(image))
    assert [view.title for view in views[:2]] == ["whole image"] * 2 and len(views) <= 9
    if size == (130, 100):
        assert len(views) == 9 and {view.title for view in views[2:]} == {"attention"}
    found = detector(image)
    assert np.isfinite(found.boxes).all() and (found.scores > 0).all()
    assert detector.seconds["network"] > 0
    one_by_one = detector_of(family, attention_threshold=0, crops=7, at_once=1)(image)
    np.testing.assert_allclose(found.boxes, one_by_one.boxes, atol=1e-2)
    assert len(list(detector_of(family, attention_threshold=0, crops=0).views(image))) == 2
    assert [len(part.scores) for part in detector.batch([image, image])] == [len(found.scores)] * 2
    assert detector.heatmaps(image)["attention_small"].shape == size
    assert detector.corners(image)["top_left"].points.shape[1] == 2


def test_crops_are_looked_at_without_attention():
    family, asked = family_of(), []
    family.network.register_forward_pre_hook(
        lambda _, inputs, options: asked.append((len(inputs[0]), options["attention"])), with_kwargs=True
    )
    detector_of(family, attention_threshold=0, crops=5, at_once=4)(noise(130, 100))
    assert asked == [(2, True), (4, False), (1, False)]


def test_attention_counts_as_released():
    """It is averaged over the stacks twice, or as the other terms."""
    batch = make_batch(2, 4, size=(SIDE, SIDE))
    terms = {}
    for twice in (True, False):
        family = family_of(loss=LossOptions(attention_twice_averaged=twice))
        outputs = family.network.eval()(torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), True)
        terms[twice] = family.loss(outputs, batch)
    assert terms[True].attention.shape == (2,) and (terms[True].attention > 0).all()
    torch.testing.assert_close(terms[False].loss - terms[True].loss, terms[True].attention / 2)
    assert terms[True]._fields == ("loss", "focal", "pull", "push", "offset", "attention")


def test_ignored_objects_are_neither_found_nor_background():
    family, batch = family_of(), make_batch(2, 6, size=(SIDE, SIDE))
    used, ignored = (type(batch.objects)(*(part[which] for part in batch.objects)) for which in ([0, 2, 4], [1, 3, 5]))
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    outputs = family.network.eval()(images, True)
    (maps,) = outputs[1:]
    heatmap = maps.keypoints["top_left"].heatmap
    heatmap.retain_grad()
    family.loss(outputs, batch._replace(objects=used, ignored=ignored)).focal.sum().backward()
    x, y = (ignored.boxes[:, :2] * 16 / SIDE).long().T
    assert (heatmap.grad[ignored.image_index, ignored.labels, y, x] == 0).all()
    x, y = (used.boxes[:, :2] * 16 / SIDE).long().T
    assert (heatmap.grad[used.image_index, used.labels, y, x] != 0).all()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("test.mirror=true", "test.mirror: has no meaning here, write false"),
        ("test.scales=[1,2]", r"test.scales: has no meaning here, write \[1.0\]"),
        ("test.resize=fit", "test.resize: has no meaning here, write original"),
        ("test.outside=5", "test.outside: has no meaning here, write 0.0"),
        ("data.input_size=[63,127]", r"data.input_size: the crops of .* are square, got \[63, 127\]"),
        ("model.backbone={widths: [4, 4], blocks: [1, 1]}", "model.backbone.widths: needs 4 levels or more"),
    ],
)
def test_options_that_do_not_go_together(config, option, message):
    with pytest.raises(configs.ConfigError, match=f"command line: {message}"):
        configs.load(config, [option])


def test_a_detector_with_mirror_images_is_refused():
    detector = Detector(family_of(), DetectionOptions(), (SIDE, SIDE), CPU)
    with pytest.raises(ValueError, match="test.mirror must be false"):
        detector(noise(20, 20))


def test_together_as_one_by_one(config, tmp_path):
    options = ["test.saccade.attention_threshold=0"]
    save_detector(tmp_path / "x.pt", configs.load(config, options), [[3, 5], ["cat", "dog"]])
    detector = load_detector(tmp_path / "x.pt", batch_size=3)
    images = [noise(*size) for size in ((70, 90), (200, 30), (8, 8))]
    single = [detector(image, 0) for image in images]
    assert sum(map(len, single)) > 20
    for one, other in zip(single, detector(images, 0), strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
