"""From an image to its detections (CornerNet, Section 4.2): scales, mirror, network, decoding, merging."""

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from external.soft_nms import soft_nms, soft_nms_merge
from models.cornernet import CORNERS, KeypointMaps, Predictions
from models.decode import Detections, decode_corners
from models.hourglass import feature_size
from nnet.pictures import draw_heatmap
from nnet.precision import Precision, layout
from nnet.truth import true_maps
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
    score_threshold: float = 0.05
    centers: int = 70
    center_match: str = "first"
    center_scales: str = "one"
    outside: float = 0.0
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
    channels_last: bool = False
    precision: str = "float32"


class Placement(NamedTuple):
    """How an image lies on the canvas that the network sees; (height, width) or (y, x), in pixels.

    canvas: size of the canvas. border: where the resized image begins on it. size: of the resized image.
    scale: pixels of the resized image per pixel of the image.
    """

    canvas: tuple[int, int]
    border: tuple[float, float]
    size: tuple[float, float]
    scale: tuple[float, float]


# What is annotated in an image: boxes (n, 4) x1, y1, x2, y2 in pixels, labels (n,).
Truth = tuple[np.ndarray, np.ndarray]


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


def on_image(points: np.ndarray, placement: Placement) -> np.ndarray:
    """x, y in cells, of the image and, if B is 2, of its mirror image: (B, n, 2) -> (B * n, 2) in pixels of the resized
    image."""
    cells = feature_size(placement.canvas)
    points = points.copy()
    if len(points) == 2:
        points[1, :, 0] = cells[1] - points[1, :, 0]
    for axis, column in ((1, 0), (0, 1)):
        points[..., column] /= cells[axis] / placement.canvas[axis]
        points[..., column] -= placement.border[axis]
    return points.reshape(-1, 2)


def to_canvas(boxes: np.ndarray, placement: Placement) -> np.ndarray:
    """Boxes (n, 4) x1, y1, x2, y2 in pixels of the image, in pixels of the canvas."""
    scale, border = placement.scale[::-1], placement.border[::-1]
    return boxes * np.tile(scale, 2) + np.tile(border, 2)


def to_image(rows: np.ndarray, placement: Placement, outside: float = 0.0) -> np.ndarray:
    """Rows of boxes in cells, of the image and, if B is 2, of its mirror image, as rows of boxes in the image's pixels.

    rows: (B, n, 8). Returns (B * n, 8), clipped to the image (to the resized image, before its scale is undone). With
    `outside` (pixels of the resized image), boxes that reach as far outside are rejected.
    """
    first, last = on_image(rows[..., :2], placement), on_image(rows[..., 2:4], placement)
    mirrored = slice(rows.shape[1], None)  # right and left have changed places
    first[mirrored, 0], last[mirrored, 0] = last[mirrored, 0], first[mirrored, 0].copy()
    height, width = placement.size
    rows = rows.reshape(-1, rows.shape[-1]).copy()
    rows[:, :4] = np.concatenate([first, last], 1)
    if outside:
        far = (rows[:, :2] <= -outside).any(1) | (rows[:, 2] >= width + outside) | (rows[:, 3] >= height + outside)
        rows[far, 4] = REJECTED
    rows[:, :4] = rows[:, :4].clip(0, np.array([width, height] * 2, rows.dtype))
    rows[:, :4] /= np.array([placement.scale[1], placement.scale[0]] * 2, rows.dtype)
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
    boxes, labels = rows[:, :7], rows[:, 7].astype(np.int64)
    if settings.merge:
        found = soft_nms_merge(boxes, labels, exponent=settings.merge_exponent, **options)
    else:
        found = soft_nms(boxes, labels, **options)
    rows, labels = found.boxes, found.labels
    if not settings.as_published:
        rows, labels = rows[found.kept], labels[found.kept]
    if len(rows) > settings.detections:
        last = np.partition(rows[:, 4], -settings.detections)[-settings.detections]
        best = rows[:, 4] >= last
        rows, labels = rows[best], labels[best]
    return Found(rows[:, :4], rows[:, 4], labels)


