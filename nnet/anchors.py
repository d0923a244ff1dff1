"""Training and testing of a network with anchors: the counterparts of Objective and Detector."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from models.anchors import AnchorPredictions, AnchorTerms, anchor_loss, decode_anchors
from models.hourglass import feature_size
from nnet.inference import Detector, Placement, detection_rows, to_image
from nnet.training import input_images
from sample import Batch


class AnchorObjective(NamedTuple):
    """What is minimised, apart from the network; see Objective, whose other fields are about keypoints."""

    channels_last: bool = False
    autocast: Callable[[], AbstractContextManager] = nullcontext

    terms = AnchorTerms
    keypoints = ()

    def __call__(self, network: nn.Module, batch: Batch) -> AnchorTerms:
        """Loss of one micro-batch, on the device its tensors are on; each term is (stacks,)."""
        images = input_images(batch, self.channels_last)
        with self.autocast():
            outputs = network(images, every_stack=True)
        stacks = anchor_loss(outputs, batch.boxes, batch.labels, batch.image_index, tuple(images.shape[-2:]))
        return AnchorTerms(*(torch.stack(values) for values in zip(*stacks, strict=True)))


class AnchorDetector(Detector):
    """As Detector. Boxes of all levels, scales and views are joined before they suppress one another."""

    def pairs(self, maps: AnchorPredictions, placement: Placement) -> np.ndarray:
        """Rows (n, 8) of the best boxes, in pixels of the image; a box's score takes the place of its corners'."""
        s = self.settings
        with self.timed("decode"):
            rows = detection_rows(decode_anchors(maps, placement.canvas, s.pairs, s.score_threshold))
            height, width = (c / n for c, n in zip(feature_size(placement.canvas), placement.canvas, strict=True))
            rows[..., :4] *= np.array([width, height] * 2, rows.dtype)  # in cells, as to_image takes them
            return to_image(rows, placement, s.outside)

    def heatmaps(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """None: anchors have no heatmaps."""
        return {}
