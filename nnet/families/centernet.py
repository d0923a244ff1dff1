"""Keypoint triplets: a pair of corners is an object if a center lies in its middle (CenterNet, Section 3.2)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from models.cornernet import KeypointMaps
from models.decode import decode_centers
from nnet.inference import REJECTED, Detector, Placement, Truth, on_image, suppress
from nnet.pictures import class_colour, draw_boxes, draw_regions
from nnet.truth import CENTERS

SHOWN = 0.3  # score from which on pictures show a box or a center
GREEN, RED = (80, 200, 60), (60, 60, 230)  # BGR
LARGE = 150**2  # pixels: the central region is a third of boxes up to this area, a fifth of larger ones


class Centers(NamedTuple):
    """Centers of objects in an image: points (m, 2) float32 x, y in pixels; labels (m,) class numbers; scores (m,)."""

    points: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


def central_regions(boxes: np.ndarray) -> np.ndarray:
    """The middle of boxes (n, 4) x1, y1, x2, y2 in pixels (equation 1): (n, 4).

    A third of the box (n = 3) for areas of up to 150^2 pixels, a fifth (n = 5) for larger ones.
    """
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    n = np.where(width * height <= LARGE, 3, 5).astype(boxes.dtype)[:, None]
    first, last = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([(n + 1) * first + (n - 1) * last, (n - 1) * first + (n + 1) * last], 1) / (2 * n)


def find_centers(rows: np.ndarray, centers: Centers, match: str = "first") -> np.ndarray:
    """For each of the boxes the number of the center of its class strictly inside its central region: (n,), or -1.

    rows: (n, 8) x1, y1, x2, y2, score, top-left score, bottom-right score, class; pixels.
    match: of several, "first" takes the first, "best" that of the highest score.
    """
    order = np.arange(len(centers.scores))
    if match == "best":
        order = np.argsort(-centers.scores, kind="stable")
    x, y = centers.points[order].T
    x1, y1, x2, y2 = central_regions(rows[:, :4]).T[:, :, None]
    inside = (x1 < x) & (x < x2) & (y1 < y) & (y < y2) & (rows[:, 7:] == centers.labels[order])  # (n, m)
    if not len(order):
        return np.full(len(rows), -1)
    return np.where(inside.any(1), order[inside.argmax(1)], -1)


def keep_triplets(rows: np.ndarray, centers: Centers, match: str = "first") -> np.ndarray:
    """The rows that have a center, with the mean score of the three keypoints, best first; as for `find_centers`.

    As released, they are sorted: soft-NMS goes by score anyway, but what it merges depends on the order of its rows.
    """
    found = find_centers(rows, centers, match)
    rows = rows[found >= 0]  # a copy
    rows[:, 4] = (rows[:, 4] * 2 + centers.scores[found[found >= 0]]) / 3
    return rows[np.argsort(-rows[:, 4], kind="stable")]


def center_rows(maps: KeypointMaps, k: int, kernel: int) -> np.ndarray:
    """(B, m, 4) float32: x and y of the k best centers in cells, class, score. The one copy to the host."""
    found = decode_centers(maps, k, kernel)
    return torch.stack([v.to(torch.float32) for v in (found.x, found.y, found.labels, found.scores)], 2).cpu().numpy()


def centers_to_image(points: np.ndarray, placement: Placement) -> Centers:
    """Rows (B, m, 4) of x, y in cells, class and score as the centers of an image, those of its mirror image last."""
    where = on_image(points[..., :2], placement) / np.array(placement.scale[::-1], points.dtype)
    label, score = points[..., 2:].reshape(-1, 2).T
    return Centers(where, label, score)


class TripletDetector(Detector):
    """A detector that keeps the pairs of corners with a center in their middle (CenterNet, Section 3.2).

    With "centers" in `truth`, these are the annotated ones in place of the predicted (its Table 5).
    """

    def candidates(self, image: np.ndarray, truth: Truth | None = None) -> tuple[np.ndarray, Centers]:
        """Rows (n, 8) of pairs of corners that are not rejected, of all scales and both views, and the centers.

        Centers are those found at the scale next to 1, or with `center_scales: all` at every scale.
        """
        s, rows, parts = self.settings, [], []
        for scale, placement, maps in self.views(image, truth):
            rows.append(self.pairs(maps, placement))
            if s.center_scales == "all" or scale == min(s.scales, key=lambda x: abs(math.log(x))):
                with self.timed("decode"):
                    parts.append(centers_to_image(center_rows(maps["center"], s.centers, s.nms_kernel), placement))
        rows, centers = np.concatenate(rows), Centers(*map(np.concatenate, zip(*parts, strict=True)))
        if CENTERS in self.truth:
            boxes, labels = truth
            centers = Centers((boxes[:, :2] + boxes[:, 2:]) / 2, labels, np.ones(len(labels), np.float32))
        return rows[rows[:, 4] > REJECTED], centers

    def proposals(self, image: np.ndarray, truth: Truth | None = None) -> np.ndarray:
        rows, centers = self.candidates(image, truth)
        with self.timed("decode"):
            return keep_triplets(rows, centers, self.settings.center_match)

    def pictures(self, image: np.ndarray, names: Sequence[str], truth: Truth | None = None) -> dict[str, np.ndarray]:
        """As of Detector, and what centers decide: green boxes had one of their class in their region, red ones none.

        Shown are boxes with a score of at least SHOWN, removed ones also after soft-NMS (which with merging may move a
        box a little); centers of such a score or that decide for a box that is shown, in the colours of their classes.
        """
        rows, centers = self.candidates(image, truth)
        match, strong = self.settings.center_match, centers.scores >= SHOWN
        groups = (rows[find_centers(rows, centers, match) < 0], RED), (keep_triplets(rows, centers, match), GREEN)
        boxes, texts, colours = [np.zeros((0, 4))], [], []
        for part, colour in groups:
            found = suppress(part, self.settings)
            shown = found.scores >= SHOWN
            boxes.append(found.boxes[shown])
            labels = found.labels[shown]
            texts += [f"{names[label]} {score:.2f}" for label, score in zip(labels, found.scores[shown], strict=True)]
            colours += [colour] * len(labels)
            kept = np.column_stack([found.boxes[shown], np.zeros((len(labels), 3)), labels])
            deciding = find_centers(kept, centers, match)
            strong[deciding[deciding >= 0]] = True
        boxes, heatmaps = np.concatenate(boxes), self.heatmaps(image, truth)
        crosses = centers.points[strong], [class_colour(int(label)) for label in centers.labels[strong]]
        regions = draw_regions(image, heatmaps.pop("center"), central_regions(boxes), colours, *crosses)
        judged = {"kept (green), removed by the center test (red)": draw_boxes(image, boxes, texts, colours)}
        return judged | self.heatmap_pictures(image, heatmaps) | {"center keypoints, central regions": regions}
