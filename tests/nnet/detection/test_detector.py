"""From an image to its detections: any size, any options, and back to the pixels of the image."""

import numpy as np
import pytest
import torch

from models.keypoints import CORNERS
from nnet.detection.detector import Detector
from nnet.families.ground_truth import MAPS
from nnet.families.options import DetectionOptions
from tests.builders import small_family
from tests.nnet.oracles import CPU, BoxOracle, family_of, objects_of

# Two stacks and levels enough for rounding to add up
NETWORK = {"stacks": 2, "stem_width": 8, "widths": (8, 12, 16), "blocks": (1, 1, 2)}


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (64, 64), (90, 33)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scales": (0.5, 1.5), "merge": True, "mirror": False},
        {"resize": "fit", "as_published": False},
    ],
)
def test_any_image(size, options):
    options = DetectionOptions(embedding_distance=9.0, **options)
    detector = Detector(small_family(classes=2), options, (32, 48), CPU)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = detector(image)
    assert np.isfinite(found.boxes).all()
    assert (found.boxes[:, 2] <= size[1] + 1).all() and (found.boxes[:, 3] <= size[0] + 1).all()
    maps = detector.heatmaps(image)
    assert {name: m.shape for name, m in maps.items()} == {"top_left": size, "bottom_right": size}


@pytest.mark.parametrize("resize", ["original", "fit"])
@pytest.mark.parametrize("size", [(60, 100), (100, 60)])
def test_what_the_network_sees_is_what_comes_back(resize, size):
    """Boxes given to an oracle where the image lies on the canvas are the detections, in both kinds of placement."""
    truth = np.array([[4.0, 6.0, 30.0, 40.0], [20.0, 10.0, 50.0, 55.0]])
    oracle = BoxOracle([])
    detector = Detector(family_of(oracle), DetectionOptions(resize=resize, as_published=False), (63, 63), CPU)
    image = np.zeros((*size, 3), np.uint8)
    _, placement = detector.place(image, 1.0)
    oracle.boxes = [
        [v * placement.scale[1 - n % 2] + placement.border[1 - n % 2] for n, v in enumerate(box)] for box in truth
    ]
    found = detector(image)
    best = found.boxes[found.scores > 0.9]
    assert len(best) >= 2
    for box in truth:
        assert np.abs(best - box).max(1).min() < 0.02


def test_corners_of_an_image():
    objects = objects_of([[4.0, 6, 30, 40], [20, 10, 50, 55]], [0, 1])
    detector = Detector(small_family(classes=2), DetectionOptions(scales=(0.5, 1.5)), (64, 64), CPU, truth=MAPS)
    found = detector.corners(np.zeros((60, 100, 3), np.uint8), objects)
    for kind, columns in (("top_left", slice(0, 2)), ("bottom_right", slice(2, 4))):
        points, classes, scores = found[kind]
        order = np.argsort(classes)
        assert classes[order].tolist() == [0, 1] and scores.tolist() == [1, 1]
        np.testing.assert_allclose(points[order], objects.boxes[:, columns], atol=1e-3)


@pytest.mark.parametrize("resize", ["original", "fit"])
def test_views_by_scale_and_with_the_mirror_image(resize):
    options = DetectionOptions(scales=(0.5, 2.0), resize=resize)
    detector = Detector(small_family(classes=2), options, (32, 48), CPU)
    views = list(detector.views(np.zeros((40, 50, 3), np.uint8)))
    assert [view.scale for view in views] == [0.5, 2.0] and views[0].truth == frozenset()
    for view in views:
        assert set(view.maps) == set(CORNERS)
        assert view.maps["top_left"].heatmap.shape == (2, 2, *view.placement.cells)
    assert views[0].placement.canvas < views[1].placement.canvas


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({"channels_last": True}, 1e-4), ({"precision": "bfloat16", "channels_last": True}, 0.05)],
)
def test_testing_with_options_of_speed(options, tolerance):
    family = small_family(backbone=NETWORK, pool_width=4, bn_init="ones")
    seen = []
    family.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    canvas = np.random.default_rng(0).integers(0, 256, (63, 63, 3), dtype=np.uint8)
    detectors = [Detector(family, DetectionOptions(**o), (63, 63), CPU) for o in ({}, options)]
    plain, fast = (detector.predict(detector.stack([canvas])) for detector in detectors)
    assert seen[0].is_contiguous() and seen[1].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(seen[0], seen[1])
    for name in plain:
        for a, b in zip(plain[name], fast[name], strict=True):
            assert b.dtype == getattr(torch, options.get("precision", "float32"))
            scale = a.abs().max()
            torch.testing.assert_close(b.float() / scale, a / scale, rtol=0, atol=tolerance)
