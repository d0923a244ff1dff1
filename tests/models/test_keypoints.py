"""Networks that predict keypoints: replaceable heads, and kinds of keypoint beside the corners."""

import pytest
import torch

from models.keypoints import CORNERS, KINDS
from models.losses import LossOptions, stack_loss
from sample.targets import Grid, box_targets
from tests.builders import make_batch, small_family, small_network

EXTRA = {"extra_keypoints": ("center",), "bn_init": "ones"}


def test_heads_of_1x1_convolutions():
    network, x = small_network(head="conv1x1"), torch.randn(1, 3, 33, 47)
    for branch in (stack for stacks in network.branches.values() for stack in stacks):
        for part in (branch.heatmap, branch.embedding, branch.offset):
            assert [layer.kernel_size for layer in part[::2]] == [(1, 1), (1, 1)]
        assert torch.all(branch.heatmap[-1].bias == -2.19)
    usual = small_network()
    assert network.state_dict().keys() == usual.state_dict().keys()
    assert [m.shape for m in network(x)[0]["top_left"]] == [m.shape for m in usual(x)[0]["top_left"]]


def test_unknown_head_is_an_error():
    with pytest.raises(KeyError, match="conv5x5"):
        small_network(head="conv5x5")


def test_cornernet_predicts_a_further_kind():
    """Its corners are those of the network without it: the branches of the corners are made first."""
    network, usual = small_network(**EXTRA).eval(), small_network(bn_init="ones").eval()
    assert network.keypoints == (*CORNERS, "center") and usual.keypoints == CORNERS
    assert network.branches["center"][0].module.pool.directions == KINDS["center"].pools
    x = torch.randn(1, 3, 33, 47)
    (maps,), (expected,) = network(x), usual(x)
    assert maps["center"].embedding is None and maps["center"].heatmap.shape == expected["top_left"].heatmap.shape
    for name in CORNERS:
        assert all(map(torch.equal, maps[name], expected[name]))


def test_a_further_kind_is_supervised():
    family, batch = small_family(**EXTRA), make_batch(2, 5)
    outputs = family.network(batch.images.float() / 255)
    terms = family.loss(outputs, batch)
    grid = Grid(2, 3, (63, 63), (16, 16))
    targets = box_targets(family.network.keypoints, batch.objects, grid, family.penalty)
    corners = ({name: values[name] for name in CORNERS} for values in (outputs[0], targets))
    without = stack_loss(*corners, batch.objects.image_index, LossOptions())
    assert torch.equal(terms.pull[0], without.pull) and torch.equal(terms.push[0], without.push)
    assert terms.focal > without.focal and terms.offset > without.offset
    terms.loss.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in family.network.branches["center"].parameters())
    last = family.network.branches["center"][0].heatmap[-1].weight
    assert last.grad.any()


def test_targets_of_other_kinds_than_the_predictions_are_an_error():
    family, batch = small_family(**EXTRA), make_batch(1, 2)
    (maps,) = family.network(batch.images.float())
    targets = box_targets(CORNERS, batch.objects, Grid(1, 3, (63, 63), (16, 16)), family.penalty)
    with pytest.raises(ValueError, match="predicts top_left, bottom_right, center, but the targets are of top_left"):
        stack_loss(maps, targets, batch.objects.image_index, LossOptions())


def test_predictions_that_are_fed_back():
    """They change the next stack alone, and all weights but those of the new layers are drawn as without them."""
    backbone = {"stacks": 2}
    network, usual = (small_network(backbone=backbone, feed_back=value).eval() for value in (True, False))
    new = network.state_dict().keys() - usual.state_dict().keys()
    assert {name.split(".")[0] for name in new} == {
        "feedback"
    } and usual.state_dict().keys() < network.state_dict().keys()
    network.load_state_dict({**network.state_dict(), **usual.state_dict()})
    x = torch.randn(1, 3, 33, 47)
    (first, second), (expected, other) = network(x, every_stack=True), usual(x, every_stack=True)
    assert torch.equal(first["top_left"].heatmap, expected["top_left"].heatmap)
    assert not torch.equal(second["top_left"].heatmap, other["top_left"].heatmap)
    assert torch.equal(network(x)[0]["top_left"].heatmap, second["top_left"].heatmap)
    torch.nn.init.zeros_(network.feedback[0][1].weight)  # nothing is fed back
    assert torch.equal(network(x)[0]["top_left"].heatmap, other["top_left"].heatmap)
    network.train()(x)[1]["bottom_right"].offset.sum().backward()
    assert all(p.grad is not None for p in network.feedback.parameters())


def test_only_several_stacks_feed_back():
    with pytest.raises(ValueError, match="model.backbone.stacks=2"):
        small_network(feed_back=True)
