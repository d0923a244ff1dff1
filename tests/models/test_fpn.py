"""ResNet with a feature pyramid as the backbone."""

import pytest
import torch

from models import build_network
from models.fpn import ResNetFPN
from models.hourglass import feature_size
from models.layers import MissingPackage
from nnet.training import checkpoint_activations

pytest.importorskip("torchvision", reason="feature pyramids are torchvision's")

TINY = {"backbone": "resnet18_fpn", "stacks": 1, "widths": [16], "pool_width": 8}
TINY |= dict.fromkeys(["center_keypoints", "center_pooling", "cascade_corner_pooling"], False)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network(3, **TINY)


@pytest.mark.parametrize("size", [(64, 64), (63, 95), (61, 34), (1, 97)])
def test_maps_of_any_size(network, size):
    with torch.no_grad():
        (maps,) = network.eval()(torch.rand(1, 3, *size))
    assert maps.keys() == {"top_left", "bottom_right"}
    assert maps["top_left"].heatmap.shape == (1, 3, *feature_size(size))
    assert network.divisor == 32


def test_every_parameter_is_used(network):
    """Else DistributedDataParallel waits for gradients that never come."""
    (maps,) = network.train()(torch.rand(2, 3, 63, 63))
    sum(m.sum() for kind in maps.values() for m in kind).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_starts_as_every_network_does(network):
    weights = network.backbone.stages[0][0].bn1.weight
    assert 0 <= weights.min() and weights.max() < 1 and weights.std() > 0.2
    ones = build_network(3, **TINY, bn_init="ones")
    assert (ones.backbone.stages[0][0].bn1.weight == 1).all()


def test_checkpointing_changes_nothing():
    images, results = torch.rand(2, 3, 64, 64), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = ResNetFPN("resnet18", 8).train()
        if checkpointing:
            checkpoint_activations(backbone)
            assert "forward" in vars(backbone.stages[1][0])
        backbone(images)[0].square().sum().backward()
        results.append([p.grad for p in backbone.parameters()] + list(backbone.buffers()))
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(plain, again)


def test_resnet101_is_the_papers():
    with torch.device("meta"):
        backbone = ResNetFPN("resnet101", 256)
    assert [len(stage) for stage in backbone.stages] == [3, 4, 23, 3]
    assert sum(p.numel() for p in backbone.stages.parameters()) + 9_536 == 42_500_160  # torchvision's, less the fc


def test_more_stacks_are_refused():
    with pytest.raises(ValueError, match="one stack"):
        build_network(3, **TINY | {"stacks": 2})


def test_missing_torchvision_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision.models", None)
    with pytest.raises(MissingPackage, match="pip install torchvision"):
        build_network(3, **TINY)
