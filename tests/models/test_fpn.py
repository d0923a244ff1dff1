"""ResNet with a feature pyramid as the backbone."""

from dataclasses import replace

import pytest
import torch

from models.backbones import feature_size
from models.cornernet import CornerNetOptions, cornernet
from models.fpn import FPNOptions, ResNetFPN
from models.layers import MissingPackage
from nnet.training.step import checkpoint_activations

pytest.importorskip("torchvision", reason="feature pyramids are torchvision's")

TINY = CornerNetOptions(backbone=FPNOptions(depth=18, width=16), pool_width=8)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return cornernet(3, TINY)


@pytest.mark.parametrize("size", [(64, 64), (63, 95), (61, 34), (1, 97)])
def test_maps_of_any_size(network, size):
    with torch.no_grad():
        (maps,) = network.eval()(torch.rand(1, 3, *size))
    assert maps.keys() == {"top_left", "bottom_right"}
    assert maps["top_left"].heatmap.shape == (1, 3, *feature_size(size, network.stride))
    assert network.divisor == 32


def test_every_parameter_is_used(network):
    """Else DistributedDataParallel waits for gradients that never come."""
    (maps,) = network.train()(torch.rand(2, 3, 63, 63))
    sum(m.sum() for kind in maps.values() for m in kind).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_only_the_layers_on_top_of_the_resnet_start_as_in_2018(network):
    def batch_norm_weights(part):
        return torch.cat([m.weight for m in part.modules() if isinstance(m, torch.nn.BatchNorm2d)])

    weights = batch_norm_weights(network.branches)
    assert 0 <= weights.min() and weights.max() < 1 and weights.std() > 0.2
    assert (batch_norm_weights(network.backbone) == 1).all()
    assert (batch_norm_weights(cornernet(3, replace(TINY, bn_init="ones"))) == 1).all()


def test_checkpointing_changes_nothing():
    images, results = torch.rand(2, 3, 64, 64), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = ResNetFPN(FPNOptions(depth=18, width=8)).train()
        if checkpointing:
            checkpoint_activations(backbone, backbone.recomputed)
            assert type(backbone.stages[1][0]) not in backbone.recomputed
        backbone(images)[0].square().sum().backward()
        results.append([p.grad for p in backbone.parameters()] + list(backbone.buffers()))
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(plain, again)


def test_resnet101_is_the_papers():
    with torch.device("meta"):
        backbone = ResNetFPN(FPNOptions())
    assert [len(stage) for stage in backbone.stages] == [3, 4, 23, 3]
    assert sum(p.numel() for p in backbone.stages.parameters()) + 9_536 == 42_500_160  # torchvision's, less the fc


def test_missing_torchvision_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision.models", None)
    with pytest.raises(MissingPackage, match="pip install torchvision"):
        cornernet(3, TINY)
