"""Ground truth in place of predictions: the maps that a perfect network predicts (CornerNet, Section 4.4.6)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from models.keypoints import CORNERS, KeypointMaps, Predictions
from sample.targets import BatchObjects, Grid, KeypointTargets, PenaltyOptions, box_targets

MAPS = ("heatmaps", "offsets", "embeddings")  # maps of the corners that can be replaced
SPACING = 100.0  # distance between the embeddings of two objects: far above any test.embedding_distance


def true_maps(
    maps: Predictions, boxes: np.ndarray, labels: np.ndarray, canvas: tuple[int, int], names: Collection[str]
) -> Predictions:
    """The predictions, with those maps of the corners that are in `names` (of MAPS) taken from the annotation.

    Cells and offsets are those of the training targets.

    heatmaps: score 1 in the cell of a corner and 0 elsewhere (logits of plus and minus infinity).
    offsets: in the cells of annotated corners. Elsewhere there is no true offset, and the predicted one stays.
    embeddings: SPACING times the number of the object's group. Each object is a group of its own, except that objects
        that share the cell of a corner, which has one embedding, are one group. Every cell has the embedding of the
        corner nearest to it, so that corners predicted beside their cell are grouped too.

    Where corners share a cell, it has the offset of the first object. Of corners at equal distance, the first counts as
    nearest.

    Args:
        maps: of the image and, if B is 2, of its mirror image.
        boxes: (n, 4) float64 x1, y1, x2, y2 in pixels of the canvas. labels: (n,) class numbers.
        canvas: (height, width) in pixels.
    """
    if not set(names) & set(MAPS):
        return maps
    batch, classes, *size = maps[CORNERS[0]].heatmap.shape
    views = [boxes, mirrored(boxes, canvas[1])][:batch]
    image = torch.arange(batch).repeat_interleave(len(boxes))  # (B * n,)
    objects = BatchObjects(torch.from_numpy(np.concatenate(views)), torch.from_numpy(labels).repeat(batch), image)
    grid = Grid(batch, classes, canvas, tuple(size))
    targets = box_targets(CORNERS, objects, grid, PenaltyOptions(kind="none"))  # on the CPU: few numbers
    groups = shared_groups([image * size[0] * size[1] + target.cells for target in targets.values()])
    return maps | {name: _replace(maps[name], target, image, groups, names) for name, target in targets.items()}


def shared_groups(cells: Sequence[torch.Tensor]) -> torch.Tensor:
    """The group of each of N objects, numbered by its first object: (N,) int64.

    Objects that have a cell in common are in one group. cells: for each kind of corner, the cells (N,) of the objects.
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
    """Boxes (n, 4) in the mirror image, as training mirrors them and a perfect network predicts: x -> width - 1 - x."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([width - 1 - x2, y1, width - 1 - x1, y2], 1)


def _replace(
    maps: KeypointMaps, target: KeypointTargets, image: torch.Tensor, groups: torch.Tensor, names: Collection[str]
) -> KeypointMaps:
    """The maps of one kind of corner. image, groups: (N,), the view of each object, and its group."""
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
    # The number of the object breaks ties: the first of those at equal distance.
    nearest = ((x_distance + y_distance) * count + torch.arange(count).view(count, 1, 1)).argmin(1)  # (B, h, w)
    if "embeddings" in names:
        number = groups.view(batch, count).gather(1, nearest.flatten(1)).view_as(nearest)
        embedding = (number * SPACING)[:, None].to(embedding.device, torch.float32)
    if "offsets" in names:
        owner = nearest[image, y, x]  # (N,): the object that the cell's offset is from
        true = target.offsets.view(batch, count, 2)[image, owner]
        offset = offset.clone()
        offset[image, :, y, x] = true.to(offset)
    return KeypointMaps(heatmap, embedding, offset)
