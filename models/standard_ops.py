"""Corner pooling and decoding in operators that every runtime has, for exported networks (export.py).

The other modules compute the same with custom operators and with shapes that depend on the data (external/corner_pool,
models/decode.py). Here the number of keypoints and boxes is fixed: what an image lacks is filled up with score -1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from external.corner_pool import FORWARD, WHOLE
from models.keypoints import CORNERS, KeypointMaps, Predictions

STEPS = 10  # of a directional pool
LONGEST = 2**STEPS  # cells of the longest row or column that STEPS steps pool
NOTHING = -1.0  # score of a rejected box, and of keypoints and boxes that an image lacks

Best = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # the k highest of (B, n), ties to the lower index, with indices


def standard_pool(x: Tensor, dim: int, scan: int) -> Tensor:
    """The operator corner_pool::pool, with equal results for maps of up to LONGEST cells along `dim` (2 or 3).

    A maximum over n cells takes log2(n) steps: x = max(x, x shifted by k), k = 1, 2, 4, ... The number of steps cannot
    depend on the size of the maps in a graph. Steps that are longer than the maps change nothing.
    """
    if scan == WHOLE:
        return x.amax(dim, keepdim=True).expand_as(x)
    size = x.shape[dim]
    for step in range(STEPS):
        k = 2**step
        before, after = (k, 0) if scan == FORWARD else (0, k)
        padding = (before, after) if dim == 3 else (0, 0, before, after)
        x = torch.maximum(x, F.pad(x, padding, value=float("-inf")).narrow(dim, after, size))
    return x


def standard_pool_sum(a: Tensor, a_scan: int, b: Tensor, b_scan: int) -> Tensor:
    """The operator corner_pool::pool_sum."""
    return standard_pool(a, 2, a_scan) + standard_pool(b, 3, b_scan)


class StandardPools(TorchFunctionMode):
    """While it is active, standard operators take the place of the custom operators of corner pooling."""

    REPLACED = {torch.ops.corner_pool.pool: standard_pool, torch.ops.corner_pool.pool_sum: standard_pool_sum}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return self.REPLACED.get(function, function)(*args, **(kwargs or {}))


def highest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of scores (B, n) and their indices, by ONNX's TopK, which gives ties to the lower index.

    torch.topk itself does not say which of equal scores it takes: see models.decode.best.
    """
    return scores.topk(k)


class Keypoints(NamedTuple):
    """The K best keypoints of each image, highest score first. All are (B, K); what an image lacks has score -1.

    x, y: in cells, offsets added. column, row: the cell. embedding: None for kinds that are not grouped.
    """

    scores: Tensor
    labels: Tensor
    x: Tensor
    y: Tensor
    column: Tensor
    row: Tensor
    embedding: Tensor | None


