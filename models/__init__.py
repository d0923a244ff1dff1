"""Networks, losses and decoding. Knows nothing of data on disk or of sampling."""

from typing import Any

from models.cornernet import KeypointNetwork, cornernet

DETECTORS = {"cornernet": cornernet}


def build_network(classes: int, detector: str, **options: Any) -> KeypointNetwork:
    """The network of a config's `model:` section, for this many classes, with fresh weights."""
    return DETECTORS[detector](classes, **options)
