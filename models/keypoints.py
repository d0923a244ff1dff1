"""Networks that predict keypoints: a backbone, and for each stack and kind of keypoint a prediction module with heads.

To add a kind of keypoint, add it to KINDS here and to PLACES in sample/targets.py, and name it in
`model.extra_keypoints`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.corner_pooling import PredictionModule
from models.layers import HEADS, conv1x1_bn, init_batch_norm

HEATMAP_BIAS = -2.19  # logit of 0.1: about the score of every cell at the start of training


class Kind(NamedTuple):
    """A kind of keypoint.

    pools: directions of the pools of the two branches of its prediction module (external/corner_pool).
    grouped: whether it has an embedding, by which keypoints of different kinds are grouped into objects.
    """

    pools: tuple[str, str]
    grouped: bool


# A pool is named after the direction in which it carries the maximum. "top" carries it upwards, so a cell sees
# everything below it. The object lies below and to the right of its top-left corner, which therefore pools to the top
# and left.
KINDS = {
    "top_left": Kind(("top", "left"), grouped=True),
    "bottom_right": Kind(("bottom", "right"), grouped=True),
    "center": Kind(("column", "row"), grouped=False),
}
CORNERS = ("top_left", "bottom_right")  # the kinds that are paired, in this order


class KeypointMaps(NamedTuple):
    """What the network predicts for one kind of keypoint, at the stride of the backbone.

    heatmap: (B, classes, h, w) logits.
    embedding: (B, 1, h, w), or None for kinds that are not grouped.
    offset: (B, 2, h, w), x then y, in cells: what rounding down to a cell has dropped (CornerNet, equation 2).
    """

    heatmap: Tensor
    embedding: Tensor | None
    offset: Tensor


Predictions = dict[str, KeypointMaps]  # of one stack, by kind of keypoint


class KeypointBranch(nn.Module):
    """Prediction module and heads of one kind of keypoint: features (B, width, h, w) -> KeypointMaps."""

    def __init__(self, module: nn.Module, width: int, classes: int, grouped: bool = True, head: str = "conv3x3"):
        super().__init__()
        make_head = HEADS[head]
        self.module = module
        self.heatmap = make_head(width, classes)
        self.embedding = make_head(width, 1) if grouped else None
        self.offset = make_head(width, 2)
        nn.init.constant_(self.heatmap[-1].bias, HEATMAP_BIAS)

    def forward(self, features: Tensor) -> KeypointMaps:
        x = self.module(features)
        return KeypointMaps(self.heatmap(x), self.embedding(x) if self.embedding else None, self.offset(x))


class KeypointNetwork(nn.Module):
    """A backbone and, for each kind of keypoint, one branch per stack.

    Attributes:
        keypoints: the kinds of keypoint that it predicts.
        stride, divisor: those of the backbone.
        recomputed: classes of the modules that activation checkpointing recomputes.
    """

    def __init__(
        self,
        backbone: nn.Module,
        branches: Mapping[str, Sequence[nn.Module]],
        bn_init: str = "uniform",
        feedback: Sequence[nn.Module] = (),
    ):
        """backbone: see models/backbones.py. branches: kind of keypoint -> one branch per stack.

        feedback: for each stack but the last, maps its predictions, concatenated, to the width of the features, which
        are added to the input of the next stack. Empty: predictions are not fed back, as published.
        """
        super().__init__()
        self.backbone = backbone
        self.branches = nn.ModuleDict({name: nn.ModuleList(stacks) for name, stacks in branches.items()})
        self.feedback = nn.ModuleList(feedback)
        self.keypoints = tuple(branches)
        self.stride = backbone.stride
        self.divisor = backbone.divisor
        self.recomputed = (*backbone.recomputed, PredictionModule)
        init_batch_norm(self, bn_init)

    def forward(self, images: Tensor, every_stack: bool | None = None) -> list[Predictions]:
        """Predictions of each stack, or of the last stack only.

        Args:
            images: (B, 3, H, W), normalised.
            every_stack: None means in training mode only. Training supervises every stack, testing needs the last one.
        """
        features, made = self.features(images)
        stacks = self.stacks_to_predict(len(features), every_stack)
        return [made[s] if s in made else self.predict(s, features[s]) for s in stacks]

    def stacks_to_predict(self, stacks: int, every_stack: bool | None) -> range:
        """Indices of the stacks that predict, out of `stacks`. every_stack: see forward."""
        every_stack = self.training if every_stack is None else every_stack
        return range(0 if every_stack else stacks - 1, stacks)

    def features(self, images: Tensor) -> tuple[list, dict[int, Predictions]]:
        """What the backbone returns, and the predictions of those stacks whose predictions are fed back."""
        made: dict[int, Predictions] = {}

        def feed_back(stack: int, features: Tensor) -> Tensor:
            made[stack] = self.predict(stack, features)
            maps = [m for kind in made[stack].values() for m in kind if m is not None]
            return self.feedback[stack](torch.cat(maps, 1))

        return self.backbone(images, feed_back) if self.feedback else self.backbone(images), made

    def predict(self, stack: int, features: Tensor) -> Predictions:
        """The predictions of one stack."""
        return {name: branch[stack](features) for name, branch in self.branches.items()}


def keypoint_network(
    classes: int,
    backbone: nn.Module,
    modules: Mapping[str, Callable[[], nn.Module]],
    head: str = "conv3x3",
    bn_init: str = "uniform",
    feed_back: bool = False,
    kind: Callable[..., KeypointNetwork] = KeypointNetwork,
) -> KeypointNetwork:
    """A network that predicts the kinds of keypoint in `modules`, with fresh weights.

    Args:
        modules: kind of keypoint (a name in KINDS) -> what makes its prediction module.
        head: a name in models.layers.HEADS.
        bn_init: see models.layers.init_batch_norm.
        feed_back: whether the predictions of a stack are added to the input of the next one (CornerNet, Section 3.5,
            which leaves this out).
        kind: puts the parts together; called as KeypointNetwork.
    """
    branches = {
        name: [
            KeypointBranch(make(), backbone.width, classes, KINDS[name].grouped, head) for _ in range(backbone.stacks)
        ]
        for name, make in modules.items()
    }
    outputs = sum(classes + KINDS[name].grouped + 2 for name in modules)  # maps of a stack
    stacks = backbone.stacks - 1 if feed_back else 0
    feedback = [conv1x1_bn(outputs, backbone.width) for _ in range(stacks)]
    return kind(backbone, branches, bn_init, feedback)
