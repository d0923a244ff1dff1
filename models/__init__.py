"""Networks, losses and decoding. Knows nothing of data on disk or of sampling."""

from typing import Any

from models.centernet import centernet
from models.cornernet import KeypointNetwork


def build_network(classes: int, **options: Any) -> KeypointNetwork:
    """The network of a config's `model:` section, for this many classes, with fresh weights.

    CornerNet is CenterNet without its three parts.
    """
    return centernet(classes, **options)
