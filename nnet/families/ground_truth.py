"""Annotation in place of prediction: the maps that a perfect network would predict (CornerNet, Section 4.4.6)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from models.cornernet import CORNERS, KeypointMaps, Predictions
from sample import KeypointTargets, Penalty, box_targets

MAPS = ("heatmaps", "offsets", "embeddings")  # what of the corners' maps can be replaced
CENTERS = "centers"  # and in CenterNet, not as maps but as the list that the center test takes
SPACING = 100.0  # between the embeddings of two objects: far above any test.embedding_distance


def keypoint_of(name: str) -> str:
    """The kind of keypoint that a network must predict for `name`, of MAPS or CENTERS, to replace something."""
    return "center" if name == CENTERS else next(iter(CORNERS))


def true_maps(
    maps: Predictions, boxes: np.ndarray, labels: np.ndarray, canvas: tuple[int, int], names: Collection[str]
) -> Predictions:
    """Predictions whose corners have of their maps those in `names` (of MAPS) from the annotation.

    Cells and offsets are those of the training targets.

    heatmaps: score 1 in the cell of a corner and 0 elsewhere (logits of plus and minus infinity).
    offsets: in the cells of the annotated corners; elsewhere there is no true one, and the predicted stays.
    embeddings: SPACING times the number of the object's group. Every object is a group of its own, but for those that
        share the cell of a corner, which can have but one embedding. A cell has that of the corner nearest to it, so
        that corners predicted beside their cell are grouped too.

    Where corners share a cell, the first of the objects has its offset, and the nearest is the first of those as near.

    Args:
        maps: of the image and, if B is 2, of its mirror image.
        boxes: (n, 4) float64 x1, y1, x2, y2 in pixels of the canvas. labels: (n,) class numbers.
        canvas: (height, width) in pixels.
    """
    if not set(names) & set(MAPS):
        return maps
    batch, classes, *size = maps["top_left"].heatmap.shape
    views = [boxes, mirrored(boxes, canvas[1])][:batch]
    image = torch.arange(batch).repeat_interleave(len(boxes))  # (B * n,)
    every_label = torch.from_numpy(labels).repeat(batch)
    where = (torch.from_numpy(np.concatenate(views)), every_label, image, batch, classes, canvas, size)
    targets = box_targets(CORNERS, *where, Penalty(kind="none"))  # on the CPU: few numbers
    groups = shared_groups([image * size[0] * size[1] + target.cells for target in targets.values()])
    return maps | {name: _replace(maps[name], target, image, groups, names) for name, target in targets.items()}


def shared_groups(cells: Sequence[torch.Tensor]) -> torch.Tensor:
    """The group of each of N objects, numbered by its first object: (N,) int64. Two that have a cell in common are in
    one group.

    cells: by kind of corner, the objects' cells (N,).
    """
    group = torch.arange(len(cells[0]))
    places = [kind.unique(return_inverse=True)[1] for kind in cells]
    while True:
        before = group
        for place in places:
            group = group.scatter_reduce(0, place, group, "amin", include_self=False)[place]
        if torch.equal(group, before):
            return group


def mirrored(boxes: np.ndarray, width: int) -> np.ndarray:
    """Boxes (n, 4) as decoding undoes the mirror: x -> width - x. (Training mirrors pixels: x -> width - x - 1.)"""
    x1, y1, x2, y2 = boxes.T
    return np.stack([width - x2, y1, width - x1, y2], 1)


def _replace(
    maps: KeypointMaps, target: KeypointTargets, image: torch.Tensor, groups: torch.Tensor, names: Collection[str]
) -> KeypointMaps:
    """The maps of one kind of corner; image, groups: (N,) which view each of the objects is in, and its group."""
    heatmap, embedding, offset = maps
    batch, _, height, width = heatmap.shape
    if "heatmaps" in names:
        heatmap = target.heatmap.to(heatmap.device).logit()
    count = len(image) // batch
    if not count or not {"offsets", "embeddings"} & set(names):
        return KeypointMaps(heatmap, embedding, offset)
    x, y = target.cells % width, target.cells // width  # (N,)
    x_distance = (torch.arange(width) - x.view(batch, count, 1, 1)) ** 2  # (B, n, 1, w)
    y_distance = (torch.arange(height)[:, None] - y.view(batch, count, 1, 1)) ** 2  # (B, n, h, 1)
    # The object's number as the last digit: the first of those as near.
    nearest = ((x_distance + y_distance) * count + torch.arange(count).view(count, 1, 1)).argmin(1)  # (B, h, w)
    if "embeddings" in names:
        number = groups.view(batch, count).gather(1, nearest.flatten(1)).view_as(nearest)
        embedding = (number * SPACING)[:, None].to(embedding.device, torch.float32)
    if "offsets" in names:
        owner = nearest[image, y, x]  # (N,): the object whose offset the cell has
        true = target.offsets.view(batch, count, 2)[image, owner]
        offset = offset.clone()
        offset[image, :, y, x] = true.to(offset)
    return KeypointMaps(heatmap, embedding, offset)
