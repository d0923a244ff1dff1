"""CornerNet: a backbone, and for each stack and each kind of corner a prediction module with its heads (Fig. 4)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from models.corner_pooling import CornerPool, NoPool, prediction_module
from models.fpn import ResNetFPN
from models.hourglass import StackedHourglass
from models.layers import head, init_batch_norm

HEATMAP_BIAS = -2.19  # logit of 0.1: what a heatmap predicts before it has learnt anything

# The corners that are paired, and the directions of their pools: the object lies below and to the right of its top-left
# corner, which therefore looks from the bottom and from the right edge.
CORNERS = {"top_left": ("top", "left"), "bottom_right": ("bottom", "right")}


class KeypointMaps(NamedTuple):
    """What the network predicts for one kind of keypoint, at a quarter of the image's resolution.

    heatmap: (B, classes, h, w) logits. embedding: (B, 1, h, w), or None for keypoints that are not grouped.
    offset: (B, 2, h, w), x then y, in cells: what rounding down to a cell has dropped (equation 2).
    """

    heatmap: Tensor
    embedding: Tensor | None
    offset: Tensor


# One stack's predictions by kind of keypoint: "top_left", "bottom_right", and in CenterNet "center".
Predictions = dict[str, KeypointMaps]


class KeypointBranch(nn.Module):
    """Prediction module and heads of one kind of keypoint: features (B, width, h, w) -> KeypointMaps."""

    def __init__(self, module: nn.Module, width: int, classes: int, embedding: bool = True):
        super().__init__()
        self.module = module
        self.heatmap = head(width, classes)
        self.embedding = head(width, 1) if embedding else None
        self.offset = head(width, 2)
        nn.init.constant_(self.heatmap[-1].bias, HEATMAP_BIAS)

    def forward(self, features: Tensor) -> KeypointMaps:
        x = self.module(features)
        return KeypointMaps(self.heatmap(x), self.embedding(x) if self.embedding else None, self.offset(x))


class KeypointNetwork(nn.Module):
    """A backbone and, by kind of keypoint, one branch per stack.

    backbone: images -> list of features, one per stack. branches: name of the keypoint -> one branch per stack.
    """

    def __init__(self, backbone: nn.Module, branches: Mapping[str, Sequence[nn.Module]], bn_init: str = "uniform"):
        super().__init__()
        self.backbone = backbone
        self.branches = nn.ModuleDict({name: nn.ModuleList(stacks) for name, stacks in branches.items()})
        init_batch_norm(self, bn_init)

    @property
    def keypoints(self) -> tuple[str, ...]:
        """The kinds of keypoints it predicts."""
        return tuple(self.branches)

    @property
    def divisor(self) -> int:
        """Images are best padded to a multiple of this, less one, in height and width."""
        return self.backbone.divisor

    def forward(self, images: Tensor, every_stack: bool | None = None) -> list[Predictions]:
        """images: (B, 3, H, W), normalised. Returns the predictions of each stack, or of the last alone.

        every_stack: None means in training only, for training supervises every stack and testing needs the last.
        """
        features = self.backbone(images)
        every_stack = self.training if every_stack is None else every_stack
        stacks = range(len(features)) if every_stack else [len(features) - 1]
        return [{name: branch[s](features[s]) for name, branch in self.branches.items()} for s in stacks]


def keypoint_network(
    classes: int,
    modules: Mapping[str, Callable[[int, int], nn.Module]],
    stacks: int = 2,
    stem_width: int = 128,
    widths: Sequence[int] = (256, 256, 384, 384, 384, 512),
    blocks: Sequence[int] = (2, 2, 2, 2, 2, 4),
    pool_width: int = 128,
    bn_init: str = "uniform",
    backbone: str = "hourglass",
) -> KeypointNetwork:
    """Branches on stacked hourglasses; the defaults are Hourglass-104, which with one stack is Hourglass-52.

    backbone: "hourglass", or "resnet101_fpn" and the like, of which stacks has to be 1 and widths[0] alone applies.

    modules: by kind of keypoint, what makes its prediction module from `width` and `pool_width`. Kinds in CORNERS are
    grouped into objects, and have embeddings.
    """
    if backbone == "hourglass":
        features = StackedHourglass(stacks, stem_width, widths, blocks)
    elif stacks == 1:
        features = ResNetFPN(backbone.removesuffix("_fpn"), widths[0])
    else:
        raise ValueError(f"a feature pyramid has one stack, not {stacks}")
    width = features.width
    branches = {
        name: [KeypointBranch(make(width, pool_width), width, classes, name in CORNERS) for _ in range(stacks)]
        for name, make in modules.items()
    }
    return KeypointNetwork(features, branches, bn_init)


def corner_modules(pooling: bool = True) -> dict[str, Callable[[int, int], nn.Module]]:
    """What makes CornerNet's prediction modules; without pooling the two branches are summed as they are."""
    pools = {name: CornerPool(*directions) if pooling else NoPool() for name, directions in CORNERS.items()}
    return {name: partial(prediction_module, pool=pool) for name, pool in pools.items()}


def cornernet(classes: int, corner_pooling: bool = True, **options: Any) -> KeypointNetwork:
    """CornerNet; options are those of `keypoint_network`."""
    return keypoint_network(classes, corner_modules(corner_pooling), **options)
