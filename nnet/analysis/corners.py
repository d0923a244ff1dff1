"""AP of the detected corners, by quadrant of the image (CornerNet, Table 3)."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from db import AnnotationIndex
from models.keypoints import CORNERS
from nnet.analysis.base import Analysis
from nnet.detection.detector import Detector
from nnet.detection.images import Detected
from sample.targets import PLACES, PenaltyOptions, gaussian_radius

QUADRANTS = ("top_left_quadrant", "bottom_right_quadrant")


class Corners(Analysis):
    """Corners of the image at its own scale, without those of its mirror image."""

    name = "corners"
    key = "corner_AP"
    needs_corners = True

    def __init__(self, index: AnnotationIndex, detector: Detector, penalty: PenaltyOptions):
        super().__init__(index, detector, penalty)
        options = replace(detector.options, mirror=False)
        # A detector of its own, whose time does not count as time of the detection
        self.detector = Detector(detector.family, options, detector.input_size, detector.device, detector.truth)

    def see(self, detected: Detected) -> list[Any]:
        found = self.detector.corners(detected.image, self.index.objects(detected.position))
        return [(detected.position, kind, np.column_stack(points)) for kind, points in found.items()]

    def figures(self, records: list[Any], results: list[dict]) -> dict[str, dict[str, float | None]]:
        return corner_ap(self.index, records, self.penalty)


def corner_radius(boxes: np.ndarray, penalty: PenaltyOptions) -> np.ndarray:
    """Distance from a corner of boxes (n, 4) up to which a predicted corner is right, in the boxes' pixels: (n,).

    The object-dependent radius of Section 3.2, whatever the kind of penalty in training. Unlike in training, it is not
    rounded down to whole cells, which would make it 0 for small objects.
    """
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return gaussian_radius(height, width, penalty.overlap, penalty.rule).clamp(min=0).numpy()


class CornerEval(COCOeval):
    """COCO's evaluation with the closeness of points in place of the IoU of boxes.

    Annotated and detected corners have a `point`, annotated ones also a `radius`. A closeness of 0.5 or more is a
    distance of at most the radius.
    """

    def computeIoU(self, image: int, category: int) -> np.ndarray | list:
        annotated, found = self._gts[image, category], self._dts[image, category]
        if not annotated or not found:
            return []
        order = np.argsort([-corner["score"] for corner in found], kind="mergesort")[: self.params.maxDets[-1]]
        points = np.array([found[i]["point"] for i in order])
        distance = np.linalg.norm(points[:, None] - np.array([corner["point"] for corner in annotated]), axis=-1)
        return 1 / (1 + distance / np.array([max(corner["radius"], 1e-6) for corner in annotated]))


def corner_ap(
    index: AnnotationIndex, found: list[tuple[int, str, np.ndarray]], penalty: PenaltyOptions
) -> dict[str, dict[str, float | None]]:
    """AP of detecting corners, a mean over categories, by kind and by quadrant of the image (Table 3).

    A predicted corner is right when it is within `corner_radius` of an annotated corner of its class that no corner of
    a higher score is matched to. In a quadrant, the annotated corners inside it count. Those outside it, and those of
    crowds, can be matched but are no gain. A prediction is wrong when it has no match and lies in the quadrant. The
    rest is COCO's AP: 101 recall values, None where nothing is annotated.

    Args:
        found: (position of the image in the index, kind, rows (m, 4) of x, y in pixels, class, score).

    Returns:
        By kind of corner, the AP in the "image" and in each of QUADRANTS.
    """
    result = {}
    for kind in CORNERS:
        annotated, corners = [], []
        for i in range(len(index)):
            boxes, labels, crowd = index.objects(i)
            radii, points = corner_radius(boxes, penalty), PLACES[kind].locate(boxes)
            for point, label, radius, many in zip(points.tolist(), labels, radii, crowd, strict=True):
                entry = corner_entry(i, point, label, index.sizes[i])
                annotated.append(entry | {"radius": float(radius), "iscrowd": int(many)})
        for i, which, rows in found:
            if which == kind:
                for x, y, label, score in rows.tolist():
                    corners.append(corner_entry(i, [x, y], label, index.sizes[i]) | {"score": score})
        result[kind] = evaluate_corners(annotated, corners, len(index), index.num_classes)
    return result


def corner_entry(image: int, point: list[float], label: float, size: np.ndarray) -> dict:
    """A corner for pycocotools. Its "area" is the number of its quadrant in QUADRANTS, counted from 1, or 0."""
    right, below = point[0] >= size[1] / 2, point[1] >= size[0] / 2
    area = 0 if right != below else 2 if right else 1
    return {"image_id": image, "category_id": int(label), "point": point, "area": area}


def evaluate_corners(annotated: list[dict], found: list[dict], images: int, classes: int) -> dict[str, float | None]:
    """AP in the image and in each quadrant, of entries as of corner_entry."""
    sides = []
    for entries in (annotated, found):
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
