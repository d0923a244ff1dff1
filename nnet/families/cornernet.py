"""CornerNet as a family: pairs of corners (Law & Deng, IJCV 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from external.focal_loss import masked
from models.cornernet import CornerNetOptions, cornernet
from models.decode import Detections, decode_corners, decode_points
from models.keypoints import CORNERS, KeypointMaps, KeypointNetwork, Predictions
from models.losses import LossOptions, LossTerms, stack_loss
from models.standard_ops import Best, PairDecoder
from nnet.families.base import REJECTED, Candidates, Family, Points, View, candidates_from_cells, select, to_host
from nnet.families.ground_truth import MAPS, true_maps
from nnet.families.options import DetectionOptions
from nnet.families.placement import Placement, from_cells, to_canvas
from sample.dataset import Batch
from sample.targets import BatchObjects, Grid, KeypointTargets, PenaltyOptions, box_targets


class CornerNet(Family):
    """Heatmaps, embeddings and offsets of two corners per object, which are paired by their embeddings."""

    Options = CornerNetOptions
    Terms = LossTerms
    truths = MAPS
    limits = "test.detections={most} test.corners={most} test.pairs={pairs}"
    claims = ("penalty", "loss", "test.corners", "test.nms_kernel", "test.embedding_distance", "test.edge_pairs")

    def __init__(self, classes: int, options: CornerNetOptions, penalty: PenaltyOptions, weights: LossOptions):
        self.network = self.build(classes, options)
        self.classes = classes
        self.penalty = penalty
        self.weights = weights

    def build(self, classes: int, options: CornerNetOptions) -> KeypointNetwork:
        """The network, with fresh weights."""
        return cornernet(classes, options)

    def loss(
        self,
        outputs: Sequence[Predictions],
        batch: Batch,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> LossTerms:
        images, _, *size = batch.images.shape
        cells = tuple(next(iter(outputs[0].values())).heatmap.shape[-2:])
        grid = Grid(images, self.classes, tuple(size), cells)
        targets = batch_targets(self.network.keypoints, batch, grid, self.penalty, memory_format)
        stacks = [stack_loss(maps, targets, batch.objects.image_index, self.weights) for maps in outputs]
        return LossTerms(*(torch.stack(values) for values in zip(*stacks, strict=True)))

    def propose(self, views: Iterator[View], options: DetectionOptions) -> Candidates:
        return Candidates.join([self.pairs(view, options) for view in views])

    def pairs(self, view: View, options: DetectionOptions) -> Candidates:
        """The best pairs of corners of one view."""
        found = best_pairs(view.maps, options)
        if "heatmaps" in view.truth:  # the k best cells include cells of score 0, which are no corners
            without = (found.corner_scores == 0).any(-1)
            found = found._replace(scores=np.where(without, np.float32(REJECTED), found.scores))
        return candidates_from_cells(found, view.placement, options.outside)

    def most_objects(self, options: DetectionOptions) -> int:
        return min(options.detections, options.corners, options.pairs)

    @classmethod
    def reads(cls, model: CornerNetOptions) -> tuple[str, ...]:
        return cls.claims + (("penalty.center_divisor",) if "center" in model.extra_keypoints else ())

    def decoder(self, options: DetectionOptions, mirror: bool, best: Best) -> PairDecoder:
        return PairDecoder(**pair_options(options), mirror=mirror, best=best)

    def heatmaps(self, maps: Predictions) -> dict[str, Tensor]:
        return {name: m.heatmap for name, m in maps.items()}

    def corners(self, view: View, options: DetectionOptions) -> dict[str, Points]:
        found = {}
        for name in CORNERS:
            image = select(view.maps[name], slice(1))  # without the mirror image
            points = find_points(image, view.placement, options.corners, options.nms_kernel)
            peaks = points.scores > 0  # an image may have fewer local maxima than corners were asked for
            found[name] = Points(points.points[peaks], points.labels[peaks], points.scores[peaks])
        return found

    def targets(self, boxes: Tensor, labels: Tensor, placement: Placement) -> dict[str, Tensor]:
        objects = BatchObjects(boxes, labels, torch.zeros(len(boxes), dtype=torch.int64))
        grid = Grid(1, self.classes, placement.canvas, placement.cells)
        targets = box_targets(self.network.keypoints, objects, grid, self.penalty)
        return {name: target.heatmap[0] for name, target in targets.items()}

    def substitute(self, view: View) -> View:
        boxes = to_canvas(view.objects.boxes, view.placement)
        return view._replace(maps=true_maps(view.maps, boxes, view.objects.labels, view.placement.canvas, view.truth))


def batch_targets(
    keypoints: Sequence[str], batch: Batch, grid: Grid, penalty: PenaltyOptions, memory_format: torch.memory_format
) -> dict[str, KeypointTargets]:
    """Targets of a batch, see box_targets. Heatmaps are masked where an ignored object's Gaussian is."""
    targets = box_targets(keypoints, batch.objects, grid, penalty, memory_format)
    if batch.ignored is None:
        return targets
    around = box_targets(keypoints, batch.ignored, grid, penalty, memory_format)
    return {
        name: target._replace(heatmap=masked(target.heatmap, around[name].heatmap > 0))
        for name, target in targets.items()
    }


def best_pairs(maps: Predictions, options: DetectionOptions) -> Detections:
    """The best pairs of corners of each image, in cells, as arrays."""
    kernel, distance = options.nms_kernel, options.embedding_distance
    corners = (maps[name] for name in CORNERS)
    return to_host(decode_corners(*corners, options.corners, options.pairs, kernel, distance, options.edge_pairs))


def pair_options(options: DetectionOptions) -> dict[str, Any]:
    """The options of models.standard_ops.PairDecoder."""
    return {
        "k": options.corners,
        "pairs": options.pairs,
        "kernel": options.nms_kernel,
        "max_distance": options.embedding_distance,
        "edge_pairs": options.edge_pairs,
        "exact_mirror": not options.as_published,
    }


def find_points(maps: KeypointMaps, placement: Placement, k: int, kernel: int) -> Points:
    """The k best keypoints of an image, and behind them those of its mirror image if the maps have them."""
    found = to_host(decode_points(maps, k, kernel))
    points = from_cells(np.stack([found.x, found.y], 2), placement)
    points = points / np.array(placement.scale[::-1], points.dtype)
    return Points(points, found.labels.reshape(-1).astype(np.int64), found.scores.reshape(-1))
