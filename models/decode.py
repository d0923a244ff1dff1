"""From the maps of one image, or several, to boxes (CornerNet, Section 4.2) and centers (CenterNet, Section 3.2)."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.keypoints import KeypointMaps

CELLS_IN_CACHE = 2**18  # cells of a heatmap that fit into a CPU's cache together with the intermediate results


class Keypoints(NamedTuple):
    """The best keypoints of each image, highest score first. All are (B, K).

    x, y: in cells, as integers, or as floats with the offsets added.
    """

    scores: Tensor
    labels: Tensor
    x: Tensor
    y: Tensor


class Detections(NamedTuple):
    """The best boxes of each image, highest score first. Rejected boxes have score -1 and come last.

    boxes: (B, n, 4) x1, y1, x2, y2. scores: (B, n). labels: (B, n) class numbers.
    corner_scores: (B, n, 2), top-left then bottom-right. None where boxes are not pairs of corners.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    corner_scores: Tensor | None


def best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of scores (B, n) float32, or all of them if fewer, and their indices: (B, k).

    Ties go to the lower index; torch.topk leaves their order undefined. All scores below 0 must have one common value.
    The rank of NaN is undefined.
    """
    n = scores.shape[1]
    # The bits of non-negative floats, read as integers, have the order of the floats. Those of negative ones lie below.
    # The score takes the upper 32 bits of a key, the reversed index the lower 32.
    behind = torch.arange(n - 1, -1, -1, device=scores.device)
    keys = scores.view(torch.int32).to(torch.int64).bitwise_left_shift_(32).bitwise_or_(behind)
    keys = keys.topk(min(k, n)).values
    return (keys >> 32).to(torch.int32).view(torch.float32), n - 1 - (keys & 0xFFFFFFFF)


def max_around(maps: Tensor, kernel: int) -> Tensor:
    """max_pool2d of maps (..., h, w) with stride 1 and padded edges, many times as fast on the CPU. kernel: odd."""
    given = maps
    for axis in (-1, -2):
        size = maps.shape[axis]
        for _ in range(min(kernel // 2, size - 1)):  # each time one cell farther
            pairs = torch.maximum(maps.narrow(axis, 0, size - 1), maps.narrow(axis, 1, size - 1))
            maps = torch.empty_like(maps)
            inner = maps.narrow(axis, 1, size - 2)
            torch.maximum(pairs.narrow(axis, 0, size - 2), pairs.narrow(axis, 1, size - 2), out=inner)
            for edge, source in ((0, 0), (size - 1, size - 2)):
                maps.narrow(axis, edge, 1).copy_(pairs.narrow(axis, source, 1))
    return maps.clone() if maps is given else maps


def peaks(scores: Tensor, kernel: int) -> Tensor:
    """scores (..., h, w), set to 0 where a cell of the surrounding kernel x kernel square is higher."""
    return max_around(scores, kernel).eq_(scores).mul_(scores)


def top_keypoints(heatmap: Tensor, k: int, kernel: int = 3) -> Keypoints:
    """The k best local maxima over all classes of heatmap (B, classes, h, w) float32 with scores in 0..1.

    There are fewer where the heatmap has fewer cells. Ties go by class, then y, then x. A cell is a maximum when no
    cell of the surrounding kernel x kernel square is higher. x, y: without offsets.
    """
    batch, classes, height, width = heatmap.shape
    heatmap = heatmap.detach().contiguous()
    # On the CPU, a few classes at a time, which stay in its cache
    step = classes if heatmap.is_cuda else max(1, CELLS_IN_CACHE // max(1, batch * height * width))
    best_of_row = torch.cat([peaks(part, kernel).amax(3) for part in heatmap.split(step, 1)], 1)  # (B, classes, h)
    # The k best cells lie in the k rows whose best cells are highest: for any other row, k cells rank before all of
    # its cells. The rows keep their order, so ties have the order of the whole maps.
    rows = best(best_of_row.flatten(1), k)[1].sort().values  # (B, k)
    labels, y = rows // height, rows % height
    image = torch.arange(batch, device=rows.device)[:, None]
    reach = kernel // 2
    around = torch.arange(-reach, reach + 1, device=rows.device)  # at the edge, a row of the neighbourhood is repeated
    strips = heatmap[image[..., None], labels[..., None], (y[..., None] + around).clamp(0, height - 1)]
    strips = peaks(strips, kernel)[:, :, reach]  # (B, k, kernel, w) -> (B, k, w)
    scores, index = best(strips.flatten(1), k)
    row = index // width
    return Keypoints(scores, labels.gather(1, row), index % width, y.gather(1, row))


def at_keypoints(maps: Tensor, points: Keypoints) -> Tensor:
    """Values of maps (B, C, h, w) at the keypoints: (B, C, K)."""
    index = points.y * maps.shape[-1] + points.x
    return maps.flatten(2).gather(2, index[:, None].expand(-1, maps.shape[1], -1))


def locate(offset: Tensor, points: Keypoints) -> tuple[Tensor, Tensor]:
    """x and y of the keypoints in cells, each (B, K), with the values of offset (B, 2, h, w) added."""
    added = at_keypoints(offset.float(), points)
    return points.x + added[:, 0], points.y + added[:, 1]


def decode_points(maps: KeypointMaps, k: int = 70, kernel: int = 3) -> Keypoints:
    """The k best keypoints, x and y with their offsets (for centers: CenterNet, Section 3.2, steps 1 and 2)."""
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
    edge_pairs: bool = True,
) -> Detections:
    """Pair the k best top-left corners with the k best bottom-right corners; keep the best `pairs` pairs.

    The score of a pair is the mean of the scores of its corners. A pair is rejected, with score -1, when its classes
    differ, when its embeddings differ by more than max_distance, or when the bottom-right corner lies left of or above
    the top-left one (offsets added). There are fewer pairs where the maps have fewer cells. Boxes are in cells.

    edge_pairs: False also rejects pairs whose top-left corner is in the first row or column of cells, or whose
        bottom-right corner is in the last one.
    """
    corners, height, width = [], *top_left.heatmap.shape[-2:]
    for maps, edge, far in ((top_left, (0, 0), torch.inf), (bottom_right, (height - 1, width - 1), -torch.inf)):
        points = top_keypoints(maps.heatmap.float().sigmoid(), k, kernel)
        embedding = at_keypoints(maps.embedding.float(), points)[:, 0]  # (B, K)
        if not edge_pairs:  # an embedding that is far from that of every other corner
            embedding = embedding.masked_fill((points.y == edge[0]) | (points.x == edge[1]), far)
        corners.append((points.scores, points.labels, *locate(maps.offset, points), embedding))
    # Top-left corners run along the first axis of the (B, K, K) pairs, bottom-right corners along the second.
    tl_score, tl_label, x1, y1, tl_embedding = (v[:, :, None] for v in corners[0])
    br_score, br_label, x2, y2, br_embedding = (v[:, None, :] for v in corners[1])
    rejected = (tl_label != br_label) | ((tl_embedding - br_embedding).abs() > max_distance) | (x2 < x1) | (y2 < y1)
    scores = torch.where(rejected, -1, (tl_score + br_score) / 2).flatten(1)  # (B, K * K)
    scores, index = best(scores, pairs)

    def pick(v: Tensor) -> Tensor:  # (B, K, 1) or (B, 1, K) -> (B, n)
        return v.expand(rejected.shape).flatten(1).gather(1, index)

    boxes = torch.stack([pick(v) for v in (x1, y1, x2, y2)], 2)
    return Detections(boxes, scores, pick(tl_label), torch.stack([pick(tl_score), pick(br_score)], 2))
