"""CornerNet-Saccade: CornerNet that looks at the whole image in small size first, then at parts of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from db import Objects
from models.decode import Detections, peaks
from models.losses import LossTerms
from models.saccade import LEVELS, SaccadeMaps, SaccadeNetwork, SaccadeOptions, attention_loss, saccade
from models.standard_ops import Best
from nnet.families.base import Candidates, Points, Predictor, View, select
from nnet.families.cornernet import CornerNet, best_pairs
from nnet.families.options import DetectionOptions
from nnet.families.placement import Placement, from_cells
from nnet.families.saccade.crops import Crop, cut, first_crops, placement
from nnet.families.saccade.locations import Locations, attention_locations, detected_locations, suppress_locations
from sample.dataset import Batch
from sample.saccade import attention_targets, relative_size
from sample.targets import BatchObjects

KERNEL = 3  # cells: a location is the maximum of a square of this side

# The loss to minimise, and its unweighted terms. The names are those of the log.
SaccadeTerms = NamedTuple("SaccadeTerms", [*LossTerms.__annotations__.items(), ("attention", Tensor)])


class Saccade(CornerNet):
    """Pairs of corners in two passes. In the first one, attention says where to look closer in the second one.

    Views are square crops of the image, resized to data.input_size: first of the whole image, then of its parts.
    """

    Options = SaccadeOptions
    Terms = SaccadeTerms
    truths = ()
    limits = "test.detections={most}"
    claims = (*CornerNet.claims, "loss.attention", "loss.attention_twice_averaged", "test.saccade")
    whole_images = False

    def build(self, classes: int, options: SaccadeOptions) -> SaccadeNetwork:
        return saccade(classes, options)

    def most_objects(self, options: DetectionOptions) -> int:
        return options.detections

    @classmethod
    def check(cls, config: Any) -> None:
        test, size = config.test, config.data.input_size
        if size[0] != size[1]:
            raise ValueError("data.input_size", f"the crops of model.detector saccade are square, got {list(size)}")
        for name, value in (("scales", (1.0,)), ("mirror", False), ("resize", "original"), ("outside", 0.0)):
            if getattr(test, name) != value:
                shown = {"scales": "[1.0]", "mirror": "false"}.get(name, value)
                why = "model.detector saccade looks at crops of the image, see test.saccade"
                raise ValueError(f"test.{name}", f"has no meaning here, write {shown}: {why}")

    def loss(
        self,
        outputs: Sequence[SaccadeMaps],
        batch: Batch,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> SaccadeTerms:
        terms = super().loss([maps.keypoints for maps in outputs], batch, memory_format)
        size, stride = tuple(batch.images.shape[-2:]), self.network.stride
        targets = attention_targets(all_objects(batch), len(batch.images), size, stride, len(LEVELS))
        attention = torch.stack([sum(attention_loss(maps.attention, targets, self.weights)) for maps in outputs])
        weight = self.weights.attention / (len(outputs) if self.weights.attention_twice_averaged else 1)
        return SaccadeTerms(terms.loss + weight * attention, *terms[1:], attention)

    def decoder(self, options: DetectionOptions, mirror: bool, best: Best) -> None:
        return None  # what the network sees next depends on what it has found

    def views(self, image: np.ndarray, predictor: Predictor, objects: Objects | None = None) -> Iterator[View]:
        """The crops of both passes, with what was found in each (`View.found`). The annotation is not used."""
        size, side, options = image.shape[:2], predictor.input_size[0], predictor.options.saccade
        crops = first_crops(size, side, options.first)
        views = list(self.look(image, crops, predictor, attention=True))
        for view in views:
            yield view._replace(found=view.found.take(view.found.scores > options.kept_threshold))
        locations = self.locations(size, crops, views, predictor).take(slice(options.crops))
        closer = [Crop.at(y, x, scale, side, title) for y, x, scale, _, title in zip(*locations, strict=True)]
        yield from self.look(image, closer, predictor, attention=False)

    def overview(self, image: np.ndarray, predictor: Predictor, objects: Objects | None = None) -> View:
        """The crop of the first pass in which the image is largest."""
        largest = [max(predictor.options.saccade.first)]
        crops = first_crops(image.shape[:2], predictor.input_size[0], largest)
        (view,) = self.look(image, crops, predictor, attention=True)
        return view

    def look(self, image: np.ndarray, crops: Sequence[Crop], predictor: Predictor, attention: bool) -> Iterator[View]:
        """The views of these crops, several at a time, with all pairs of corners that were found in them."""
        side, at_once = predictor.input_size[0], predictor.options.saccade.at_once
        if predictor.options.mirror:
            raise ValueError("crops are looked at without their mirror images: test.mirror must be false")
        for start in range(0, len(crops), at_once):
            some = crops[start : start + at_once]
            with predictor.timed("load"):
                images = predictor.stack([cut(image, crop, side) for crop in some])
            maps = predictor.predict(images, attention=attention)
            with predictor.timed("decode"):
                pairs = best_pairs(maps.keypoints, predictor.options)
            for i, crop in enumerate(some):
                row = slice(i, i + 1)
                placed = placement(crop, image.shape[:2], side, self.network.stride)
                found = candidates(select(pairs, row), placed)
                yield View(crop.scale, placed, select(maps, row), title=crop.title, found=found)

    def locations(
        self, size: tuple[int, int], crops: Sequence[Crop], views: Sequence[View], predictor: Predictor
    ) -> Locations:
        """The locations to look at after the first pass, the best first. size: (height, width) of the image."""
        options, unit = predictor.options.saccade, relative_size(predictor.input_size)
        levels = zip(*(view.maps.attention for view in views), strict=True)
        scores = [attention_scores(torch.cat(level)) for level in levels]
        attention = attention_locations(scores, crops, size, self.network.stride, options.attention_threshold)
        found = Candidates.join([view.found for view in views])
        detected = detected_locations(found, unit, options.reference_threshold)
        return suppress_locations(Locations.join([attention, detected]), unit, options.location_nms)

    def propose(self, views: Iterator[View], options: DetectionOptions) -> Candidates:
        return Candidates.join([view.found for view in views])

    def heatmaps(self, maps: SaccadeMaps) -> dict[str, Tensor]:
        attention = {} if maps.attention is None else zip(LEVELS, maps.attention, strict=True)
        return super().heatmaps(maps.keypoints) | {f"attention_{name}": level for name, level in attention}

    def corners(self, view: View, options: DetectionOptions) -> dict[str, Points]:
        return super().corners(view._replace(maps=view.maps.keypoints), options)

    def targets(self, boxes: Tensor, labels: Tensor, placement: Placement) -> dict[str, Tensor]:
        objects = BatchObjects(boxes, labels, torch.zeros(len(boxes), dtype=torch.int64))
        attention = attention_targets(objects, 1, placement.canvas, self.network.stride, len(LEVELS))
        named = {f"attention_{name}": level[0] for name, level in zip(LEVELS, attention, strict=True)}
        return super().targets(boxes, labels, placement) | named


def all_objects(batch: Batch) -> BatchObjects:
    """The objects of a batch, and behind them the ignored ones."""
    if batch.ignored is None:
        return batch.objects
    return BatchObjects(*(torch.cat(columns) for columns in zip(batch.objects, batch.ignored, strict=True)))


def attention_scores(logits: Tensor) -> np.ndarray:
    """The local maxima of attention maps (n, 1, h, w), as scores 0 to 1, and 0 elsewhere: (n, h, w)."""
    return peaks(logits.float().sigmoid(), KERNEL)[:, 0].cpu().numpy()


def candidates(pairs: Detections, placement: Placement) -> Candidates:
    """The pairs of a crop (1, n) in cells, as arrays, in pixels of the image. As released, they are not clipped."""
    points = from_cells(pairs.boxes.reshape(1, -1, 2), placement)  # (2 n, 2): top-left, bottom-right, top-left, ...
    boxes = (points / np.float32(placement.scale[0])).reshape(-1, 4)
    return Candidates(boxes, pairs.scores[0], pairs.labels[0].astype(np.int64), pairs.corner_scores[0])
