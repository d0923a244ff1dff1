"""RetinaNet's anchors, losses and decoding on the hourglasses."""

import math

import pytest
import torch

from models.anchors import (
    ANCHORS,
    AnchorOptions,
    AnchorPredictions,
    anchor_loss,
    anchor_network,
    anchors,
    box_coder,
    decode_anchors,
    match,
)
from sample.targets import BatchObjects
from tests.builders import small_network

retinanet = pytest.importorskip("torchvision.models.detection.retinanet", reason="anchors are torchvision's")

TINY = {"stacks": 2, "stem_width": 8, "widths": (16, 16, 24), "blocks": (1, 1, 1)}
FINEST = 8  # stride of the first level


@pytest.mark.parametrize("size", [(64, 64), (63, 95), (61, 34)])
def test_predictions_lie_on_the_anchors_for_any_size(size):
    network = small_network("anchors", backbone=TINY, bn_init="ones")
    images = torch.rand(2, 3, *size)
    outputs = network.train()(images)
    assert len(outputs) == 2 and len(network.eval()(images)) == 1
    priors = anchors(size, 2, FINEST)
    for maps in outputs:
        for logits, deltas, boxes, stride in zip(maps.logits, maps.deltas, priors, (8, 16), strict=True):
            assert len(boxes) == ANCHORS * math.prod(math.ceil(n / stride) for n in size)
            assert logits.shape == (2, len(boxes), 3) and deltas.shape == (2, len(boxes), 4)


def test_published_network_has_strides_8_to_128():
    with torch.device("meta"):
        network = anchor_network(80, AnchorOptions())
        levels = network.backbone(torch.empty(1, 3, 511, 511))
    shapes = [(256, 64), (384, 32), (384, 16), (384, 8), (512, 4)]
    assert [[tuple(x.shape[1:3]) for x in stack] for stack in levels] == [shapes, shapes]
    assert network.divisor == 128


def test_anchors_are_retinanets():
    priors = anchors((511, 511), 5, FINEST)
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
    size, boxes = (63, 95), torch.tensor([[10.0, 12, 42, 40], [40, 5, 90, 60]])
    data = BatchObjects(boxes, torch.tensor([0, 2]), torch.zeros(2, dtype=torch.long))  # the second image has none
    priors = anchors(size, 2, FINEST)
    maps = AnchorPredictions([torch.randn(2, len(p), 3) for p in priors], [torch.randn(2, len(p), 4) for p in priors])
    (terms,) = anchor_loss([maps], *data, size, FINEST)
    mine = [data.image_index == i for i in range(2)]
    targets = [{"boxes": data.boxes[m], "labels": data.labels[m]} for m in mine]
    outputs = {"cls_logits": torch.cat(maps.logits, 1), "bbox_regression": torch.cat(maps.deltas, 1)}
    every = torch.cat(priors)
    matched = [match(t["boxes"], every) for t in targets]
    expected = retinanet.RetinaNetHead(8, ANCHORS, 3).compute_loss(targets, outputs, [every, every], matched)
    torch.testing.assert_close(terms.classification, expected["classification"])
    torch.testing.assert_close(terms.regression, expected["bbox_regression"])
    assert terms.loss == terms.classification + terms.regression


def test_decoding_gives_back_what_was_encoded():
    size, box = (63, 95), torch.tensor([[20.0, 10, 57, 44]])
    priors = anchors(size, 2, FINEST)
    maps = AnchorPredictions(
        [torch.full((1, len(p), 3), -9.0) for p in priors], [torch.zeros(1, len(p), 4) for p in priors]
    )
    maps.logits[1][0, 100, 2] = 3.0
    maps.deltas[1][0, 100] = box_coder().encode_single(box, priors[1][100:101])[0]
    maps.logits[0][0, 5, 1] = 1.0  # its anchor as it is
    found = decode_anchors(maps, size, FINEST, k=4)
    assert found.scores[0, :3].tolist() == pytest.approx([1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-1)), -1])
    assert found.labels[0, :2].tolist() == [2, 1] and found.scores.shape == (1, 8)
    torch.testing.assert_close(found.boxes[0, :1], box)
    torch.testing.assert_close(found.boxes[0, 1], priors[0][5])
