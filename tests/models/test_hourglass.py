"""The hourglass backbone: its shapes, its stride, and its replaceable parts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import hourglass
from models.hourglass import Hourglass, HourglassOptions, StackedHourglass
from models.layers import Residual

SMALL = {"stacks": 2, "stem_width": 8, "widths": (8, 12, 16), "blocks": (1, 2, 1)}


def test_hourglass_shape_errors():
    with pytest.raises(ValueError, match="needs one number per level of model.backbone.widths"):
        HourglassOptions(widths=(8, 8, 8), blocks=(1, 1))
    assert Hourglass([4, 6], [1, 1])(torch.randn(2, 4, 5, 7)).shape == (2, 4, 5, 7)


@pytest.mark.parametrize("stride, residuals", [(4, 1), (8, 2)])
def test_the_stride_is_that_of_the_stem(stride, residuals):
    backbone = StackedHourglass(HourglassOptions(**SMALL, stride=stride)).eval()
    assert (backbone.stride, backbone.divisor) == (stride, 4 * stride)
    assert [type(layer) for layer in backbone.stem[1:]] == [Residual] * residuals
    assert [layer.stride for layer in backbone.stem[1:]] == [2] * residuals
    for height, width in ((63, 64), (65, 33), (1, 97)):
        with torch.no_grad():
            features = backbone(torch.randn(1, 3, height, width))
        cells = -(-height // stride), -(-width // stride)
        assert [x.shape for x in features] == [(1, 8, *cells)] * 2


def test_the_pyramid_starts_at_twice_the_stride():
    backbone = StackedHourglass(HourglassOptions(**SMALL, stride=8), pyramid=True).eval()
    with torch.no_grad():
        stacks = backbone(torch.randn(1, 3, 63, 95))
    assert [[x.shape for x in levels] for levels in stacks] == [[(1, 12, 4, 6), (1, 16, 2, 3)]] * 2


class Fire(nn.Module):
    """A small block with the signature of Residual."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, outputs // 2, 1, bias=False)
        self.expand = nn.Conv2d(outputs // 2, outputs, 3, stride=stride, padding=1, bias=False)

    def forward(self, x):
        return F.relu(self.expand(self.squeeze(x)))


class Transposed(nn.Module):
    """Upsampling by a transposed convolution."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)

    def forward(self, x, size):
        return self.conv(x)[..., : size[0], : size[1]]


def test_registered_block_and_upsampling(monkeypatch):
    """The hourglasses are made of them; stem and merging keep residual blocks."""
    monkeypatch.setitem(hourglass.BLOCKS, "fire", Fire)
    monkeypatch.setitem(hourglass.UPSAMPLINGS, "transposed", Transposed)
    backbone = StackedHourglass(HourglassOptions(**SMALL, block="fire", upsampling="transposed")).train()
    modules = list(backbone.hourglasses.modules())
    assert not any(isinstance(m, (Residual, hourglass.Nearest)) for m in modules)
    # For each of the 2 stacks: skip, down and up of 1 block at the outer and 2 at the inner level, and 1 at the bottom
    assert sum(isinstance(m, Fire) for m in modules) == 2 * (3 * 1 + 3 * 2 + 1)
    assert sum(isinstance(m, Transposed) for m in modules) == 2 * 2
    assert set(backbone.recomputed) == {Residual, Fire}
    outside = [m for name, m in backbone.named_modules() if isinstance(m, Residual)]
    assert len(outside) == 1 + 1  # stem, merge
    features = backbone(torch.randn(2, 3, 61, 45))
    assert [x.shape for x in features] == [(2, 8, 16, 12)] * 2
    sum(x.square().sum() for x in features).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


def test_unknown_part_is_an_error():
    with pytest.raises(KeyError, match="flame"):
        StackedHourglass(HourglassOptions(**SMALL, block="flame"))
