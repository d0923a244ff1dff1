"""Networks that answer every image with the maps of given keypoints, and detectors of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from db import Objects
from models.backbones import feature_size
from models.keypoints import KeypointMaps
from nnet.detection.detector import Detector
from nnet.families.base import Family
from nnet.families.options import DetectionOptions
from nnet.families.placement import place_original
from tests.builders import small_family

CPU = torch.device("cpu")
STRIDE = 4
SIZE = 40  # pixels of the image of a TripletOracle; the canvas at scale 1 has 63, 11 of them before the image


class BoxOracle(torch.nn.Module):
    """Answers every canvas with the maps of given boxes, in canvas pixels, mirrored as in training."""

    stride, divisor = STRIDE, 8

    def __init__(self, boxes: Sequence[Sequence[float]]):
        super().__init__()
        self.boxes = boxes

    def forward(self, images):
        batch, _, height, width = images.shape
        h, w = feature_size((height, width), self.stride)
        maps = {}
        for name, columns in (("top_left", (0, 1)), ("bottom_right", (2, 3))):
            heat, tag = torch.full((batch, 1, h, w), -9.0), torch.zeros(batch, 1, h, w)
            offset = torch.zeros(batch, 2, h, w)
            for view in range(batch):
                for number, box in enumerate(self.boxes):
                    x1, y1, x2, y2 = (v * n / m for v, n, m in zip(box, (w, h, w, h), (width, height) * 2, strict=True))
                    if view == 1:
                        end = w * (width - 1) / width  # as training mirrors
                        x1, x2 = end - x2, end - x1
                    x, y = ((x1, y1, x2, y2)[c] for c in columns)
                    heat[view, 0, int(y), int(x)] = 5.0
                    tag[view, 0, int(y), int(x)] = 3.0 * number
                    offset[view, :, int(y), int(x)] = torch.tensor([x - int(x), y - int(y)])
            maps[name] = KeypointMaps(heat, tag, offset)
        return [maps]


class TripletOracle(torch.nn.Module):
    """Answers with the maps of one box and of centers (x, y, score), in pixels of the image, by scale."""

    stride, divisor, keypoints = STRIDE, 32, ("top_left", "bottom_right", "center")

    def __init__(self, box: Sequence[float], by_scale: Mapping[float, Sequence[tuple[float, float, float]]]):
        super().__init__()
        self.box, self.by_scale = box, by_scale
        placements = {scale: place_original(SIZE, SIZE, scale, STRIDE, self.divisor) for scale in by_scale}
        self.placements = {placement.canvas: (scale, placement) for scale, placement in placements.items()}

    def forward(self, images):
        canvas = tuple(images.shape[-2:])
        scale, placement = self.placements[canvas]
        cells = placement.cells[0]
        points = {"top_left": [(*self.box[:2], 0.6)], "bottom_right": [(*self.box[2:], 0.6)]}
        maps = {}
        for name, these in (points | {"center": self.by_scale[scale]}).items():
            heatmap, offset = torch.full((1, 1, cells, cells), -9.0), torch.zeros(1, 2, cells, cells)
            for x, y, score in these:
                where = [(v * scale + placement.border[0]) * cells / canvas[0] for v in (x, y)]
                column, row = map(int, where)
                heatmap[0, 0, row, column] = torch.tensor(score).logit()
                offset[0, :, row, column] = torch.tensor(where) - torch.tensor([column, row])
            maps[name] = KeypointMaps(heatmap, torch.zeros(1, 1, cells, cells), offset)
        return [maps]


def family_of(network: torch.nn.Module, detector: str = "cornernet") -> Family:
    """A family of one class that decodes the answers of this network."""
    family = small_family(detector, classes=1)
    family.network = network
    return family


def triplet_detector(box: Sequence[float], by_scale: Mapping[float, Any], **options: Any) -> Detector:
    """CenterNet's detector of a TripletOracle, at the oracle's scales."""
    # One keypoint of each kind: those of empty cells would be the next.
    one = {"mirror": False, "as_published": False, "corners": 1, "centers": 1}
    options = DetectionOptions(**one | {"scales": tuple(by_scale)} | options)
    return Detector(family_of(TripletOracle(box, by_scale), "centernet"), options, (64, 64), CPU)


def black() -> np.ndarray:
    """The image of a TripletOracle."""
    return np.zeros((SIZE, SIZE, 3), np.uint8)


def objects_of(boxes: Sequence, labels: Sequence[int], crowd: Sequence[bool] | None = None) -> Objects:
    """An annotation of these boxes (x1, y1, x2, y2); no crowds by default."""
    crowd = np.zeros(len(labels), bool) if crowd is None else np.array(crowd)
    return Objects(np.array(boxes, np.float64).reshape(-1, 4), np.array(labels, np.int64), crowd)
