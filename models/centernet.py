"""CenterNet: CornerNet's parts with a third keypoint per object, its center, and pools that look inside the object."""

from functools import partial
from typing import Any

from models.corner_pooling import CenterPool, CornerPool, NoPool, cascade_module, prediction_module
from models.cornernet import CORNERS, KeypointNetwork, corner_modules, keypoint_network


def centernet(
    classes: int,
    corner_pooling: bool = True,
    center_keypoints: bool = True,
    center_pooling: bool = True,
    cascade_corner_pooling: bool = True,
    **options: Any,
) -> KeypointNetwork:
    """CenterNet (Section 3); options are those of `keypoint_network`.

    Each of its three parts can be left out, which makes the rows of its Table 4; without all of them it is CornerNet.
    Without center pooling, centers have the same parameters, and "conventional convolutions" alone (Section 4.5).
    """
    if cascade_corner_pooling:
        modules = {name: partial(cascade_module, pool=CornerPool(*pools)) for name, pools in CORNERS.items()}
    else:
        modules = corner_modules(corner_pooling)
    if center_keypoints:
        modules["center"] = partial(prediction_module, pool=CenterPool() if center_pooling else NoPool())
    return keypoint_network(classes, modules, **options)
