"""CornerNet's network: sizes, stacks, pooling, initial weights."""

import pytest
import torch

from models.backbones import feature_size
from tests.builders import small_network

SMALL = {"stacks": 2, "stem_width": 8, "widths": (8, 12, 16), "blocks": (1, 2, 1)}


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("size", [(1, 1), (17, 64), (31, 45), (64, 96)])
@pytest.mark.parametrize("classes", [1, 3])
def test_any_size_and_number_of_classes(size, classes, stride):
    network = small_network("cornernet", classes, SMALL | {"stride": stride}).train()
    height, width = feature_size(size, stride)
    outputs = network(torch.randn(2, 3, *size)) if min(size) > 1 else network.eval()(torch.randn(1, 3, *size), True)
    assert len(outputs) == 2
    for maps in outputs:
        assert list(maps) == ["top_left", "bottom_right"]
        for heatmap, embedding, offset in maps.values():
            assert heatmap.shape[1:] == (classes, height, width)
            assert embedding.shape[1:] == (1, height, width)
            assert offset.shape[1:] == (2, height, width)


def test_only_the_last_stack_in_evaluation():
    network = small_network("cornernet", 2, SMALL).eval()
    x = torch.randn(1, 3, 32, 32)
    every, last = network(x, every_stack=True), network(x)
    assert (len(every), len(last)) == (2, 1)
    assert torch.equal(every[-1]["top_left"].heatmap, last[0]["top_left"].heatmap)


def test_without_corner_pooling_the_parameters_are_the_same():
    pooled = small_network("cornernet", 2, SMALL).eval()
    unpooled = small_network("cornernet", 2, SMALL, corner_pooling=False).eval()
    assert pooled.state_dict().keys() == unpooled.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(pooled.parameters(), unpooled.parameters(), strict=True))
    x = torch.randn(1, 3, 32, 32)
    assert not torch.equal(pooled(x)[0]["top_left"].heatmap, unpooled(x)[0]["top_left"].heatmap)


def test_initialisation():
    network = small_network("cornernet", 2, SMALL)
    weights = network.backbone.stem[0].bn.weight
    assert 0 <= weights.min() and weights.max() <= 1 and weights.std() > 0.1
    assert torch.all(small_network("cornernet", 2, SMALL, bn_init="ones").backbone.stem[0].bn.weight == 1)
    assert torch.all(network.branches["top_left"][0].heatmap[-1].bias == -2.19)
    with pytest.raises(ValueError, match="'uniform' or 'ones'"):
        small_network("cornernet", 2, SMALL, bn_init="zeros")
