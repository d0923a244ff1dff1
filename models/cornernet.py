"""CornerNet: heatmaps, embeddings and offsets of the two corners of every object (Law & Deng, IJCV 2019, Fig. 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from torch import nn

from models.backbones import BackboneOptions, build_backbone
from models.corner_pooling import NoPool, PoolSum, prediction_module
from models.hourglass import HourglassOptions, Width
from models.keypoints import CORNERS, KINDS, KeypointNetwork, keypoint_network
from models.layers import HEADS


@dataclass(frozen=True)
class CornerNetOptions:
    """CornerNet's network: the config's `model:` section with `detector: cornernet`."""

    detector: Literal["cornernet"] = "cornernet"
    """Which detector is built: here, pairs of corners. Each detector has options of its own in this section."""
    backbone: BackboneOptions = field(default_factory=HourglassOptions)
    """Network that computes the features."""
    pool_width: Width = 128
    """Channels of the two pooled branches of a prediction module."""
    corner_pooling: bool = True
    """false: sum the two branches without pooling them (the ablation of corner pooling, Table 1)."""
    head: Literal[tuple(HEADS)] = "conv3x3"
    """First convolution of the heads: a name in models.layers.HEADS."""
    feed_back: bool = False
    """Add the predictions of a stack, through a 1x1 convolution, to the input of the next hourglass. The paper leaves
    this out, since it "hurts the performance" (Section 3.5)."""
    extra_keypoints: tuple[Literal[tuple(KINDS)], ...] = ()
    """Further kinds of keypoint to predict and supervise: names in models.keypoints.KINDS. Boxes do not depend on
    them."""
    bn_init: Literal["uniform", "ones"] = "uniform"
    """Initial BatchNorm weights: U(0, 1), which was PyTorch's default in 2018, or 1. Those of resnet_fpn's ResNet are
    always 1."""

    def __post_init__(self):
        if self.feed_back and getattr(self.backbone, "stacks", 1) < 2:
            raise ValueError("feed_back", "needs a backbone of several stacks, such as model.backbone.stacks=2")
        for name in self.extra_keypoints:
            if name in self.predicted:
                raise ValueError("extra_keypoints", f"{name} is predicted anyway")
            if KINDS[name].grouped:
                raise ValueError("extra_keypoints", f"{name} has an embedding, which only the two corners may have")

    @property
    def predicted(self) -> tuple[str, ...]:
        """The kinds of keypoint that the detector itself predicts."""
        return CORNERS


def pool_of(kind: str, pooling: bool = True) -> nn.Module:
    """The pool of a kind of keypoint (a name in KINDS), or the plain sum that takes its place without pooling."""
    return PoolSum(*KINDS[kind].pools) if pooling else NoPool()


def cornernet(classes: int, options: CornerNetOptions) -> KeypointNetwork:
    """CornerNet's network for this many classes, with fresh weights. Raises MissingPackage."""
    backbone = build_backbone(options.backbone)
    modules = corner_modules(backbone.width, options)
    return keypoint_network(classes, backbone, modules, options.head, options.bn_init, options.feed_back)


def corner_modules(width: int, options: CornerNetOptions) -> dict[str, Callable[[], nn.Module]]:
    """What makes the prediction module of each kind of keypoint. width: channels of the features."""
    kinds, pooling = (*CORNERS, *options.extra_keypoints), options.corner_pooling
    return {name: partial(prediction_module, width, options.pool_width, pool_of(name, pooling)) for name in kinds}
