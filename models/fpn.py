"""ResNet with a feature pyramid as a backbone (CornerNet, Section 4.4.4), built from torchvision's parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from models.hourglass import Width
from models.layers import torchvision


@dataclass(frozen=True)
class FPNOptions:
    """A feature pyramid on a ResNet, trained from scratch. Its finest level (stride 4) is used."""

    name: Literal["resnet_fpn"] = "resnet_fpn"
    """The backbone."""
    depth: Literal[18, 34, 50, 101, 152] = 101
    """Which of torchvision's ResNets."""
    width: Width = 256
    """Channels of the features."""


class ResNetFPN(nn.Module):
    """Images (B, 3, H, W), of any size -> [features (B, width, ceil(H / 4), ceil(W / 4))].

    The attributes are those of StackedHourglass. Raises MissingPackage without torchvision.
    """

    Options = FPNOptions
    own_batch_norm_init = True  # torchvision's ResNet sets all BatchNorm weights to 1, and did so in 2018

    def __init__(self, options: FPNOptions):
        super().__init__()
        models, ops = torchvision("models"), torchvision("ops")
        net = getattr(models, f"resnet{options.depth}")(weights=None)
        self.stride = 4
        self.width = options.width
        self.stacks = 1
        self.divisor = 32  # the coarsest level's stride
        self.recomputed = (type(net.layer1[0]),)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])
        bottom = net.fc.in_features
        self.pyramid = ops.FeaturePyramidNetwork([bottom // 8, bottom // 4, bottom // 2, bottom], options.width)
        for level in range(1, 4):  # the outputs of the coarser levels are unused: DistributedDataParallel would object
            self.pyramid.layer_blocks[level] = nn.Identity()

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)
        levels = {}
        for number, stage in enumerate(self.stages):
            x = stage(x)
            levels[str(number)] = x  # at strides 4, 8, 16, 32
        return [self.pyramid(levels)["0"]]
