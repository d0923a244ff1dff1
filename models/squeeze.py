"""Parts of CornerNet-Squeeze's hourglasses (Law et al., "CornerNet-Lite", arXiv:1904.08900), as released."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Fire(nn.Module):
    """Fire module: (B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride)).

    A 1x1 convolution halves the width. A 1x1 and a depthwise 3x3 convolution of its result are concatenated. The
    shortcut is the input itself, where the shape stays the same; otherwise there is none. As released, there is no ReLU
    between the convolutions. (SqueezeNet, arXiv:1602.07360, has one, and a dense 3x3 convolution.)
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        half = outputs // 2
        self.conv1 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv_1x1 = nn.Conv2d(half, outputs - half, 1, bias=False)
        self.conv_3x3 = nn.Conv2d(half, half, 3, stride=stride, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = stride == 1 and inputs == outputs
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x))
        # Subsampled before the 1x1 convolution, for the reason given in Residual
        points = self.conv_1x1(y[:, :, :: self.stride, :: self.stride])
        y = self.bn2(torch.cat([points, self.conv_3x3(y)], 1))
        return F.relu(y + x if self.shortcut else y)


class TransposedConv(nn.ConvTranspose2d):
    """Upsampling by a 4x4 transposed convolution: (B, C, h, w) -> (B, C, H, W), h = ceil(H / 2), w = ceil(W / 2)."""

    def __init__(self, width: int):
        super().__init__(width, width, 4, stride=2, padding=1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        height, width = size
        return super().forward(x)[:, :, :height, :width]  # an odd H or W drops the last row or column
