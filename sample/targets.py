"""Training targets, drawn on the device from the boxes of a batch (CornerNet, sections 3.2, 3.3; CenterNet, 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

Size = tuple[int, int]  # height, width

DIVISOR = 6  # of a corner's Gaussian: its standard deviation is (2 radius + 1) / this
OBJECTS_AT_ONCE = 1024  # Gaussians drawn per step: bounds the memory (60 MB at radius 30)


@dataclass(frozen=True)
class PenaltyOptions:
    """Penalty reduction around a ground-truth keypoint (Section 3.2, ablated in Section 4.4.3): `penalty:`."""

    kind: Literal["object", "fixed", "none"] = "object"
    """Radius of the Gaussian around a keypoint. object: from the size of the object. fixed: the same for all. none: one-hot
    heatmaps."""
    overlap: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """kind object: IoU with the ground-truth box that a pair of corners within the radius keeps."""
    radius: NonNegativeFloat = 2.5
    """kind fixed: the radius in heatmap cells."""
    rule: Literal["cornernet", "centernet"] = "cornernet"
    """kind object: which released formula gives the radius."""
    center_divisor: PositiveFloat = 5.0
    """A center's Gaussian has sigma = (2 radius + 1) / center_divisor. A corner's has 6 in its place."""


class Spread(NamedTuple):
    """The Gaussians of N objects."""

    cut: Tensor  # (N,) int64: cells farther than this along x or y are left alone
    radius: Tensor  # (N,) float64, in cells: gives the standard deviation
    limit: int  # no `cut` is above it: known without asking the device


class KeypointTargets(NamedTuple):
    """Targets of one kind of keypoint for a batch with N objects in all."""

    heatmap: Tensor  # (B, C, h, w) float32: 1 at the keypoints, Gaussian around them
    cells: Tensor  # (N,) int64: the keypoint's cell, y * w + x
    offsets: Tensor  # (N, 2) float64: x and y, what rounding down to the cell lost, in cells


def gaussian_radius(height: ArrayLike, width: ArrayLike, overlap: float, rule: str = "cornernet") -> Tensor:
    """How far both corners of a height x width box may move for its IoU to stay at `overlap`: float64, not rounded.

    The least of three cases: both corners move outside the box, both inside, or one each way. The rule "centernet" is
    that of its release, which takes the other root in the first two cases and divides by 2 in all. Sizes are numbers,
    arrays or CPU tensors.

    Operations come in the order of the released code, and square roots from NumPy, which rounds them correctly (torch
    does not): many radii are whole numbers (12 x 15 cells at 0.3: exactly 3) that are rounded down later, and one bit
    less would make them one cell smaller.
    """
    h, w = np.asarray(height, dtype=np.float64), np.asarray(width, dtype=np.float64)
    t, total = overlap, h + w

    def root(b: np.ndarray, four_ac: np.ndarray, sign: int) -> np.ndarray:
        return b + sign * np.sqrt(b**2 - four_ac)

    sign, divisors = {"cornernet": (-1, (2, 8, 8 * t)), "centernet": (1, (2, 2, 2))}[rule]
    one_each = root(total, 4 * (w * h * (1 - t) / (1 + t)), sign) / divisors[0]
    inside = root(2 * total, 16 * ((1 - t) * w * h), sign) / divisors[1]
    outside = root(-2 * t * total, 4 * (4 * t) * ((t - 1) * w * h), 1) / divisors[2]
    return torch.as_tensor(np.minimum(np.minimum(one_each, inside), outside))


def draw_gaussians(
    heatmap: Tensor, image_index: Tensor, labels: Tensor, cells: Tensor, spread: Spread, divisor: float = DIVISOR
) -> Tensor:
    """Draw N Gaussians into a batch of heatmaps, where they overlap the greater (section 3.2).

    Args:
        heatmap: (B, C, h, w) float32, dense in any memory format, to draw into.
        image_index, labels: (N,) int64, image and class of each object.
        cells: (N, 2) int64, x and y of the cell in which its Gaussian is 1; inside the map.
        spread: their radii; the standard deviation is (2 radius + 1) / divisor.

    Returns the heatmap. (The released code also zeroes values below the machine's epsilon; within the window none comes
    near it.)
    """
    height, width = heatmap.shape[2:]
    of_image, of_class, of_row, of_column = heatmap.stride()
    flat = heatmap.as_strided((heatmap.numel(),), (1,))
    start = image_index * of_image + labels * of_class  # (N,)
    steps = torch.arange(-spread.limit, spread.limit + 1, device=cells.device)  # (D,)
    sigma = (2 * spread.radius + 1) / divisor
    for first in range(0, len(cells), OBJECTS_AT_ONCE):
        part = slice(first, first + OBJECTS_AT_ONCE)
        near = steps.abs() <= spread.cut[part, None]  # (n, D)
        gaussian = (-(steps**2) / (2 * sigma[part, None] ** 2)).exp()
        x, y = (cells[part, None, axis] + steps for axis in (0, 1))
        in_x = gaussian * (near & (x >= 0) & (x < width))
        in_y = gaussian * (near & (y >= 0) & (y < height))
        values = (in_y[:, :, None] * in_x[:, None, :]).float()  # (n, D, D): zero outside the window and the map
        rows = start[part, None] + y.clamp(0, height - 1) * of_row
        index = rows[:, :, None] + (x.clamp(0, width - 1) * of_column)[:, None, :]
        flat.scatter_reduce_(0, index.flatten(), values.flatten(), "amax")
    return heatmap


def penalty_spread(boxes: Tensor, input_size: Size, output_size: Size, penalty: Penalty) -> Spread:
    """The Gaussians of boxes (N, 4), in input pixels. Their size in cells is rounded up, the radius down."""
    if penalty.kind == "object":
        (in_h, in_w), (out_h, out_w) = input_size, output_size
        width = ((boxes[:, 2] - boxes[:, 0]) * (out_w / in_w)).ceil().long().clamp(0, out_w)
        height = ((boxes[:, 3] - boxes[:, 1]) * (out_h / in_h)).ceil().long().clamp(0, out_h)
        radii, limit = _radius_table(tuple(output_size), penalty.overlap, penalty.rule, boxes.device)
        cut = radii[height, width]
        return Spread(cut, cut.double(), limit)
    radius = {"fixed": penalty.radius, "none": 0.0}[penalty.kind]
    radii = torch.full_like(boxes[:, 0], radius)
    return Spread(radii.long(), radii, int(radius))


@lru_cache
def _radius_table(size: Size, overlap: float, rule: str, device: torch.device) -> tuple[Tensor, int]:
    """Radii (h + 1, w + 1) int64, rounded down, of boxes of 0 to h times 0 to w cells, and the greatest."""
    radii = gaussian_radius(*np.indices((size[0] + 1, size[1] + 1)), overlap, rule).clamp(min=0).long()
    return radii.to(device), int(radii.max())


# Where each kind of keypoint lies in boxes (N, 4): (N, 2), x and y.
POINTS = {
    "top_left": lambda boxes: boxes[:, :2],
    "bottom_right": lambda boxes: boxes[:, 2:],
    "center": lambda boxes: (boxes[:, :2] + boxes[:, 2:]) / 2,
}
CORNERS = ("top_left", "bottom_right")


def box_targets(
    keypoints: Sequence[str],
    boxes: Tensor,
    labels: Tensor,
    image_index: Tensor,
    batch: int,
    classes: int,
    input_size: Size,
    output_size: Size,
    penalty: Penalty,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> dict[str, KeypointTargets]:
    """Targets of each of the `keypoints` (names in POINTS) of a batch, on the device of its boxes; the host waits for
    nothing.

    Args:
        boxes: (N, 4) float64, x1, y1, x2, y2 in input pixels, of all images together.
        labels, image_index: (N,) int64, class and image of each box.
        batch, classes: how many images and classes there are.
        memory_format: of the heatmaps; best that of the network's, with which the loss compares them.
    """
    (in_h, in_w), (height, width) = input_size, output_size
    spread = penalty_spread(boxes, input_size, output_size, penalty)
    targets = {}
    for name in keypoints:
        points = POINTS[name](boxes)
        exact = torch.stack([points[:, 0] * (width / in_w), points[:, 1] * (height / in_h)], 1)
        x, y = (exact[:, axis].long().clamp(0, limit - 1) for axis, limit in ((0, width), (1, height)))
        cells = torch.stack([x, y], 1)
        divisor = penalty.center_divisor if name == "center" else DIVISOR
        heatmap = torch.empty((batch, classes, height, width), device=boxes.device, memory_format=memory_format).zero_()
        draw_gaussians(heatmap, image_index, labels, cells, spread, divisor)
        targets[name] = KeypointTargets(heatmap, y * width + x, exact - cells)
    return targets
