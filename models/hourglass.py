"""The stacked hourglass backbone (CornerNet, Section 3.5) and its replaceable parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import ConvBlock, Residual, conv1x1_bn
from models.squeeze import Fire, TransposedConv


class Nearest(nn.Module):
    """Nearest-neighbour upsampling: (B, C, h, w) -> (B, C, H, W), where h = ceil(H / 2) and w = ceil(W / 2)."""

    def __init__(self, width: int):
        super().__init__()

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return F.interpolate(x, size=size, mode="nearest")  # for an odd H or W, the last row or column is dropped


# The parts that the config names. A part of your own is a class with the same signature and a line here.
BLOCKS: dict[str, Callable[..., nn.Module]] = {  # block(inputs, outputs, stride=1)
    "residual": Residual,
    "fire": Fire,
}
UPSAMPLINGS: dict[str, Callable[[int], nn.Module]] = {  # upsampling(width)
    "nearest": Nearest,
    "transposed": TransposedConv,
}


Width = Annotated[PositiveInt, Field(json_schema_extra={"most": 16_384})]


@dataclass(frozen=True)
class HourglassOptions:
    """Stacked hourglasses. The defaults are Hourglass-104; one stack of it is Hourglass-52."""

    name: Literal["hourglass"] = "hourglass"
    """The backbone. hourglass: CornerNet's. resnet_fpn: a feature pyramid on torchvision's ResNet."""
    stacks: Annotated[PositiveInt, Field(json_schema_extra={"most": 16})] = 2
    """Number of hourglasses, one after the other."""
    stride: Literal[4, 8] = 4
    """Pixels of the image per cell of the features: the stem has one residual block of stride 2, or two."""
    stem_width: Width = 128
    """Channels of the stem's 7x7 convolution."""
    widths: Annotated[tuple[Width, ...], Field(min_length=2)] = (256, 256, 384, 384, 384, 512)
    """Channels of the features at each level, the outer one first."""
    blocks: tuple[Annotated[PositiveInt, Field(json_schema_extra={"most": 100})], ...] = (2, 2, 2, 2, 2, 4)
    """Number of blocks at each level of widths."""
    block: Literal[tuple(BLOCKS)] = "residual"
    """Block of the hourglasses: a name in models.hourglass.BLOCKS."""
    upsampling: Literal[tuple(UPSAMPLINGS)] = "nearest"
    """Upsampling of the hourglasses: a name in models.hourglass.UPSAMPLINGS."""

    def __post_init__(self):
        if len(self.blocks) != len(self.widths):
            counts = f"model.backbone.widths has {len(self.widths)}, this {len(self.blocks)}"
            raise ValueError("blocks", f"needs one number per level of model.backbone.widths: {counts}")


def block_sequence(
    block: Callable[..., nn.Module], inputs: int, outputs: int, count: int, stride: int = 1
) -> nn.Sequential:
    """`count` blocks. The first changes the stride and the width."""
    return nn.Sequential(block(inputs, outputs, stride), *(block(outputs, outputs) for _ in range(count - 1)))


