"""Where detections come from and what goes wrong (CornerNet, Tables 3 and 6, Figure 9), beyond COCO's figures."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from db import CocoIndex, evaluate
from models.cornernet import CORNERS
from nnet.centers import Centers, center_rows, centers_to_image
from nnet.inference import Detector, Truth
from sample import Penalty, gaussian_radius

QUADRANTS = ("top_left_quadrant", "bottom_right_quadrant")
GROUPS = ((1, 4), (5, 9), (10, 19), (20, None))  # objects per image, ends included
SURE = 0.3  # score from which on a detection or a corner is one to be judged, as in the pictures
FALSE = 0.5  # a detection is false that has a smaller IoU with every object of its class
# What a detection can be.
KINDS = ("right", "wrong_pairing", "wrong_corner", "imprecise")


class Annotated(NamedTuple):
    """The objects of an image: boxes (n, 4) x1, y1, x2, y2 in pixels, labels (n,), crowd (n,) bool."""

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray

    @property
    def truth(self) -> Truth:
        """As a detector takes it."""
        return self.boxes, self.labels


def objects_of(index: CocoIndex, i: int) -> Annotated:
    """The objects of image i."""
    return Annotated(*index.annotations(i), index.crowd[index.first[i] : index.first[i + 1]])


def corner_radius(boxes: np.ndarray, penalty: Penalty) -> np.ndarray:
    """How far from a corner of boxes (n, 4) a predicted one is right, in the boxes' pixels: (n,).

    The object-dependent radius of Section 3.2, whatever the kind of penalty the network was trained with. It is not
    rounded down to whole cells, as in training, where small objects have a radius of 0.
    """
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return gaussian_radius(height, width, penalty.overlap, penalty.rule).clamp(min=0).numpy()


def find_corners(detector: Detector, image: np.ndarray, truth: Truth | None = None) -> dict[str, Centers]:
    """By kind, the best corners of an image at its own scale, in its pixels, offsets added.

    Not of its mirror image too: every corner once.
    """
    s, found = detector.settings, {}
    placement, maps = detector.maps(image, 1.0, truth)
    for kind in CORNERS:
        points, labels, scores = centers_to_image(center_rows(maps[kind], s.corners, s.nms_kernel)[:1], placement)
        there = scores > 0  # there may be fewer maxima than corners asked for
        found[kind] = Centers(points[there], labels[there].astype(np.int64), scores[there])
    return found


class CornerEval(COCOeval):
    """COCO's evaluation with closeness of points in place of the IoU of boxes.

    Truths and detections have `point`, truths also `radius`; a closeness of 0.5 or more is a distance of at most that.
    """

    def computeIoU(self, image: int, category: int) -> np.ndarray | list:
        truths, found = self._gts[image, category], self._dts[image, category]
        if not truths or not found:
            return []
        order = np.argsort([-corner["score"] for corner in found], kind="mergesort")[: self.params.maxDets[-1]]
        points = np.array([found[i]["point"] for i in order])
        distance = np.linalg.norm(points[:, None] - np.array([corner["point"] for corner in truths]), axis=-1)
        return 1 / (1 + distance / np.array([max(corner["radius"], 1e-6) for corner in truths]))


def corner_ap(
    index: CocoIndex, found: list[tuple[int, str, np.ndarray]], penalty: Penalty
) -> dict[str, dict[str, float | None]]:
    """AP of detecting corners, a mean over categories, by kind and by quadrant of the image (Table 3).

    A predicted corner is right when it is within `corner_radius` of an annotated corner of its class that none of a
    higher score has taken. In a quadrant the annotated corners in it count; those outside, and those of crowds, can be
    taken but are no gain, and a prediction is wrong when it takes none and lies in the quadrant itself. The rest is
    COCO's way of computing AP: 101 recalls, None where nothing is annotated.

    Args:
        found: (image's place in the index, kind, rows (m, 4) of x, y in pixels, class, score), of any length.

    Returns by kind of corner: "image" and each of QUADRANTS.
    """
    result = {}
    for kind, columns in (("top_left", slice(0, 2)), ("bottom_right", slice(2, 4))):
        truths, corners = [], []
        for i in range(len(index)):
            boxes, labels, crowd = objects_of(index, i)
            radii = corner_radius(boxes, penalty)
            for point, label, radius, many in zip(boxes[:, columns].tolist(), labels, radii, crowd, strict=True):
                entry = _corner(i, point, label, index.sizes[i]) | {"radius": float(radius), "iscrowd": int(many)}
                truths.append(entry)
        for i, which, rows in found:
            if which == kind:
                for x, y, label, score in rows.tolist():
                    corners.append(_corner(i, [x, y], label, index.sizes[i]) | {"score": score})
        result[kind] = _evaluate_corners(truths, corners, len(index), index.num_classes)
    return result


def _corner(image: int, point: list[float], label: float, size: np.ndarray) -> dict:
    """A corner for pycocotools; its "area" is the number of its quadrant in QUADRANTS, from 1, or 0."""
    right, below = point[0] >= size[1] / 2, point[1] >= size[0] / 2
    area = 0 if right != below else 2 if right else 1
    return {"image_id": image, "category_id": int(label), "point": point, "area": area}


def _evaluate_corners(truths: list[dict], found: list[dict], images: int, classes: int) -> dict[str, float | None]:
    sides = []
    for entries in (truths, found):
        side = COCO()
        side.dataset = {
            "images": [{"id": i} for i in range(images)],
            "categories": [{"id": k} for k in range(classes)],
            "annotations": [{"iscrowd": 0} | entry | {"id": i} for i, entry in enumerate(entries, 1)],
        }
        with redirect_stdout(io.StringIO()):
            side.createIndex()
        sides.append(side)
    evaluation = CornerEval(*sides, "bbox")
    params = evaluation.params
    params.iouThrs, params.maxDets = np.array([0.5]), [10**6]
    params.areaRng, params.areaRngLbl = [[-1, 9], [0.5, 1.5], [1.5, 2.5]], ["image", *QUADRANTS]
    with redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]  # (1, recalls, categories, areas, 1), -1 where nothing is annotated
    of_areas = {name: precision[:, :, :, k] for k, name in enumerate(params.areaRngLbl)}
    return {name: float(p[p > -1].mean()) if (p > -1).any() else None for name, p in of_areas.items()}


def ap_by_objects(index: CocoIndex, files: Sequence, results: list[dict]) -> dict[str, dict]:
    """AP and AP50 of the images with so many annotated objects, crowds not counted, and how many these are.

    Keys "1-4", "5-9", ...; results and files as for db.evaluate.
    """
    objects = np.array([(~objects_of(index, i).crowd).sum() for i in range(len(index))])
    groups = {}
    for low, high in GROUPS:
        chosen = (objects >= low) & (objects <= (high or np.inf))
        figures = evaluate(files, results, index.image_ids[chosen]) if chosen.any() else {}
        name = f"{low}-{high}" if high else f"{low}+"
        groups[name] = {"images": int(chosen.sum()), "AP": figures.get("AP"), "AP50": figures.get("AP50")}
    return groups


def overlaps(boxes: np.ndarray, truth: Annotated) -> np.ndarray:
    """IoU of boxes (n, 4) with objects: (n, m). With a crowd, as in COCO, the share of the box that lies in it."""
    first = np.maximum(boxes[:, None, :2], truth.boxes[:, :2])
    last = np.minimum(boxes[:, None, 2:], truth.boxes[:, 2:])
    both = (last - first).clip(0).prod(-1)
    own = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None]
    union = np.where(truth.crowd, own, own + (truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(-1) - both)
    return both / np.maximum(union, 1e-9)


def judge(boxes: np.ndarray, labels: np.ndarray, truth: Annotated, penalty: Penalty) -> np.ndarray:
    """What each detection is, by its number in KINDS: (n,).

    right: IoU of FALSE or more with an object of its class, be it the second on it. The others are false:
    wrong_pairing: both its corners, as the image or its mirror image has them, are right corners of its class
    (`corner_radius`), but of different objects; imprecise: of the same object, whose box it still misses;
    wrong_corner: not both are right, be it for the class alone.
    """
    same = labels[:, None] == truth.labels  # (n, m)
    right = (same & (overlaps(boxes, truth) >= FALSE)).any(1)
    radius = corner_radius(truth.boxes, penalty)
    # Pairs of the mirror image were made of what are the top-right and the bottom-left corners here
    one_object = both = np.zeros(len(boxes), bool)
    for corners in (([0, 1], [2, 3]), ([2, 1], [0, 3])):
        first, last = (
            same & (np.linalg.norm(boxes[:, None, part] - truth.boxes[:, part], axis=-1) <= radius) for part in corners
        )
        one_object, both = one_object | (first & last).any(1), both | (first.any(1) & last.any(1))
    names = np.select([right, one_object, both], ["right", "imprecise", "wrong_pairing"], "wrong_corner")
    return np.array([KINDS.index(name) for name in names], np.int64)


def error_shares(kinds: Sequence[int]) -> dict[str, float | int | None]:
    """Counts of detections by kind (Figure 9), and the share of each in the false ones."""
    counts = Counter(kinds)
    false = sum(counts[k] for k in range(1, len(KINDS)))
    figures = {"min_score": SURE, "detections": false + counts[0], "false": false}
    for k, name in enumerate(KINDS[1:], 1):
        figures |= {name: counts[k], f"{name}_share": counts[k] / false if false else None}
    return figures
