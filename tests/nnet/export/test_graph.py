"""BatchNorm folded into convolutions."""

import copy

import pytest
import torch
from torch import nn

from nnet.export.graph import fold_batch_norm
from tests.builders import small_family


def scramble(network):
    """Statistics and weights as after training."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
    return network.eval()


@pytest.mark.parametrize(
    "detector, backbone",
    [("cornernet", {}), ("centernet", {}), ("cornernet", {"block": "fire", "upsampling": "transposed"})],
)
@torch.no_grad()
def test_every_batch_norm_is_folded(detector, backbone):
    """Also those behind concatenated convolutions, in fire modules."""
    network = scramble(small_family(detector, backbone=backbone).network)
    folded = copy.deepcopy(network)
    fold_batch_norm(folded)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    images = torch.randn(2, 3, 63, 47)
    for maps, wanted in zip(folded(images)[-1].values(), network(images)[-1].values(), strict=True):
        for one, other in zip(maps, wanted, strict=True):
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class Awkward(nn.Module):
    """BatchNorms that cannot be folded: the convolution's result has another use, or the module is called twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.shared, self.own = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.last, self.folded = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        y = self.norm(y) + y
        y = self.own(self.shared(self.shared(y)))
        return self.folded(self.last(y))


@torch.no_grad()
def test_what_cannot_be_folded_is_left():
    network = scramble(Awkward())
    folded = copy.deepcopy(network)
    fold_batch_norm(folded)
    left = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == ["norm", "own"]
    x = torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(folded(x), network(x))
