"""The backbones that a config names.

A backbone is a module that maps images (B, 3, H, W) to a list of features, one (B, width, ceil(H / stride),
ceil(W / stride)) per stack. Its class has `Options`, a frozen dataclass whose first field, `name`, is its name in
configs. Its instances state `stride`, `width`, `stacks`, `divisor` and `recomputed`; see StackedHourglass.
"""

from __future__ import annotations

from typing import Union

from torch import nn

from models.fpn import ResNetFPN
from models.hourglass import StackedHourglass

BACKBONES = (StackedHourglass, ResNetFPN)
BackboneOptions = Union[tuple(kind.Options for kind in BACKBONES)]  # noqa: UP007 - made from the list


def build_backbone(options: BackboneOptions) -> nn.Module:
    """The backbone of these options, with fresh weights. Raises MissingPackage where a package is missing."""
    kinds = {kind.Options: kind for kind in BACKBONES}
    return kinds[type(options)](options)


def feature_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(height, width) in cells of the features of images of this (height, width) in pixels."""
    return tuple(-(-n // stride) for n in size)
