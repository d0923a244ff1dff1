"""Initial weights of a seed: a change in the order of the draws would change every run."""

from collections import defaultdict

import pytest

from tests.builders import small_network

SMALL = {"stacks": 2, "widths": (4, 6, 8), "blocks": (1, 1, 1)}
# Checksums of the weights of seed 0, see `checksums`. They were recorded before the networks were split into options
# and builders.
RECORDED = {
    "cornernet": {
        "backbone.features.0": 4.54969674,
        "backbone.features.1": 2.8236287,
        "backbone.from_features.0": 6.13483441,
        "backbone.from_input.0": 2.89062423,
        "backbone.hourglasses.0": 1132.9494,
        "backbone.hourglasses.1": 1512.95884,
        "backbone.merge.0": 27.2382173,
        "backbone.stem": 70.650914,
        "branches.bottom_right.0": 13.5629893,
        "branches.bottom_right.1": 36.0504679,
        "branches.top_left.0": 156.247134,
        "branches.top_left.1": 165.641973,
    },
    "centernet": {
        "backbone.features.0": 1.34850567,
        "backbone.features.1": 6.59556989,
        "backbone.from_features.0": 9.71617085,
        "backbone.from_input.0": 2.49829072,
        "backbone.hourglasses.0": 1112.46332,
        "backbone.hourglasses.1": 1531.58537,
        "backbone.merge.0": 29.8496604,
        "backbone.stem": 73.0446343,
        "branches.bottom_right.0": 238.201061,
        "branches.bottom_right.1": 29.6978901,
        "branches.center.0": 106.847736,
        "branches.center.1": 77.6865769,
        "branches.top_left.0": 242.102346,
        "branches.top_left.1": 45.1869269,
    },
    "anchors": {
        "backbone.features.0": -4.51651037,
        "backbone.from_features.0": 6.35447174,
        "backbone.from_input.0": 5.48056763,
        "backbone.hourglasses.0": 1150.53019,
        "backbone.hourglasses.1": 1004.06205,
        "backbone.merge.0": 12.6766208,
        "backbone.stem": 74.7873193,
        "features.0": 13.2506095,
        "features.1": 32.04137,
        "heads.0": -122.680511,
        "heads.1": -135.560772,
    },
}


def checksums(network):
    """Of each part of a network: the sums of its parameters, weighted by their position, so that swaps are seen."""
    parts = defaultdict(list)
    for name, parameter in sorted(network.named_parameters()):
        depth = 2 if name.startswith(("features", "heads", "backbone.stem")) else 3
        parts[".".join(name.split(".")[:depth])].append(parameter.double().sum().item())
    return {part: sum(number * value for number, value in enumerate(sums, start=1)) for part, sums in parts.items()}


@pytest.mark.parametrize("detector", RECORDED)
def test_initial_weights_are_those_recorded(detector):
    if detector == "anchors":
        pytest.importorskip("torchvision", reason="anchors are torchvision's")
    found = checksums(small_network(detector, 3, SMALL, seed=0))
    assert found == pytest.approx(RECORDED[detector], rel=1e-6)
