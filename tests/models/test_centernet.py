"""CenterNet's parts: against plain PyTorch, and what each of them changes."""

import pytest
import torch
from torch.nn import functional as F

from models.corner_pooling import CascadeBranch, NoPool, PoolSum, PredictionModule
from models.keypoints import CORNERS, KINDS
from tests.builders import small_network

SMALL = {"stacks": 2, "stem_width": 8, "widths": (8, 12, 16), "blocks": (1, 2, 1)}
CENTER = KINDS["center"].pools
# The rows of CenterNet's Table 4: central region exploration, center pooling, cascade corner pooling.
PARTS = ["center_keypoints", "center_pooling", "cascade_corner_pooling"]
ROWS = [(False, False, False), (False, False, True), (True, False, False), (True, True, False), (True, True, True)]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 5)])
def test_center_pool_is_the_maximum_of_column_and_row(size):
    a, b = torch.randn(2, 3, *size), torch.randn(2, 3, *size)
    expected = a.amax(2, keepdim=True) + b.amax(3, keepdim=True)
    assert torch.equal(PoolSum(*CENTER)(a, b), expected.expand(a.shape))


def test_center_pool_sends_the_gradient_to_one_maximum_per_line():
    a, b = torch.zeros(1, 1, 3, 4, requires_grad=True), torch.zeros(1, 1, 3, 4, requires_grad=True)
    PoolSum(*CENTER)(a, b).sum().backward()
    assert a.grad.sum() == b.grad.sum() == 12
    assert (a.grad.amax(2) == 3).all() and (b.grad.amax(3) == 4).all()  # ties: the whole line's goes to one element


@pytest.mark.parametrize("inside, axis, flip", [("left", 3, True), ("right", 3, False), ("top", 2, True)])
def test_cascade_branch_looks_inside(inside, axis, flip):
    torch.manual_seed(0)
    branch = CascadeBranch(5, 3, inside).eval()
    x = torch.randn(2, 5, 6, 7)
    block = F.relu(branch.bn(branch.conv(x)))
    looked = branch.look(x)
    looked = looked.flip(axis).cummax(axis).values.flip(axis) if flip else looked.cummax(axis).values
    assert branch.join.bias is None
    torch.testing.assert_close(branch(x), F.conv2d(block + looked, branch.join.weight, padding=1))


def test_each_corner_looks_inside_along_the_other_side():
    """The branch that is pooled along the top edge looks down, the one along the left edge to the right (Fig. 4c)."""
    network = small_network("centernet", 2, SMALL)
    for name in CORNERS:
        first, second = KINDS[name].pools
        for branch in network.branches[name]:
            module = branch.module
            assert module.pool.directions == (first, second)
            assert (module.first.inside, module.second.inside) == (second, first)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_ablation(row):
    regions, pooling, cascade = row
    network = small_network("centernet", 3, SMALL, **dict(zip(PARTS, row, strict=True))).train()
    outputs = network(torch.randn(2, 3, 33, 47))
    assert len(outputs) == 2
    for maps in outputs:
        assert list(maps) == [*CORNERS, *(["center"] if regions else [])] == list(network.keypoints)
        for name, (heatmap, embedding, offset) in maps.items():
            assert heatmap.shape == (2, 3, 9, 12) and offset.shape == (2, 2, 9, 12)
            assert (embedding is None) == (name == "center")
    modules = [m for m in network.modules() if isinstance(m, PredictionModule)]
    assert len(modules) == 2 * len(network.keypoints)
    directions = [m.pool.directions for m in modules if isinstance(m.pool, PoolSum)]
    assert sum(pools == CENTER for pools in directions) == 2 * pooling
    assert sum(pools in (KINDS[name].pools for name in CORNERS) for pools in directions) == 4
    assert sum(isinstance(m.first, CascadeBranch) for m in modules) == 4 * cascade


def test_without_its_parts_it_is_cornernet():
    own = small_network("centernet", 3, SMALL, **dict.fromkeys(PARTS, False)).state_dict()
    other = small_network("cornernet", 3, SMALL).state_dict()
    assert own.keys() == other.keys() and all(torch.equal(own[k], other[k]) for k in own)


def test_center_pooling_has_no_parameters():
    def shapes(**parts):
        return {k: v.shape for k, v in small_network("centernet", 3, SMALL, **parts).state_dict().items()}

    assert shapes() == shapes(center_pooling=False)
    unpooled = small_network("centernet", 3, SMALL, center_pooling=False).branches["center"][0].module.pool
    assert isinstance(unpooled, NoPool)
