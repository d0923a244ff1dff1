"""Anchor boxes on the hourglasses as a family (CornerNet, Section 4.4.4): RetinaNet's loss and decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from models.anchors import AnchorOptions, AnchorPredictions, AnchorTerms, anchor_loss, anchor_network, decode_anchors
from models.losses import LossOptions
from nnet.families.base import Candidates, Family, View, candidates_from_cells, to_host
from nnet.families.options import DetectionOptions
from sample.dataset import Batch
from sample.targets import PenaltyOptions


class Anchors(Family):
    """RetinaNet's boxes on the inner levels of every hourglass. `penalty:` and `loss:` do not apply."""

    Options = AnchorOptions
    Terms = AnchorTerms
    claims = ("test.score_threshold",)

    def __init__(self, classes: int, options: AnchorOptions, penalty: PenaltyOptions, weights: LossOptions):
        self.network = anchor_network(classes, options)
        self.classes = classes
        self.finest = 2 * self.network.stride  # stride of the first level

    def loss(
        self,
        outputs: Sequence[AnchorPredictions],
        batch: Batch,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> AnchorTerms:
        stacks = anchor_loss(outputs, *batch.objects, tuple(batch.images.shape[-2:]), self.finest)
        return AnchorTerms(*(torch.stack(values) for values in zip(*stacks, strict=True)))

    def propose(self, views: Iterator[View], options: DetectionOptions) -> Candidates:
        return Candidates.join([self.boxes(view, options) for view in views])

    def boxes(self, view: View, options: DetectionOptions) -> Candidates:
        """The best boxes of one view."""
        placement = view.placement
        found = to_host(
            decode_anchors(view.maps, placement.canvas, self.finest, options.pairs, options.score_threshold)
        )
        height, width = (c / n for c, n in zip(placement.cells, placement.canvas, strict=True))
        boxes = found.boxes * np.array([width, height] * 2, found.boxes.dtype)  # pixels of the canvas -> cells
        return candidates_from_cells(found._replace(boxes=boxes), placement, options.outside)
