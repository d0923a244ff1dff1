"""CornerNet-Saccade's network: CornerNet with attention maps, which say where a closer look is worthwhile (Law, Teng,
Russakovsky, Deng, "CornerNet-Lite", arXiv:1904.08900), as released."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from external.focal_loss import focal_loss
from models.cornernet import CornerNetOptions, corner_modules
from models.hourglass import HourglassOptions, StackedHourglass
from models.keypoints import HEATMAP_BIAS, KeypointNetwork, Predictions, keypoint_network
from models.layers import conv_head
from models.losses import EPS, LossOptions

LEVELS = ("large", "medium", "small")  # sizes of the objects that an attention map shows, coarsest map first


@dataclass(frozen=True)
class SaccadeOptions(CornerNetOptions):
    """CornerNet-Saccade's network: the config's `model:` section with `detector: saccade`."""

    detector: Literal["saccade"] = "saccade"
    """What is built."""
    backbone: HourglassOptions = field(
        default_factory=lambda: HourglassOptions(stacks=3, widths=(256, 384, 384, 512), blocks=(1, 1, 1, 1))
    )
    """Network that computes the features. The defaults are Hourglass-54."""

    def __post_init__(self):
        super().__post_init__()
        if len(self.backbone.widths) <= len(LEVELS):
            raise ValueError(
                "backbone.widths", f"needs {len(LEVELS) + 1} levels or more: attention is predicted at {len(LEVELS)}"
            )


class SaccadeMaps(NamedTuple):
    """What one stack predicts.

    keypoints: by kind of keypoint.
    attention: for each of LEVELS, logits (B, 1, h, w). The finest map has the size of the heatmaps, each other one half
        that of the next. None where it was not asked for.
    """

    keypoints: Predictions
    attention: list[Tensor] | None


class HourglassWithLevels(StackedHourglass):
    """Hourglasses that also return the features of their upsampling path, the finest ones first."""

    def output(self, levels: list[Tensor], features: Tensor) -> tuple[Tensor, list[Tensor]]:
        return features, levels[: len(LEVELS)]


class SaccadeNetwork(KeypointNetwork):
    """KeypointNetwork with attention maps of every stack, from the features of its upsampling path.

    attention: ModuleList [stack][level] of heads, in the order of LEVELS.
    """

    def __init__(self, *parts: Any, widths: Sequence[int]):
        """parts: see KeypointNetwork; the backbone is HourglassWithLevels. widths: channels of its levels, the finest
        one first."""
        super().__init__(*parts)
        self.attention = nn.ModuleList(
            nn.ModuleList(conv_head(w, 1, width=self.backbone.width) for w in reversed(widths[: len(LEVELS)]))
            for _ in range(self.backbone.stacks)
        )
        for stack in self.attention:
            for head in stack:
                nn.init.constant_(head[-1].bias, HEATMAP_BIAS)

    def forward(self, images: Tensor, every_stack: bool | None = None, attention: bool = True) -> list[SaccadeMaps]:
        """As KeypointNetwork.forward. attention: false leaves it out."""
        stacks, made = self.features(images)
        found = []
        for s in self.stacks_to_predict(len(stacks), every_stack):
            features, levels = stacks[s]
            keypoints = made[s] if s in made else self.predict(s, features)
            heads = zip(self.attention[s], reversed(levels), strict=True)
            found.append(SaccadeMaps(keypoints, [head(level) for head, level in heads] if attention else None))
        return found


def saccade(classes: int, options: SaccadeOptions) -> SaccadeNetwork:
    """CornerNet-Saccade's network for this many classes, with fresh weights."""
    backbone = HourglassWithLevels(options.backbone)
    modules = corner_modules(backbone.width, options)
    kind = partial(SaccadeNetwork, widths=options.backbone.widths)
    return keypoint_network(classes, backbone, modules, options.head, options.bn_init, options.feed_back, kind)


def attention_loss(attention: Sequence[Tensor], targets: Sequence[Tensor], weights: LossOptions) -> list[Tensor]:
    """The focal loss of each attention map of a stack.

    attention: logits (B, 1, h, w) each. targets: of the same shapes, 1 at the centers of objects and 0 elsewhere.
    """
    alpha, beta = weights.focal_alpha, weights.focal_beta
    return [focal_loss(maps, target, alpha, beta, EPS) for maps, target in zip(attention, targets, strict=True)]