class Hourglass(nn.Module):
    """One hourglass: (B, widths[0], H, W) -> the same shape, for any H and W.

    Args:
        widths: channels of each level from the outside in, one more than there are levels of downsampling.
        blocks: number of blocks per level, the last for the bottom.
        block: makes a block from (inputs, outputs, stride).
        upsampling: makes the upsampling from a width.
        outer: False builds no layers for the finest output: only the inner levels are returned.
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Sequence[int],
        block: Callable[..., nn.Module] = Residual,
        upsampling: Callable[[int], nn.Module] = Nearest,
        outer: bool = True,
    ):
        super().__init__()
        width, inner = widths[:2]
        count = blocks[0]
        self.skip = block_sequence(block, width, width, count) if outer else None
        self.down = block_sequence(block, width, inner, count, stride=2)
        if len(widths) > 2:
            self.inner = Hourglass(widths[1:], blocks[1:], block, upsampling)
        else:
            self.inner = block_sequence(block, inner, inner, blocks[1])
        up = [*(block(inner, inner) for _ in range(count - 1)), block(inner, width)] if outer else []
        self.up = nn.Sequential(*up)
        self.upsample = upsampling(width) if outer else None

    def levels(self, x: Tensor) -> list[Tensor]:
        """Features of the upsampling path, finest first.

        The first is the hourglass's output (if `outer`). The others have heights ceil(H / 2), ceil(H / 4), ..., down to
        the bottom, and the widths of the inner levels.
        """
        x_down = self.down(x)  # (B, inner, ceil(H / 2), ceil(W / 2))
        inside = self.inner.levels(x_down) if isinstance(self.inner, Hourglass) else [self.inner(x_down)]
        if self.skip is None:
            return inside
        y = self.up(inside[0])  # (B, width, ceil(H / 2), ceil(W / 2))
        return [self.skip(x) + self.upsample(y, x.shape[-2:]), *inside]

    def forward(self, x: Tensor) -> Tensor:
        return self.levels(x)[0]


class StackedHourglass(nn.Module):
    """Stem and hourglasses: images (B, 3, H, W) -> one (B, width, ceil(H / stride), ceil(W / stride)) per stack.

    The features of a stack are taken after the convolution block that follows its hourglass. Between two hourglasses,
    the input and the output of the first are projected, added, and passed through a residual block.

    Args:
        pyramid: return for each stack a list of the inner levels' features instead, at strides 2, 4, ... times the
            backbone's, (B, widths[i], ceil(H / stride_i), ceil(W / stride_i)) for i = 1, 2, ... The layers that make
            the last hourglass's own output are left out, since nothing uses it.

    Attributes:
        stride: pixels of the image per cell of the features.
        width: channels of the features.
        stacks: number of hourglasses.
        divisor: if the images have sides of k * divisor - 1 pixels (511 = 4 * 128 - 1), every level halves the features
            without remainder.
        recomputed: classes of the modules that activation checkpointing recomputes.
    """

    Options = HourglassOptions

    def __init__(self, options: HourglassOptions, pyramid: bool = False):
        super().__init__()
        widths, stacks = options.widths, options.stacks
        block, upsampling = BLOCKS[options.block], UPSAMPLINGS[options.upsampling]
        width = widths[0]
        self.width = width
        self.stacks = stacks
        self.stride = options.stride
        self.divisor = options.stride * 2 ** (len(widths) - 1)
        self.recomputed = (Residual, block)
        self.stem = nn.Sequential(ConvBlock(3, options.stem_width, 7, stride=2))
        for inputs in [options.stem_width] if options.stride == 4 else [options.stem_width, width]:
            self.stem.append(Residual(inputs, width, stride=2))
        self.pyramid = pyramid
        outputs = stacks - 1 if pyramid else stacks  # hourglasses whose own output is used
        self.hourglasses = nn.ModuleList(
            Hourglass(widths, options.blocks, block, upsampling, outer=s < outputs) for s in range(stacks)
        )
        self.features = nn.ModuleList(ConvBlock(width, width, 3) for _ in range(outputs))
        self.from_input = nn.ModuleList(conv1x1_bn(width, width) for _ in range(stacks - 1))
        self.from_features = nn.ModuleList(conv1x1_bn(width, width) for _ in range(stacks - 1))
        self.merge = nn.ModuleList(Residual(width, width) for _ in range(stacks - 1))

    def forward(
        self, images: Tensor, feed_back: Callable[[int, Tensor], Tensor] | None = None
    ) -> list[Tensor] | list[list[Tensor]]:
        """feed_back: called with the number and the features of each stack but the last. What it returns, of the shape
        of the features, is added to the input of the next stack."""
        x = self.stem(images)
        outputs = []
        for stack in range(self.stacks):
            last = stack == self.stacks - 1
            levels = self.hourglasses[stack].levels(x)
            y = None if self.pyramid and last else self.features[stack](levels[0])
            outputs.append(self.output(levels, y))
            if not last:
                x = self.from_input[stack](x) + self.from_features[stack](y)
                if feed_back is not None:
                    x = x + feed_back(stack, y)
                x = self.merge[stack](torch.relu(x))
        return outputs

    def output(self, levels: list[Tensor], features: Tensor | None) -> Any:
        """What is returned of a stack.

        Args:
            levels: see Hourglass.levels. features: None for the last stack of a pyramid.
        """
        if not self.pyramid:
            return features
        return levels if features is None else levels[1:]
