"""From the maps of one image, or several, to boxes (CornerNet, Section 4.2) and centers (CenterNet, Section 3.2)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.cornernet import KeypointMaps


class Keypoints(NamedTuple):
    """The best keypoints of each image, highest score first; all (B, K). x, y: cells."""

    scores: Tensor
    labels: Tensor
    x: Tensor
    y: Tensor


class Detections(NamedTuple):
    """The best pairs of corners of each image, highest score first, rejected pairs (score -1) last.

    boxes: (B, n, 4) x1, y1, x2, y2 in cells of the maps, offsets added. scores, tl_scores, br_scores: (B, n).
    labels: (B, n) class numbers.
    """

    boxes: Tensor
    scores: Tensor
    tl_scores: Tensor
    br_scores: Tensor
    labels: Tensor


def top_keypoints(heatmap: Tensor, k: int, kernel: int = 3) -> Keypoints:
    """The k best local maxima of heatmap (B, classes, h, w), scores in 0..1, over all classes; fewer if so there are.

    A cell is a maximum when nothing in the kernel x kernel cells around it is higher. x, y: without offsets.
    """
    peak = F.max_pool2d(heatmap, kernel, stride=1, padding=kernel // 2) == heatmap
    batch, _, height, width = heatmap.shape
    scores, index = (heatmap * peak).flatten(1).topk(min(k, heatmap[0].numel()))
    cell = index % (height * width)
    return Keypoints(scores, index // (height * width), cell % width, cell // width)


def at_keypoints(maps: Tensor, points: Keypoints) -> Tensor:
    """Values of maps (B, C, h, w) at the keypoints: (B, C, K)."""
    index = points.y * maps.shape[-1] + points.x
    return maps.flatten(2).gather(2, index[:, None].expand(-1, maps.shape[1], -1))


def locate(offset: Tensor, points: Keypoints) -> tuple[Tensor, Tensor]:
    """x and y of the keypoints in cells, each (B, K), with what offset (B, 2, h, w) adds to them."""
    added = at_keypoints(offset.float(), points)
    return points.x + added[:, 0], points.y + added[:, 1]


def decode_centers(maps: KeypointMaps, k: int = 70, kernel: int = 3) -> Keypoints:
    """The k best centers of objects, x and y with their offsets (CenterNet, Section 3.2, steps 1 and 2)."""
    points = top_keypoints(maps.heatmap.float().sigmoid(), k, kernel)
    x, y = locate(maps.offset, points)
    return points._replace(x=x, y=y)


def decode_corners(
    top_left: KeypointMaps,
    bottom_right: KeypointMaps,
    k: int = 100,
    pairs: int = 1000,
    kernel: int = 3,
    max_distance: float = 0.5,
) -> Detections:
    """Pair the k best top-left corners with the k best bottom-right corners; keep the best `pairs` pairs.

    The score of a pair is the mean of its corners'. Rejected, with score -1: corners of different classes, embeddings
    further apart than max_distance, a bottom-right corner left of or above the top-left one (offsets added).
    There being fewer cells or pairs than asked for is no error: n is what there is.
    """
    corners = []
    for maps in (top_left, bottom_right):
        points = top_keypoints(maps.heatmap.float().sigmoid(), k, kernel)
        embedding = at_keypoints(maps.embedding.float(), points)[:, 0]  # (B, K)
        corners.append((points.scores, points.labels, *locate(maps.offset, points), embedding))
    # Top-left corners run along the first axis of the (B, K, K) pairs, bottom-right corners along the second.
    tl_score, tl_label, x1, y1, tl_embedding = (v[:, :, None] for v in corners[0])
    br_score, br_label, x2, y2, br_embedding = (v[:, None, :] for v in corners[1])
    rejected = (tl_label != br_label) | ((tl_embedding - br_embedding).abs() > max_distance) | (x2 < x1) | (y2 < y1)
    scores = torch.where(rejected, -1, (tl_score + br_score) / 2).flatten(1)  # (B, K * K)
    scores, index = scores.topk(min(pairs, scores.shape[1]))

    def pick(v: Tensor) -> Tensor:  # (B, K, 1) or (B, 1, K) -> (B, n)
        return v.expand(rejected.shape).flatten(1).gather(1, index)

    boxes = torch.stack([pick(v) for v in (x1, y1, x2, y2)], 2)
    return Detections(boxes, scores, pick(tl_score), pick(br_score), pick(tl_label))
