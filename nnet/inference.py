"""From an image to its detections (CornerNet, Section 4.2): scales, mirror, network, decoding, merging."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from external.soft_nms import soft_nms, soft_nms_merge
from models.cornernet import KeypointMaps, Predictions
from models.decode import Detections, decode_corners
from models.hourglass import feature_size
from sample.augment import fit_image, place
from sample.colour import normalise

REJECTED = -1  # score of a pair of corners that is no detection


class DetectSettings(NamedTuple):
    """How a network is tested; the defaults are the single-scale test of the paper. The fields are those of `test:`."""

    scales: Sequence[float] = (1.0,)
    mirror: bool = True
    resize: str = "original"
    corners: int = 100
    pairs: int = 1000
    nms_kernel: int = 3
    embedding_distance: float = 0.5
    nms: str = "gaussian"
    nms_sigma: float = 0.5
    nms_overlap: float = 0.5
    nms_floor: float = 0.001
    merge: bool = False
    merge_exponent: float = 10.0
    detections: int = 100
    as_published: bool = True


class Placement(NamedTuple):
    """How an image lies on the canvas that the network sees; (height, width) or (y, x), in pixels.

    canvas: size of the canvas. border: where the resized image begins on it. size: of the resized image.
    scale: pixels of the resized image per pixel of the image.
    """

    canvas: tuple[int, int]
    border: tuple[float, float]
    size: tuple[float, float]
    scale: tuple[float, float]


class Found(NamedTuple):
    """Detections of one image, by class and then as suppression leaves them.

    boxes: (n, 4) float32 x1, y1, x2, y2 in pixels. scores: (n,). labels: (n,) class numbers.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def place_original(height: int, width: int, scale: float, divisor: int = 128) -> Placement:
    """Placement of an image at `scale` times its own resolution, centred on zeros.

    The canvas is the next size that is a multiple of divisor, less one ("| 127" in the released code).
    """
    size = max(1, int(height * scale)), max(1, int(width * scale))
    canvas = tuple(n | (divisor - 1) for n in size)
    border = tuple(c // 2 - n // 2 for c, n in zip(canvas, size, strict=True))
    return Placement(canvas, border, size, (scale, scale))


def paste(image: np.ndarray, placement: Placement) -> np.ndarray:
    """The canvas of an image (H, W, 3) uint8 placed by place_original.

    As in the released code, whose sizes are halved by integer division, an image as high (wide) as the canvas loses its
    last row (column).
    """
    height, width = placement.size
    return place(cv2.resize(image, (width, height)), width // 2, height // 2, placement.canvas)[0]


def detection_rows(found: Detections) -> np.ndarray:
    """(B, n, 8) float32: x1, y1, x2, y2, score, top-left score, bottom-right score, class. The one copy to the host."""
    columns = [found.boxes, *(v[..., None] for v in (found.scores, found.tl_scores, found.br_scores, found.labels))]
    return torch.cat([v.to(torch.float32) for v in columns], 2).cpu().numpy()


def to_image(rows: np.ndarray, placement: Placement) -> np.ndarray:
    """Rows of boxes in cells, of the image and, if B is 2, of its mirror image, as rows of boxes in the image's pixels.

    rows: (B, n, 8). Returns (B * n, 8), clipped to the image (to the resized image, before its scale is undone).
    """
    rows = rows.copy()
    cells = feature_size(placement.canvas)
    if len(rows) == 2:
        rows[1, :, [0, 2]] = cells[1] - rows[1, :, [2, 0]]
    rows = rows.reshape(-1, rows.shape[-1])
    for axis, columns in ((1, slice(0, 4, 2)), (0, slice(1, 4, 2))):
        rows[:, columns] /= cells[axis] / placement.canvas[axis]
        rows[:, columns] -= placement.border[axis]
        np.clip(rows[:, columns], 0, placement.size[axis], out=rows[:, columns])
        rows[:, columns] /= placement.scale[axis]
    return rows


def suppress(rows: np.ndarray, settings: DetectSettings) -> Found:
    """Soft-NMS (or merging) in each class, then the best `settings.detections` over all classes, ties at the last kept.

    rows: (n, 8) as of to_image, of all scales. With `as_published`, the stale rows that the released suppression leaves
    behind its kept ones are kept too.
    """
    rows = rows[(rows[:, 4] > REJECTED) & np.isfinite(rows).all(1)]
    options = {
        "method": settings.nms,
        "sigma": settings.nms_sigma,
        "overlap": settings.nms_overlap,
        "floor": settings.nms_floor,
    }
    kept = [np.zeros((0, 8), np.float32)]
    for label in np.unique(rows[:, 7]):
        boxes = np.ascontiguousarray(rows[rows[:, 7] == label, :7], dtype=np.float32)
        if settings.merge:
            boxes, count = soft_nms_merge(boxes, exponent=settings.merge_exponent, **options)
        else:
            boxes, count = soft_nms(boxes, **options)
        boxes = boxes if settings.as_published else boxes[:count]
        kept.append(np.column_stack([boxes, np.full(len(boxes), label, np.float32)]))
    rows = np.concatenate(kept)
    if len(rows) > settings.detections:
        last = np.partition(rows[:, 4], -settings.detections)[-settings.detections]
        rows = rows[rows[:, 4] >= last]
    return Found(rows[:, :4], rows[:, 4], rows[:, 7].astype(np.int64))


class Detector:
    """A network together with how it is tested. Call it with an image."""

    def __init__(self, network: nn.Module, settings: DetectSettings, input_size: tuple[int, int], device: torch.device):
        """input_size: (height, width) of training, used by `resize: fit` alone."""
        self.network = network.to(device).eval()
        self.settings = settings
        self.input_size = tuple(input_size)
        self.device = device

    def place(self, image: np.ndarray, scale: float) -> tuple[np.ndarray, Placement]:
        """The canvas of an image (H, W, 3) uint8 BGR at a scale, and how the image lies on it."""
        if self.settings.resize == "original":
            placement = place_original(*image.shape[:2], scale, self.network.divisor)
            return paste(image, placement), placement
        canvas_size = tuple(max(1, round(n * scale)) for n in self.input_size)
        canvas, view = fit_image(image, canvas_size)
        ratio = view.ratio_y, view.ratio_x
        border = view.shift_y * ratio[0], view.shift_x * ratio[1]
        size = image.shape[0] * ratio[0], image.shape[1] * ratio[1]
        return canvas, Placement(canvas_size, border, size, ratio)

    @torch.inference_mode()
    def predict(self, canvas: np.ndarray) -> Predictions:
        """Maps of the last stack for a canvas (H, W, 3) and, when mirror is on, its mirror image: batch 1 or 2."""
        views = [canvas, canvas[:, ::-1]] if self.settings.mirror else [canvas]
        images = torch.from_numpy(np.stack(views).transpose(0, 3, 1, 2).copy()).to(self.device)
        return self.network(normalise(images))[-1]

    def decode(self, maps: Predictions) -> np.ndarray:
        """Rows (B, n, 8) of the best pairs, in cells."""
        s = self.settings
        found = decode_corners(
            maps["top_left"], maps["bottom_right"], s.corners, s.pairs, s.nms_kernel, s.embedding_distance
        )
        return detection_rows(found)

    def __call__(self, image: np.ndarray) -> Found:
        """Detections of an image (H, W, 3) uint8 BGR, H and W of at least 1."""
        rows = []
        for scale in self.settings.scales:
            canvas, placement = self.place(image, scale)
            rows.append(to_image(self.decode(self.predict(canvas)), placement))
        return suppress(np.concatenate(rows), self.settings)

    def heatmaps(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """By kind of keypoint, the scores 0..1 of the best class at each pixel of the image: (H, W) float32."""
        canvas, placement = self.place(image, 1.0)
        maps = self.predict(canvas)
        return {name: heatmap_on_image(m, placement, image.shape[:2]) for name, m in maps.items()}


def heatmap_on_image(maps: KeypointMaps, placement: Placement, size: tuple[int, int]) -> np.ndarray:
    """Scores of the best class over an image of this (height, width): (H, W) float32 in 0..1."""
    scores = best_class(maps.heatmap[0]).cpu().numpy()
    canvas = cv2.resize(scores, placement.canvas[::-1])
    top, left = (round(b) for b in placement.border)
    height, width = (max(1, round(n)) for n in placement.size)
    return cv2.resize(canvas[top : top + height, left : left + width], size[::-1])


def best_class(logits: Tensor) -> Tensor:
    """(classes, h, w) logits -> (h, w) scores."""
    return logits.float().sigmoid().amax(0)
