"""A network of export.py in place of a family: its boxes are decoded already, in pixels of the canvas."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnet.families.base import REJECTED, Candidates, Family, Points, View
from nnet.families.centernet import gives_centers, keep_triplets, regions_of
from nnet.families.options import DetectionOptions
from nnet.families.placement import Placement, clip_boxes
from nnet.runtime.checkpoint import CheckpointError
from nnet.runtime.exported import ExportedFile
from sample.dataset import Batch

# Options of testing that an export fixes
FIXED = (
    "mirror",
    "corners",
    "pairs",
    "centers",
    "nms_kernel",
    "embedding_distance",
    "edge_pairs",
    "as_published",
    "channels_last",
    "precision",
)
OUTPUTS = ("boxes", "scores", "labels", "corner_scores")
OUTPUTS_OF_CENTERS = ("pair_scores", "centers", "center_scores", "center_labels")


class ExportedNetwork(nn.Module):
    """What is known of an exported network without running it. See KeypointNetwork for the attributes."""

    keypoints = ()
    recomputed = ()

    def __init__(self, stride: int, divisor: int):
        super().__init__()
        self.stride, self.divisor = stride, divisor


class ExportedFamily(Family):
    """Finds the same as the family that was exported. It has no loss, no heatmaps and no analyses of corners."""

    def __init__(self, file: ExportedFile):
        """Raises CheckpointError if the file returns maps, not boxes."""
        if "boxes" not in file.outputs:
            raise CheckpointError(f"{file.path} returns maps, not boxes: export the checkpoint without --maps")
        needed = OUTPUTS + (OUTPUTS_OF_CENTERS if "centers" in file.outputs else ())
        if missing := [name for name in needed if name not in file.outputs]:
            raise CheckpointError(f"{file.path} is refused: it lacks the outputs {', '.join(missing)}")
        self.file = file
        self.network = ExportedNetwork(file.metadata["stride"], file.metadata["divisor"])
        self.classes = len(file.metadata["categories"][0])
        self.largest = file.metadata["largest_side"]

    def loss(self, outputs: Sequence[Any], batch: Batch, memory_format: torch.memory_format = torch.contiguous_format):
        raise NotImplementedError("an exported network cannot be trained")

    def predict(self, images: Tensor, mirror: bool, **how: Any) -> dict[str, np.ndarray]:
        """Outputs of the file by name, (B, n, ...): with `mirror`, each image is followed by its mirror image."""
        if max(images.shape[-2:]) > self.largest:
            size = "x".join(map(str, images.shape[-2:]))
            raise CheckpointError(f"{self.file.path} takes sides of up to {self.largest} pixels, not {size}")
        rows = 2 if mirror else 1
        with torch.autocast(images.device.type, enabled=False):
            found = self.file(images[::rows])  # the file mirrors the images itself
        return {name: v.reshape(len(v) * rows, v.shape[1] // rows, *v.shape[2:]) for name, v in found.items()}

    def propose(self, views: Iterator[View], options: DetectionOptions) -> Candidates:
        pairs, centers = [], []
        for view in views:
            pairs.append(self.pairs(view.maps, view.placement, options))
            if "centers" in view.maps and gives_centers(view.scale, options):
                centers.append(self.centers(view.maps, view.placement))
        found = Candidates.join(pairs)
        if not centers:
            return found
        # The file tests boxes that are not clipped to the image. Here all views take part in the test, as in CenterNet
        points = Points(*map(np.concatenate, zip(*centers, strict=True)))
        return keep_triplets(found.take(found.scores > REJECTED), points, options.center_match, regions_of(options))

    def pairs(self, found: dict[str, np.ndarray], placement: Placement, options: DetectionOptions) -> Candidates:
        """Pairs of corners of one view."""
        border = np.tile(np.array(placement.border[::-1], np.float32), 2)
        boxes, far = clip_boxes(found["boxes"].reshape(-1, 4) - border, placement, options.outside)
        scores = found.get("pair_scores", found["scores"]).reshape(-1)
        labels, corner_scores = found["labels"].reshape(-1), found["corner_scores"].reshape(-1, 2)
        return Candidates(boxes, np.where(far, np.float32(REJECTED), scores), labels, corner_scores)

    def centers(self, found: dict[str, np.ndarray], placement: Placement) -> Points:
        """Centers of one view."""
        scores, labels = found["center_scores"].reshape(-1), found["center_labels"].reshape(-1)
        points = found["centers"].reshape(-1, 2) - np.array(placement.border[::-1], np.float32)
        there = scores > REJECTED
        return Points((points / np.array(placement.scale[::-1], np.float32))[there], labels[there], scores[there])


def check_options(file: ExportedFile, options: DetectionOptions) -> None:
    """Raise CheckpointError if options of testing differ from those that the export has fixed."""
    made = file.config["test"]
    differing = [name for name in FIXED if name in made and made[name] != getattr(options, name)]
    if differing:
        text = ", ".join(f"test.{name}={json.dumps(made[name])}" for name in differing)
        raise CheckpointError(
            f"{file.path} was exported with {text}: test it with the same options, or export the checkpoint again"
        )
