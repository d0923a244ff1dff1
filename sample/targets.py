"""Training targets, drawn on the device from the boxes of a batch (CornerNet, Section 3.2; CenterNet, Section 3.2).

To add a kind of keypoint, add it to PLACES here and to KINDS in models/keypoints.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from sample.geometry import Size

DIVISOR = 6.0  # the standard deviation of a corner's Gaussian is (2 radius + 1) / this
OBJECTS_AT_ONCE = 1024  # Gaussians drawn per step: bounds the memory (60 MB at radius 30)


@dataclass(frozen=True)
class PenaltyOptions:
    """Penalty reduction around a ground-truth keypoint (Section 3.2, ablated in Section 4.4.3): the config's
    `penalty:`."""

    kind: Literal["object", "fixed", "none"] = "object"
    """Radius of the Gaussian around a keypoint. object: from the size of the object. fixed: the same for all. none:
    one-hot heatmaps."""
    overlap: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """kind object: any box with both corners within the radius has at least this IoU with the ground-truth box."""
    radius: Annotated[NonNegativeFloat, Field(json_schema_extra={"most": 1_000_000})] = 2.5
    """kind fixed: the radius in heatmap cells."""
    rule: Literal["cornernet", "centernet"] = "cornernet"
    """kind object: which released formula gives the radius. cornernet: CornerNet's since March 2019, according to the
    paper. centernet: that of CornerNet's first release (August 2018), which CenterNet's release has kept."""
    center_divisor: Annotated[PositiveFloat, Field(json_schema_extra={"most": 1000})] = 5.0
    """A center's Gaussian has sigma = (2 radius + 1) / center_divisor. A corner's has 6 in its place."""

    def unused(self) -> dict[str, str]:
        """Options without effect beside these others, with the reason."""
        return {} if self.kind == "fixed" else {"radius": f"penalty.kind is {self.kind}"}


class Place(NamedTuple):
    """Where a kind of keypoint lies, and how wide its Gaussian is.

    locate: boxes (N, 4) -> points (N, 2), x and y.
    divisor: the standard deviation of the Gaussian is (2 radius + 1) / divisor(penalty).
    """

    locate: Callable[[Tensor], Tensor]
    divisor: Callable[[PenaltyOptions], float]


PLACES = {
    "top_left": Place(lambda boxes: boxes[:, :2], lambda penalty: DIVISOR),
    "bottom_right": Place(lambda boxes: boxes[:, 2:], lambda penalty: DIVISOR),
    "center": Place(lambda boxes: (boxes[:, :2] + boxes[:, 2:]) / 2, lambda penalty: penalty.center_divisor),
}


class BatchObjects(NamedTuple):
    """The N objects of all images of a batch, concatenated."""

    boxes: Tensor  # (N, 4) float64: x1, y1, x2, y2 in input pixels
    labels: Tensor  # (N,) int64: class
    image_index: Tensor  # (N,) int64: position of its image in the batch


class Grid(NamedTuple):
    """Shape of the heatmaps of a batch."""

    images: int
    classes: int
    input_size: Size  # pixels
    output_size: Size  # cells


class Spread(NamedTuple):
    """The Gaussians of N objects."""

    cut: Tensor  # (N,) int64: cells farther than this along x or y are left unchanged
    radius: Tensor  # (N,) float64, in cells: determines the standard deviation
    limit: int  # upper bound of `cut`, a Python number: nothing is copied from the device


class KeypointTargets(NamedTuple):
    """Targets of one kind of keypoint for a batch with N objects in all."""

    heatmap: Tensor  # (B, C, h, w) float32: 1 at the keypoints, Gaussian around them
    cells: Tensor  # (N,) int64: the keypoint's cell, y * w + x
    offsets: Tensor  # (N, 2) float64: x and y, what rounding down to the cell lost, in cells


def gaussian_radius(height: ArrayLike, width: ArrayLike, overlap: float, rule: str = "cornernet") -> Tensor:
    """Distance that both corners may move so that the IoU with the box is at least `overlap`: float64, not rounded.

    The smallest of three cases: one corner moves inwards and the other outwards, both inwards, both outwards. The rule
    "centernet" is that of CornerNet's first release, which CenterNet's release has kept. It takes the other root in the
    first two cases and divides by 2 in all of them.

    The order of operations is that of the released code, and square roots are NumPy's, which are correctly rounded
    (torch's are not). Many radii are whole numbers (12 x 15 cells at 0.3: exactly 3) that are rounded down later; an
    error of one bit would make them one cell smaller.

    Args:
        height, width: numbers, arrays or CPU tensors.
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
    heatmap: Tensor, image_index: Tensor, labels: Tensor, cells: Tensor, spread: Spread, divisor: float
) -> Tensor:
    """Draw N Gaussians into a batch of heatmaps; where they overlap, the maximum counts (Section 3.2).

    Args:
        heatmap: (B, C, h, w) float32, dense in any memory format. It is changed.
        image_index, labels: (N,) int64, image and class of each object.
        cells: (N, 2) int64, x and y of the cell in which its Gaussian is 1; inside the map.
        spread: radii of the Gaussians. divisor: their standard deviations are (2 radius + 1) / divisor.

    Returns the heatmap. (The released code also zeroes values below the machine's epsilon. No value inside the window
    is that small.)
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


def penalty_spread(boxes: Tensor, input_size: Size, output_size: Size, penalty: PenaltyOptions) -> Spread:
    """The Gaussians of boxes (N, 4) in input pixels. Box sizes in cells are rounded up, radii are rounded down."""
    if penalty.kind == "object":
        (in_h, in_w), (out_h, out_w) = input_size, output_size
        width = ((boxes[:, 2] - boxes[:, 0]) * (out_w / in_w)).ceil().long().clamp(0, out_w)
        height = ((boxes[:, 3] - boxes[:, 1]) * (out_h / in_h)).ceil().long().clamp(0, out_h)
        radii, limit = _radius_table(tuple(output_size), penalty.overlap, penalty.rule, boxes.device)
        cut = radii[height, width]
        return Spread(cut, cut.double(), limit)
    radius = {"fixed": penalty.radius, "none": 0.0}[penalty.kind]
    radii = torch.full_like(boxes[:, 0], radius)
    limit = min(int(radius), max(output_size))  # a wider window reaches no further cell
    return Spread(radii.long().clamp(max=limit), radii, limit)


@lru_cache
def _radius_table(size: Size, overlap: float, rule: str, device: torch.device) -> tuple[Tensor, int]:
    """Radii (h + 1, w + 1) int64, rounded down, for box heights 0..h and widths 0..w in cells, and the largest
    radius."""
    radii = gaussian_radius(*np.indices((size[0] + 1, size[1] + 1)), overlap, rule).clamp(min=0).long()
    return radii.to(device), int(radii.max())


def box_targets(
    keypoints: Sequence[str],
    objects: BatchObjects,
    grid: Grid,
    penalty: PenaltyOptions,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> dict[str, KeypointTargets]:
    """Targets of each kind of keypoint, on the device of the boxes. No value is copied from the device, so the CPU does
    not wait.

    Args:
        keypoints: names in PLACES.
        memory_format: of the heatmaps. The network's own is best, since the loss compares the two.
    """
    (in_h, in_w), (height, width) = grid.input_size, grid.output_size
    spread = penalty_spread(objects.boxes, grid.input_size, grid.output_size, penalty)
    shape, device = (grid.images, grid.classes, height, width), objects.boxes.device
    targets = {}
    for name in keypoints:
        place = PLACES[name]
        points = place.locate(objects.boxes)
        exact = torch.stack([points[:, 0] * (width / in_w), points[:, 1] * (height / in_h)], 1)
        x, y = (exact[:, axis].long().clamp(0, limit - 1) for axis, limit in ((0, width), (1, height)))
        cells = torch.stack([x, y], 1)
        heatmap = torch.empty(shape, device=device, memory_format=memory_format).zero_()
        draw_gaussians(heatmap, objects.image_index, objects.labels, cells, spread, place.divisor(penalty))
        targets[name] = KeypointTargets(heatmap, y * width + x, exact - cells)
    return targets
