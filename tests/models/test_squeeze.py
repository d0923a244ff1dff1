"""Fire modules and transposed convolutions."""

import pytest
import torch
from torch.nn import functional as F

from models.backbones import feature_size
from models.cornernet import CornerNetOptions, cornernet
from models.hourglass import Hourglass, HourglassOptions
from models.squeeze import Fire, TransposedConv

SMALL = {"stacks": 2, "stride": 8, "stem_width": 4, "widths": (8, 6, 7), "blocks": (1, 2, 1)}


@pytest.mark.parametrize("inputs, outputs, stride", [(8, 8, 1), (8, 6, 1), (8, 8, 2), (6, 9, 2)])
@pytest.mark.parametrize("size", [(5, 8), (1, 1)])
def test_fire_module_by_its_formula(inputs, outputs, stride, size):
    torch.manual_seed(0)
    fire, x = Fire(inputs, outputs, stride).eval(), torch.randn(2, inputs, *size)
    half = outputs // 2

    def normalised(y, bn):  # with the initial running statistics
        return y / (1 + bn.eps) ** 0.5

    y = normalised(F.conv2d(x, fire.conv1.weight), fire.bn1)
    points = F.conv2d(y, fire.conv_1x1.weight, stride=stride)
    channels = [F.conv2d(y[:, c : c + 1], fire.conv_3x3.weight[c : c + 1], None, stride, 1) for c in range(half)]
    y = normalised(torch.cat([points, *channels], 1), fire.bn2)
    y = (y + x if stride == 1 and inputs == outputs else y).relu()
    assert y.shape == (2, outputs, *feature_size(size, stride))
    torch.testing.assert_close(fire(x), y)
    assert fire.conv1.weight.shape[0] == half


@pytest.mark.parametrize("size", [(6, 8), (5, 8), (1, 7)])
def test_transposed_convolution_at_any_size(size):
    layer = TransposedConv(3)
    x = torch.randn(2, 3, *feature_size(size, 2))
    whole = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=1)
    assert torch.equal(layer(x, size), whole[:, :, : size[0], : size[1]])
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]


def test_hourglass_of_these_parts():
    hourglass = Hourglass([4, 6, 8], [1, 2, 1], Fire, TransposedConv)
    assert hourglass(torch.randn(2, 4, 5, 7)).shape == (2, 4, 5, 7)
    kinds = [type(layer) for layer in hourglass.modules() if isinstance(layer, (Fire, TransposedConv))]
    assert kinds.count(TransposedConv) == 2 and kinds.count(Fire) == 3 + 6 + 1


@pytest.mark.parametrize("size", [(64, 64), (31, 45), (1, 70)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_network_of_stride_8(size, channels_last):
    """Any size; gradients reach every parameter."""
    backbone = HourglassOptions(**SMALL, block="fire", upsampling="transposed")
    network = cornernet(3, CornerNetOptions(backbone=backbone, pool_width=4, head="conv1x1")).train()
    x = torch.randn(2, 3, *size)
    if channels_last:
        network, x = (v.to(memory_format=torch.channels_last) for v in (network, x))
    outputs = network(x)
    assert (network.stride, network.divisor, len(outputs)) == (8, 32, 2)
    assert Fire in network.recomputed
    for maps in outputs:
        for heatmap, embedding, offset in maps.values():
            assert heatmap.shape == (2, 3, *feature_size(size, 8))
            assert (embedding.shape[1], offset.shape[1]) == (1, 2)
    sum(m.sum() for maps in outputs for kind in maps.values() for m in kind).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