def keypoints(maps: KeypointMaps, k: int, kernel: int, best: Best) -> Keypoints:
    """models.decode.decode_points, with the embeddings, and with K keypoints however small the maps are."""
    height, width = maps.heatmap.shape[-2:]
    scores = maps.heatmap.float().sigmoid()
    scores = torch.where(F.max_pool2d(scores, kernel, 1, kernel // 2) == scores, scores, 0.0).flatten(1)
    scores, index = best(F.pad(scores, (0, k), value=NOTHING), k)  # (B, K): there are K, however small the maps
    index = torch.where(scores < 0, 0, index)
    labels = index // (height * width)
    cell = index - labels * (height * width)  # the exporter to ONNX has no remainder of a symbolic number
    row = cell // width
    column = cell - row * width

    def taken(values: Tensor) -> Tensor:  # (B, C, h, w) -> (B, C, K)
        return values.float().flatten(2).gather(2, cell[:, None].expand(-1, values.shape[1], -1))

    offset = taken(maps.offset)
    embedding = None if maps.embedding is None else taken(maps.embedding)[:, 0]
    return Keypoints(scores, labels, column + offset[:, 0], row + offset[:, 1], column, row, embedding)


class PairDecoder(nn.Module):
    """Maps of one stack -> boxes by name, as models.decode.decode_corners finds them.

    Args:
        k, pairs, kernel, max_distance, edge_pairs: see decode_corners.
        mirror: every image of the batch is followed by its mirror image. Their boxes are joined.
        exact_mirror: undo the mirror image as training makes it, see nnet.families.placement.from_cells.
        best: takes the best of the scores.
    """

    outputs = ("boxes", "scores", "labels", "corner_scores")

    def __init__(
        self,
        k: int,
        pairs: int,
        kernel: int,
        max_distance: float,
        mirror: bool,
        best: Best,
        edge_pairs: bool = True,
        exact_mirror: bool = False,
    ):
        super().__init__()
        self.k, self.pairs, self.kernel, self.max_distance = k, min(pairs, k * k), kernel, max_distance
        self.mirror, self.best, self.edge_pairs, self.exact_mirror = mirror, best, edge_pairs, exact_mirror

    def forward(self, maps: Predictions, images: Tensor) -> dict[str, Tensor]:
        """images: the network's input (B, 3, H, W), without mirror images; only its size is used.

        Returns:
            boxes (B, n, 4) float32: x1, y1, x2, y2 in pixels of the input, not clipped. scores (B, n), -1: no box.
            labels (B, n) int64. corner_scores (B, n, 2): top-left, bottom-right. n is `pairs`, or with `mirror` twice
            that, first those of the images.
        """
        tl, br = (keypoints(maps[name], self.k, self.kernel, self.best) for name in CORNERS)
        # Top-left corners run along the first axis of the (B, K, K) pairs, bottom-right corners along the second
        first, second = (v[:, :, None] for v in tl), (v[:, None, :] for v in br)
        (s1, label, x1, y1, column1, row1, e1), (s2, label2, x2, y2, column2, row2, e2) = first, second
        rejected = (label != label2) | ((e1 - e2).abs() > self.max_distance) | (x2 < x1) | (y2 < y1)
        rejected = rejected | (s1 < 0) | (s2 < 0)
        cells = maps[CORNERS[0]].heatmap
        if not self.edge_pairs:
            rejected = rejected | (column1 == 0) | (row1 == 0)
            rejected = rejected | (column2 == cells.shape[3] - 1) | (row2 == cells.shape[2] - 1)
        scores, index = self.best(torch.where(rejected, NOTHING, (s1 + s2) / 2).flatten(1), self.pairs)
        one, other = index // self.k, index % self.k  # of the top-left, of the bottom-right corners

        def pick(values: Tensor, which: Tensor) -> Tensor:
            return values.flatten(1).gather(1, which)

        x1, x2 = self.to_pixels(pick(x1, one), cells, images, 3), self.to_pixels(pick(x2, other), cells, images, 3)
        y1, y2 = self.to_pixels(pick(y1, one), cells, images, 2), self.to_pixels(pick(y2, other), cells, images, 2)
        if self.mirror:  # left and right have changed places
            swapped = torch.arange(x1.shape[0], device=x1.device)[:, None] % 2 == 1
            x1, x2 = torch.where(swapped, x2, x1), torch.where(swapped, x1, x2)
        boxes = torch.stack([x1, y1, x2, y2], 2)
        corner_scores = torch.stack([pick(s1, one), pick(s2, other)], 2)
        found = {"boxes": boxes, "scores": scores, "labels": pick(label, one), "corner_scores": corner_scores}
        return {name: self.join(values) for name, values in found.items()}

    def to_pixels(self, values: Tensor, cells: Tensor, images: Tensor, axis: int) -> Tensor:
        """Coordinates (B, n) in cells -> pixels of the input. The mirror image is undone."""
        values = values * images.shape[axis] / cells.shape[axis]
        if self.mirror and axis == 3:
            mirrored = torch.arange(values.shape[0], device=values.device)[:, None] % 2 == 1
            end = images.shape[3] - 1 if self.exact_mirror else images.shape[3]
            values = torch.where(mirrored, end - values, values)
        return values

    def join(self, values: Tensor) -> Tensor:
        """(2 B, n, ...) of the images and their mirror images -> (B, 2 n, ...)."""
        return values.unflatten(0, (-1, 2)).flatten(1, 2) if self.mirror else values


def central_regions(boxes: Tensor, divisors: tuple[int, int], size: float) -> Tensor:
    """Central regions of boxes (B, n, 4) x1, y1, x2, y2 (CenterNet, equation 1): (B, n, 4). See TripletDecoder."""
    first, last = boxes[..., :2], boxes[..., 2:]
    n = torch.where((last - first).prod(2, keepdim=True) <= size**2, *map(float, divisors))
    return torch.cat([(n + 1) * first + (n - 1) * last, (n - 1) * first + (n + 1) * last], 2) / (2 * n)


class TripletDecoder(PairDecoder):
    """PairDecoder with CenterNet's test: a pair without a center of its class in its central region is no box.

    Args:
        centers: number of centers per image, and as many of its mirror image.
        match: which of several centers gives a box its score, see test.center_match.
        divisors, size: see test.region_divisors and test.region_size.
    """

    outputs = (*PairDecoder.outputs, "pair_scores", "centers", "center_scores", "center_labels")

    def __init__(self, centers: int, match: str, divisors: tuple[int, int], size: float, **pair_options):
        super().__init__(**pair_options)
        self.centers, self.match, self.divisors, self.size = centers, match, divisors, size

    def forward(self, maps: Predictions, images: Tensor) -> dict[str, Tensor]:
        """As PairDecoder.forward. scores: the mean of the three keypoints.

        Further outputs: pair_scores (B, n): the mean of the two corners, -1 where they are no pair. centers (B, m, 2)
        x, y in pixels of the input, with center_scores and center_labels (B, m). The boxes are ordered by pair_scores.
        """
        found = super().forward(maps, images)
        points, cells = keypoints(maps["center"], self.centers, self.kernel, self.best), maps["center"].heatmap
        x, y = self.to_pixels(points.x, cells, images, 3), self.to_pixels(points.y, cells, images, 2)
        places, scores, labels = (self.join(v) for v in (torch.stack([x, y], 2), points.scores, points.labels))
        scored = self.tested(found, places, scores, labels)
        more = {"pair_scores": found["scores"], "centers": places, "center_scores": scores, "center_labels": labels}
        return found | {"scores": scored} | more

    def tested(self, found: Mapping[str, Tensor], places: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Scores of the boxes after the center test: (B, n)."""
        if self.match == "best":
            scores, order = self.best(scores, scores.shape[1])
            labels, places = labels.gather(1, order), places.gather(1, order[..., None].expand_as(places))
        x1, y1, x2, y2 = central_regions(found["boxes"], self.divisors, self.size).unbind(2)  # (B, n) each
        (x, y), same = places[:, None].unbind(3), labels[:, None] == found["labels"][..., None]
        inside = (x1[..., None] < x) & (x < x2[..., None]) & (y1[..., None] < y) & (y < y2[..., None])
        inside = inside & same & (scores[:, None] >= 0)  # (B, n, m)
        m = scores.shape[1]
        index = torch.where(inside, torch.arange(m, device=scores.device), m).amin(2)  # the first center inside, or m
        kept = (index < m) & (found["scores"] >= 0)
        center = scores.gather(1, index.clamp(max=m - 1))
        return torch.where(kept, (found["scores"] * 2 + center) / 3, NOTHING)
