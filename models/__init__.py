"""Networks, losses and decoding. Knows nothing of data on disk or of sampling."""

from typing import Any

from models.anchors import AnchorNetwork, anchor_network
from models.centernet import centernet
from models.cornernet import KeypointNetwork


def build_network(classes: int, head: str = "keypoints", **options: Any) -> KeypointNetwork | AnchorNetwork:
    """The network of a config's `model:` section, for this many classes, with fresh weights.

    head: "keypoints" or "anchors". CornerNet is CenterNet without its three parts. Raises MissingPackage where the
    network needs torchvision and there is none.
    """
    return anchor_network(classes, **options) if head == "anchors" else centernet(classes, **options)
