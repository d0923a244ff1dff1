"""ResNet with a feature pyramid as a backbone (CornerNet, Section 4.4.4), of torchvision's parts, from scratch."""

from torch import Tensor, nn

from models.hourglass import STRIDE
from models.layers import torchvision


class ResNetFPN(nn.Module):
    """Images (B, 3, H, W), of any size -> [features (B, width, ceil(H/4), ceil(W/4))]: the pyramid's finest level.

    resnet: torchvision's name of one, "resnet101". Raises MissingPackage without torchvision.
    """

    def __init__(self, resnet: str, width: int):
        super().__init__()
        models, ops = torchvision("models"), torchvision("ops")
        net = getattr(models, resnet)(weights=None)
        self.width = width
        self.stacks = 1
        # The bottom's stride is 32. Images of a multiple of it, less one, keep every level aligned.
        self.divisor = STRIDE * 2**3
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])
        self.blocks = (type(net.layer1[0]),)  # what may compute its activations again in the backward pass
        bottom = net.fc.in_features
        self.pyramid = ops.FeaturePyramidNetwork([bottom // 8, bottom // 4, bottom // 2, bottom], width)
        for level in range(1, 4):  # the coarser levels' own outputs are not used: DistributedDataParallel would object
            self.pyramid.layer_blocks[level] = nn.Identity()

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)
        levels = {}
        for number, stage in enumerate(self.stages):
            x = stage(x)
            levels[str(number)] = x  # at strides 4, 8, 16, 32
        return [self.pyramid(levels)["0"]]
