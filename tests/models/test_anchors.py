"""RetinaNet's anchors, losses and decoding on the hourglasses."""

import math

import numpy as np
import pytest
import torch

from models import build_network
from models.anchors import ANCHORS, AnchorPredictions, anchor_loss, anchors, box_coder, decode_anchors, match
from nnet.anchors import AnchorDetector
from nnet.distributed import Group
from nnet.inference import DetectSettings
from nnet.training import AnchorObjective, NotFinite, Precision, Step, checkpoint_activations, input_images
from sample import Batch

retinanet = pytest.importorskip("torchvision.models.detection.retinanet", reason="anchors are torchvision's")

TINY = {"head": "anchors", "stacks": 2, "stem_width": 8, "widths": [16, 16, 24], "blocks": [1, 1, 1]}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network(3, **TINY, bn_init="ones")


def batch(size=(63, 95), objects=2) -> Batch:
    """Two images, of which the first alone has objects."""
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    boxes = torch.tensor([[10.0, 12, 42, 40], [40, 5, 90, 60]])[:objects]
    fields = dict.fromkeys(Batch._fields)
    fields |= {"images": images, "boxes": boxes, "labels": torch.tensor([0, 2])[:objects]}
    fields |= {"image_index": torch.zeros(objects, dtype=torch.long), "image_ids": torch.tensor([7, 8])}
    return Batch(**fields)


@pytest.mark.parametrize("size", [(64, 64), (63, 95), (61, 34)])
def test_predictions_lie_on_the_anchors_for_any_size(network, size):
    images = torch.rand(2, 3, *size)
    outputs = network.train()(images)
    assert len(outputs) == 2 and len(network.eval()(images)) == 1
    priors = anchors(size, 2)
    for maps in outputs:
        for logits, deltas, boxes, stride in zip(maps.logits, maps.deltas, priors, (8, 16), strict=True):
            assert len(boxes) == ANCHORS * math.prod(math.ceil(n / stride) for n in size)
            assert logits.shape == (2, len(boxes), 3) and deltas.shape == (2, len(boxes), 4)


def test_published_network_has_strides_8_to_128():
    with torch.device("meta"):
        network = build_network(80, head="anchors")
        levels = network.backbone(torch.empty(1, 3, 511, 511))
    shapes = [(256, 64), (384, 32), (384, 16), (384, 8), (512, 4)]
    assert [[tuple(x.shape[1:3]) for x in stack] for stack in levels] == [shapes, shapes]
    assert network.divisor == 128


def test_anchors_are_retinanets():
    priors = anchors((511, 511), 5)
    expected = retinanet._default_anchorgen().cell_anchors
    for boxes, cell, stride in zip(priors, expected, (8, 16, 32, 64, 128), strict=True):
        assert torch.equal(boxes[:ANCHORS], cell)  # centred on the first pixel
        across = math.ceil(511 / stride)
        assert torch.equal(boxes[ANCHORS * (across + 2) :][:ANCHORS], cell + torch.tensor([2.0, 1, 2, 1]) * stride)


def test_matching_by_hand():
    priors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 22], [0, 0, 10, 100], [50, 50, 54, 54], [90, 90, 99, 99]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [48, 48, 58, 58]])
    # The second is between the thresholds (IoU 10/22); the fourth is poor (16/100), but the best of its object.
    assert match(boxes, priors).tolist() == [0, -2, -1, 1, -1]
    assert match(boxes[:0], priors).tolist() == [-1] * 5


def test_loss_is_torchvisions():
    torch.manual_seed(1)
    data, size = batch(), (63, 95)
    priors = anchors(size, 2)
    maps = AnchorPredictions([torch.randn(2, len(p), 3) for p in priors], [torch.randn(2, len(p), 4) for p in priors])
    (terms,) = anchor_loss([maps], data.boxes, data.labels, data.image_index, size)
    mine = [data.image_index == i for i in range(2)]
    targets = [{"boxes": data.boxes[m], "labels": data.labels[m]} for m in mine]
    outputs = {"cls_logits": torch.cat(maps.logits, 1), "bbox_regression": torch.cat(maps.deltas, 1)}
    every = torch.cat(priors)
    matched = [match(t["boxes"], every) for t in targets]
    expected = retinanet.RetinaNetHead(8, ANCHORS, 3).compute_loss(targets, outputs, [every, every], matched)
    torch.testing.assert_close(terms.classification, expected["classification"])
    torch.testing.assert_close(terms.regression, expected["bbox_regression"])
    assert terms.total == terms.classification + terms.regression


