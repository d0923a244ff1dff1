"""The cost of networks, against figures worked out by hand and the papers' networks."""

import pytest
import torch
from torch import nn

from models.centernet import CenterNetOptions, centernet
from models.cornernet import CornerNetOptions, cornernet
from models.cost import MemoryCounter, measure
from models.hourglass import HourglassOptions


def two_layers():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False))


def test_figures_by_hand():
    cost = measure(two_layers(), (10, 20), images=2, depth=1)
    first, last = 2 * 200 * 27 * 8, 2 * 200 * 8 * 4  # 200 pixels, 2 FLOP per multiply-add
    assert [part.name for part in cost.parts] == ["0", "1", "2"]
    assert [part.parameters for part in cost.parts] == [216, 0, 32] and cost.parameters == 248
    assert [part.testing for part in cost.parts] == [first, 0, last]
    assert cost.testing == cost.training == first + last
    assert cost.step == 3 * (first + last) - first  # the image needs no gradient
    wide, narrow = 200 * 8 * 4, 200 * 4 * 4  # bytes of the two sizes of maps of one image
    assert cost.testing_memory == 2 * wide  # input and output of the ReLU
    assert cost.training_memory == 2 * (3 * wide + 2 * narrow)  # also its gradients, and the result with its gradient


def test_memory_counts_storages_once():
    with MemoryCounter() as memory:
        x = torch.empty(10, 10)
        y = x.view(100)[:50]
        x.add_(1)
        assert memory.live == 400
        del x
        assert memory.live == 400
        del y
        assert memory.live == 0 and memory.peak == 400


@pytest.mark.parametrize(
    ("network", "options", "parameters"),
    [
        (cornernet, CornerNetOptions(), 201_035_212),
        (centernet, CenterNetOptions(), 210_062_960),
        (centernet, CenterNetOptions(backbone=HourglassOptions(stacks=1)), 104_844_152),
    ],
    ids=["cornernet_hg104", "centernet_hg104", "centernet_hg52"],
)
def test_parameters_of_the_papers_networks(network, options, parameters):
    with torch.device("meta"):
        built = network(80, options)
    assert sum(p.numel() for p in built.parameters()) == parameters


@pytest.mark.slow
def test_hourglass_104():
    with torch.device("meta"):
        network = cornernet(80, CornerNetOptions())
    cost = measure(network, (511, 511))
    assert cost.parameters == 201_035_212
    assert cost.testing / 1e9 == pytest.approx(686, abs=0.5)
    assert cost.training / 1e9 == pytest.approx(905, abs=0.5)
    assert cost.step / 1e9 == pytest.approx(2711, abs=1)
    assert sum(part.parameters for part in cost.parts) == cost.parameters
    assert sum(part.testing for part in cost.parts) == cost.testing
    assert sum(part.training for part in cost.parts) == cost.training
    assert 1.5e9 < cost.training_memory < 2e9
