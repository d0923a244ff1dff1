"""Anchor boxes as a family: loss, options of the training step, detections."""

import math

import numpy as np
import pytest
import torch

from models.anchors import AnchorPredictions, anchors, box_coder
from nnet.detection.detector import Detector
from nnet.families import Family
from nnet.families.options import DetectionOptions
from nnet.runtime.distributed import Group
from nnet.runtime.precision import Precision, layout
from nnet.training.options import TrainOptions
from nnet.training.step import NonFinite, Objective, UpdateStep, checkpoint_activations
from sample.colour import normalise
from sample.dataset import Batch
from sample.targets import BatchObjects
from tests.builders import small_family

pytest.importorskip("torchvision.models.detection.retinanet", reason="anchors are torchvision's")

TINY = {"stacks": 2, "stem_width": 8, "widths": (16, 16, 24), "blocks": (1, 1, 1)}


@pytest.fixture
def family() -> Family:
    return small_family("anchors", backbone=TINY, bn_init="ones")


def batch(size=(63, 95), objects=2) -> Batch:
    """Two images; only the first has objects."""
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    boxes = torch.tensor([[10.0, 12, 42, 40], [40, 5, 90, 60]])[:objects]
    there = BatchObjects(boxes, torch.tensor([0, 2])[:objects], torch.zeros(objects, dtype=torch.long))
    return Batch(images, there, None, torch.tensor([7, 8]), [])


def test_every_parameter_is_used(family):
    """Else DistributedDataParallel waits for gradients that never come."""
    Objective(family)(family.network.train(), batch()).loss.sum().backward()
    assert [name for name, p in family.network.named_parameters() if p.grad is None] == []


def test_images_without_objects(family):
    terms = Objective(family)(family.network.train(), batch(objects=0))
    assert terms.loss.shape == (2,) and (terms.regression == 0).all() and terms.loss.isfinite().all()
    terms.loss.sum().backward()
    assert all(p.grad is not None for p in family.network.parameters())


@pytest.mark.parametrize("options", [{"channels_last": True}, {"precision": "bfloat16"}, {"checkpointing": True}])
def test_options_of_speed_and_memory(family, options):
    network = family.network.train()
    data = batch()
    expected = Objective(family)(network, data).loss
    autocast = Precision(options.get("precision", "float32"), torch.device("cpu")).autocast
    if options.get("checkpointing"):
        checkpoint_activations(network, network.recomputed)
    found = Objective(family, layout(options.get("channels_last", False)), autocast)(network, data).loss
    torch.testing.assert_close(found, expected, rtol=0.02 if "precision" in options else 1e-4, atol=0)
    found.sum().backward()


@pytest.mark.slow
def test_learns_two_images(family):
    """UpdateStep makes the updates, and the detector finds the objects where they are."""
    torch.manual_seed(0)
    data = batch((63, 95))
    options = DetectionOptions(nms="hard", as_published=False, mirror=False, resize="fit", score_threshold=0.3)
    with Group(torch.device("cpu")) as group:
        step = UpdateStep(family, TrainOptions(lr=3e-3), 1, group)
        losses = []
        for _ in range(250):
            made = step([data])
            assert made.terms.shape == (3, 2)
            losses.append(made.terms[0].mean().item())
    assert np.mean(losses[-5:]) < 0.1 * losses[0]
    detector = Detector(family, options, (63, 95), torch.device("cpu"))
    network = family.network.train()  # batch statistics: two images are too few for running statistics
    with torch.no_grad():
        maps = network(normalise(data.images, data.colour))[-1]
    first = AnchorPredictions(*([level[:1] for level in levels] for levels in maps))
    detector.predict = lambda canvas: first
    found = detector(np.zeros((63, 95, 3), np.uint8))
    for box, label in zip(data.objects.boxes.numpy(), data.objects.labels.numpy(), strict=True):
        best = found.boxes[found.labels == label][0]
        assert np.abs(best - box).max() < 4
    assert detector.heatmaps(np.zeros((63, 95, 3), np.uint8)) == {}


def test_terms_that_are_not_finite_are_named(family):
    with torch.no_grad():
        family.network.heads[0].regression_head.bbox_reg.bias.fill_(math.nan)
    with Group(torch.device("cpu")) as group:
        step = UpdateStep(family, TrainOptions(lr=1e-3), 1, group)
        with pytest.raises(NonFinite) as caught:
            step([batch()])
    assert (caught.value.terms, caught.value.image_ids) == (("regression",), (7, 8))


def test_mirrored_views_come_back(family):
    """A box found only in the mirror image lies where its object is in the image."""
    size = (63, 63)
    options = DetectionOptions(nms="hard", as_published=False, resize="fit")
    detector = Detector(family, options, size, torch.device("cpu"))
    priors = anchors(size, 2, family.finest)
    maps = AnchorPredictions(
        [torch.full((2, len(p), 3), -9.0) for p in priors], [torch.zeros(2, len(p), 4) for p in priors]
    )
    maps.logits[0][1, 40, 1] = 3.0
    maps.deltas[0][1, 40] = box_coder().encode_single(torch.tensor([[5.0, 8, 25, 30]]), priors[0][40:41])[0]
    detector.predict = lambda canvas: maps
    found = detector(np.zeros((63, 63, 3), np.uint8))
    assert found.labels.tolist() == [1]
    np.testing.assert_allclose(found.boxes, [[62 - 25, 8, 62 - 5, 30]], atol=1e-3)
