"""CenterNet: CornerNet with a third keypoint per object, its center, and pools that look inside the object."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from models.backbones import build_backbone
from models.corner_pooling import cascade_module, prediction_module
from models.cornernet import CornerNetOptions, pool_of
from models.keypoints import CORNERS, KINDS, KeypointNetwork, keypoint_network


@dataclass(frozen=True)
class CenterNetOptions(CornerNetOptions):
    """CenterNet's network (Duan et al., ICCV 2019): the config's `model:` section with `detector: centernet`.

    Each of its three parts can be left out, which gives the rows of the paper's Table 4.
    """

    detector: Literal["centernet"] = "centernet"
    """What is built."""
    center_keypoints: bool = True
    """Predict centers. A box needs a center of its class in its central region (Section 3.2)."""
    center_pooling: bool = True
    """Centers see the maxima of their row and column (Section 3.3). false: convolutions only."""
    cascade_corner_pooling: bool = True
    """Corners look inside the object before they look along its boundary (Section 3.3)."""

    def __post_init__(self):
        super().__post_init__()
        if self.center_pooling and not self.center_keypoints:
            raise ValueError("center_pooling", "pools for center keypoints: needs model.center_keypoints, or be false")
        if self.cascade_corner_pooling and not self.corner_pooling:
            raise ValueError(
                "cascade_corner_pooling", "is a kind of corner pooling: needs model.corner_pooling, or be false"
            )

    @property
    def predicted(self) -> tuple[str, ...]:
        return (*CORNERS, "center") if self.center_keypoints else CORNERS


def centernet(classes: int, options: CenterNetOptions) -> KeypointNetwork:
    """CenterNet's network for this many classes (Section 3), with fresh weights. Raises MissingPackage."""
    backbone = build_backbone(options.backbone)
    sizes = backbone.width, options.pool_width
    if options.cascade_corner_pooling:
        modules = {name: partial(cascade_module, *sizes, *KINDS[name].pools) for name in CORNERS}
    else:
        modules = {name: partial(prediction_module, *sizes, pool_of(name, options.corner_pooling)) for name in CORNERS}
    if options.center_keypoints:
        modules["center"] = partial(prediction_module, *sizes, pool_of("center", options.center_pooling))
    for name in options.extra_keypoints:
        modules[name] = partial(prediction_module, *sizes, pool_of(name))
    return keypoint_network(classes, backbone, modules, options.head, options.bn_init, options.feed_back)