def test_decoding_gives_back_what_was_encoded():
    size, box = (63, 95), torch.tensor([[20.0, 10, 57, 44]])
    priors = anchors(size, 2)
    maps = AnchorPredictions(
        [torch.full((1, len(p), 3), -9.0) for p in priors], [torch.zeros(1, len(p), 4) for p in priors]
    )
    maps.logits[1][0, 100, 2] = 3.0
    maps.deltas[1][0, 100] = box_coder().encode_single(box, priors[1][100:101])[0]
    maps.logits[0][0, 5, 1] = 1.0  # its anchor as it is
    found = decode_anchors(maps, size, k=4)
    assert found.scores[0, :3].tolist() == pytest.approx([1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-1)), -1])
    assert found.labels[0, :2].tolist() == [2, 1] and found.scores.shape == (1, 8)
    torch.testing.assert_close(found.boxes[0, :1], box)
    torch.testing.assert_close(found.boxes[0, 1], priors[0][5])


def test_every_parameter_is_used(network):
    """Else DistributedDataParallel waits for gradients that never come."""
    AnchorObjective()(network.train(), batch()).total.sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_images_without_objects(network):
    terms = AnchorObjective()(network.train(), batch(objects=0))
    assert terms.total.shape == (2,) and (terms.regression == 0).all() and terms.total.isfinite().all()
    terms.total.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("options", [{"channels_last": True}, {"precision": "bfloat16"}, {"checkpointing": True}])
def test_options_of_speed_and_memory(network, options):
    network.train()
    data = batch()
    expected = AnchorObjective()(network, data).total
    autocast = Precision(options.get("precision", "float32"), torch.device("cpu")).autocast
    if options.get("checkpointing"):
        checkpoint_activations(network)
    found = AnchorObjective(options.get("channels_last", False), autocast)(network, data).total
    torch.testing.assert_close(found, expected, rtol=0.02 if "precision" in options else 1e-4, atol=0)
    found.sum().backward()


def test_learns_two_images(network):
    """Step makes the updates, and the detector finds the objects where they are."""
    torch.manual_seed(0)
    data = batch((63, 95))
    settings = DetectSettings(nms="hard", as_published=False, mirror=False, resize="fit", score_threshold=0.3)
    with Group(torch.device("cpu")) as group:
        step = Step(network, torch.optim.Adam(network.parameters(), 3e-3), AnchorObjective(), group, 1)
        losses = []
        for _ in range(250):
            made = step([data])
            assert not isinstance(made, NotFinite)
            assert made[0].shape == (3, 2)
            losses.append(made[0][0].mean().item())
    assert np.mean(losses[-5:]) < 0.1 * losses[0]
    detector = AnchorDetector(network, settings, (63, 95), torch.device("cpu"))
    network.train()  # BatchNorm by what it sees: two images are too few for running statistics
    with torch.no_grad():
        maps = network(input_images(data, False))[-1]
    first = AnchorPredictions(*([level[:1] for level in levels] for levels in maps))
    detector.predict = lambda canvas: first
    found = detector(np.zeros((63, 95, 3), np.uint8))
    for box, label in zip(data.boxes.numpy(), data.labels.numpy(), strict=True):
        best = found.boxes[found.labels == label][0]
        assert np.abs(best - box).max() < 4
    assert detector.heatmaps(np.zeros((63, 95, 3), np.uint8)) == {}


def test_terms_that_are_not_finite_are_named(network):
    with torch.no_grad():
        network.heads[0].regression_head.bbox_reg.bias.fill_(math.nan)
    with Group(torch.device("cpu")) as group:
        step = Step(network, torch.optim.Adam(network.parameters(), 1e-3), AnchorObjective(), group, 1)
        assert step([batch()]) == NotFinite(("regression",), (7, 8))


def test_mirrored_views_come_back(network):
    """A box found in the mirror image alone lies where its object is in the image."""
    size = (63, 63)
    detector = AnchorDetector(
        network, DetectSettings(nms="hard", as_published=False, resize="fit"), size, torch.device("cpu")
    )
    priors = anchors(size, 2)
    maps = AnchorPredictions(
        [torch.full((2, len(p), 3), -9.0) for p in priors], [torch.zeros(2, len(p), 4) for p in priors]
    )
    maps.logits[0][1, 40, 1] = 3.0
    maps.deltas[0][1, 40] = box_coder().encode_single(torch.tensor([[5.0, 8, 25, 30]]), priors[0][40:41])[0]
    detector.predict = lambda canvas: maps
    found = detector(np.zeros((63, 63, 3), np.uint8))
    assert found.labels.tolist() == [1]
    np.testing.assert_allclose(found.boxes, [[63 - 25, 8, 63 - 5, 30]], atol=1e-3)
