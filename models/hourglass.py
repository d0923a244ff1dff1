"""The stacked hourglass backbone (CornerNet, Section 3.5)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import ConvBlock, Residual, conv1x1_bn, residuals

STRIDE = 4  # of the stem: the features have a quarter of the image's resolution


class Hourglass(nn.Module):
    """One hourglass: (B, widths[0], H, W) -> the same shape, for any H and W.

    widths: feature widths from the outside in, one more than there are levels.
    blocks: residual blocks per level (at least 1 each), and at the bottom.
    outer: False leaves out what makes its own output, for a use of the levels inside alone.
    """

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], outer: bool = True):
        super().__init__()
        width, inner = widths[:2]
        count = blocks[0]
        self.skip = residuals(width, width, count) if outer else None
        self.down = residuals(width, inner, count, stride=2)
        self.inner = Hourglass(widths[1:], blocks[1:]) if len(widths) > 2 else residuals(inner, inner, blocks[1])
        up = [*(Residual(inner, inner) for _ in range(count - 1)), Residual(inner, width)] if outer else []
        self.up = nn.Sequential(*up)

    def levels(self, x: Tensor) -> list[Tensor]:
        """Features of the upsampling path, finest first: the output (if `outer`), then those at H/2, H/4 ... (rounded
        up) down to the bottom's, with the widths of the levels inside."""
        x_down = self.down(x)
        inside = self.inner.levels(x_down) if isinstance(self.inner, Hourglass) else [self.inner(x_down)]
        if self.skip is None:
            return inside
        y = self.up(inside[0])  # (B, width, ceil(H / 2), ceil(W / 2))
        # Twice the size; an odd H or W loses the last row or column again.
        return [self.skip(x) + F.interpolate(y, size=x.shape[-2:], mode="nearest"), *inside]

    def forward(self, x: Tensor) -> Tensor:
        return self.levels(x)[0]


class StackedHourglass(nn.Module):
    """Stem and hourglasses: images (B, 3, H, W) -> features of each stack, each (B, widths[0], ceil(H/4), ceil(W/4)).

    The features are those after the convolution block that follows each hourglass. Between two hourglasses the input
    and the output of the first are projected, added, and passed through a residual block.

    pyramid: True gives a list of features of each stack in place of one: those of the levels inside its hourglass, at
    strides 8, 16 ..., (B, widths[i], ceil(H / stride), ceil(W / stride)) for i = 1, 2 ... What would make the last
    hourglass's own output is left out: nothing uses it.
    """

    def __init__(
        self, stacks: int, stem_width: int, widths: Sequence[int], blocks: Sequence[int], pyramid: bool = False
    ):
        super().__init__()
        if len(widths) < 2 or len(widths) != len(blocks):
            raise ValueError(f"an hourglass needs as many blocks as widths, at least 2: got {widths} and {blocks}")
        width = widths[0]
        self.width = width
        self.stacks = stacks
        # Images of a multiple of this, less one, keep every level of every hourglass aligned.
        self.divisor = STRIDE * 2 ** (len(widths) - 1)
        self.stem = nn.Sequential(ConvBlock(3, stem_width, 7, stride=2), Residual(stem_width, width, stride=2))
        self.pyramid = pyramid
        outputs = stacks - 1 if pyramid else stacks  # hourglasses whose own output is used
        self.hourglasses = nn.ModuleList(Hourglass(widths, blocks, outer=s < outputs) for s in range(stacks))
        self.features = nn.ModuleList(ConvBlock(width, width, 3) for _ in range(outputs))
        self.from_input = nn.ModuleList(conv1x1_bn(width, width) for _ in range(stacks - 1))
        self.from_features = nn.ModuleList(conv1x1_bn(width, width) for _ in range(stacks - 1))
        self.merge = nn.ModuleList(Residual(width, width) for _ in range(stacks - 1))

    def forward(self, images: Tensor) -> list[Tensor] | list[list[Tensor]]:
        x = self.stem(images)
        outputs = []
        for stack in range(self.stacks):
            last = stack == self.stacks - 1
            levels = self.hourglasses[stack].levels(x)
            if self.pyramid:
                outputs.append(levels if last else levels[1:])
            if not (self.pyramid and last):
                y = self.features[stack](levels[0])
                outputs += [] if self.pyramid else [y]
            if not last:
                x = torch.relu(self.from_input[stack](x) + self.from_features[stack](y))
                x = self.merge[stack](x)
        return outputs


def feature_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the feature maps of images of this height and width (pixels)."""
    return tuple(-(-n // STRIDE) for n in size)