class Detector:
    """A network together with how it is tested. Call it with an image.

    seconds: time spent so far on parts of the work: "load" (reading, resizing), "network", "decode", "nms".
    """

    def __init__(
        self,
        network: nn.Module,
        settings: DetectSettings,
        input_size: tuple[int, int],
        device: torch.device,
        truth: Collection[str] = (),
    ):
        """input_size: (height, width) of training, used by `resize: fit` alone.

        truth: what is taken from the annotation in place of the prediction: names in nnet.truth.
        """
        self.network = network.to(device).eval()
        self.settings = settings
        self.input_size = tuple(input_size)
        self.device = device
        self.autocast = Precision(settings.precision, device).autocast
        self.truth = frozenset(truth)
        self.seconds: Counter[str] = Counter()

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
        with self.timed("network"):
            images = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)
            images = images.contiguous(memory_format=layout(self.settings.channels_last)).to(self.device)
            with self.autocast():
                return self.network(normalise(images))[-1]

    def decode(self, maps: Predictions) -> np.ndarray:
        """Rows (B, n, 8) of the best pairs, in cells."""
        s = self.settings
        found = decode_corners(
            maps["top_left"], maps["bottom_right"], s.corners, s.pairs, s.nms_kernel, s.embedding_distance
        )
        rows = detection_rows(found)
        if "heatmaps" in self.truth:  # cells without a corner, which fill up the best ones, make no boxes
            rows[(rows[..., 5:7] == 0).any(-1), 4] = REJECTED
        return rows

    def maps(self, image: np.ndarray, scale: float, truth: Truth | None = None) -> tuple[Placement, Predictions]:
        """How an image lies on the canvas at a scale, and what the network makes of it, or what is true.

        ValueError where something is to be taken from the annotation and there is no `truth`.
        """
        if self.truth and truth is None:
            raise ValueError(f"{', '.join(sorted(self.truth))} in place of predictions: needs the image's annotations")
        with self.timed("load"):
            canvas, placement = self.place(image, scale)
        maps = self.predict(canvas)
        if self.truth:
            boxes, labels = truth
            maps = true_maps(maps, to_canvas(boxes, placement), labels, placement.canvas, self.truth)
        return placement, maps

    def views(self, image: np.ndarray, truth: Truth | None = None) -> Iterator[tuple[float, Placement, Predictions]]:
        """The scales, and as of `maps`."""
        for scale in self.settings.scales:
            yield scale, *self.maps(image, scale, truth)

    def pairs(self, maps: Predictions, placement: Placement) -> np.ndarray:
        """Rows (n, 8) of the best pairs of corners, in pixels of the image."""
        with self.timed("decode"):
            return to_image(self.decode(maps), placement, self.settings.outside)

    def proposals(self, image: np.ndarray, truth: Truth | None = None) -> np.ndarray:
        """Rows (n, 8) of boxes in pixels of the image, of all scales and both views."""
        return np.concatenate([self.pairs(maps, placement) for _, placement, maps in self.views(image, truth)])

    def __call__(self, image: np.ndarray, truth: Truth | None = None) -> Found:
        """Detections of an image (H, W, 3) uint8 BGR, H and W of at least 1.

        truth: the image's annotations, for an analysis that puts them in place of predictions.
        """
        rows = self.proposals(image, truth)
        with self.timed("nms"):
            return suppress(rows, self.settings)

    def heatmaps(self, image: np.ndarray, truth: Truth | None = None) -> dict[str, np.ndarray]:
        """By kind of keypoint, the scores 0..1 of the best class at each pixel of the image: (H, W) float32."""
        placement, maps = self.maps(image, 1.0, truth)
        return {name: heatmap_on_image(m, placement, image.shape[:2]) for name, m in maps.items()}

    def pictures(self, image: np.ndarray, names: Sequence[str], truth: Truth | None = None) -> dict[str, np.ndarray]:
        """By title, pictures (H, W, 3) uint8 BGR of how the detections of an image come about. names: of classes."""
        return self.heatmap_pictures(image, self.heatmaps(image, truth))

    @staticmethod
    def heatmap_pictures(image: np.ndarray, heatmaps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The heatmaps over the image, by title."""
        return {
            f"{name.replace('_', '-')} {'corners' if name in CORNERS else 'keypoints'}": draw_heatmap(image, heatmap)
            for name, heatmap in heatmaps.items()
        }

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time within to `seconds`; waits for the GPU, so that each part has its own time."""
        begun = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[part] += time.perf_counter() - begun


def heatmap_on_image(maps: KeypointMaps, placement: Placement, size: tuple[int, int]) -> np.ndarray:
    """Scores of the best class over an image of this (height, width): (H, W) float32 in 0..1."""
    return scores_on_image(best_class(maps.heatmap[0]).cpu().numpy(), placement, size)


def scores_on_image(scores: np.ndarray, placement: Placement, size: tuple[int, int]) -> np.ndarray:
    """Scores (h, w) of the canvas's cells over an image of this (height, width): (H, W) float32."""
    canvas = cv2.resize(scores, placement.canvas[::-1])
    top, left = (round(b) for b in placement.border)
    height, width = (max(1, round(n)) for n in placement.size)
    return cv2.resize(canvas[top : top + height, left : left + width], size[::-1])


def best_class(logits: Tensor) -> Tensor:
    """(classes, h, w) logits -> (h, w) scores."""
    return logits.float().sigmoid().amax(0)
