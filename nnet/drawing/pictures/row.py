"""Ground truth, detections and how they come about, side by side (CornerNet, Figure 11)."""

from __future__ import annotations

import numpy as np

from models.keypoints import CORNERS, KINDS
from nnet.detection.detector import Detector
from nnet.detection.suppression import suppress
from nnet.drawing.boxes import class_colour, draw_boxes, draw_detections
from nnet.drawing.heatmaps import draw_heatmap, draw_regions
from nnet.drawing.pictures.base import GREEN, RED, Picture, Shown, draw_objects, in_a_row
from nnet.families.base import Evidence
from nnet.families.options import SHOWN_SCORE


class Row(Picture):
    """Ground truth, detections, the boxes that a family's own test kept and removed, and heatmaps."""

    name = "row"
    needs_objects = False

    def draw(self, shown: Shown, detector: Detector) -> np.ndarray:
        pictures = draw_objects(shown) | {"detections": draw_detections(shown.image, *shown.found, shown.names)}
        heatmaps = detector.heatmaps(shown.image, shown.objects)
        evidence = detector.family.evidence(detector.views(shown.image, shown.objects), detector.options)
        regions = {}
        if evidence:
            judged, regions = draw_evidence(shown, evidence, heatmaps.pop(evidence.keypoint), detector)
            pictures |= judged
        for name, heatmap in heatmaps.items():
            kind = " corners" if name in CORNERS else " keypoints" if name in KINDS else ""
            pictures[f"{name.replace('_', '-')}{kind}"] = draw_heatmap(shown.image, heatmap)
        return in_a_row(pictures | regions)


def draw_evidence(
    shown: Shown, evidence: Evidence, heatmap: np.ndarray, detector: Detector
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What centers decide: green boxes have a center of their class in their region, red ones have none.

    Drawn are boxes with a score of at least SHOWN_SCORE, removed ones also after soft-NMS (which moves boxes a little
    when it merges), and centers that have such a score or decide for a box that is drawn, in the colours of their
    classes.

    Returns:
        By title, the boxes, and the regions and centers over the heatmap of centers.
    """
    points, strong = evidence.points, evidence.points.scores >= SHOWN_SCORE
    boxes, texts, colours = [np.zeros((0, 4))], [], []
    for candidates, colour in ((evidence.removed, RED), (evidence.kept, GREEN)):
        found = suppress(candidates, detector.options)
        found = found.take(found.scores >= SHOWN_SCORE)
        boxes.append(found.boxes)
        texts += [f"{shown.names[k]} {score:.2f}" for k, score in zip(found.labels, found.scores, strict=True)]
        colours += [colour] * len(found.labels)
        deciding = evidence.deciding(found.boxes, found.labels)
        strong[deciding[deciding >= 0]] = True
    boxes = np.concatenate(boxes)
    crosses = points.points[strong], [class_colour(int(label)) for label in points.labels[strong]]
    regions = draw_regions(shown.image, heatmap, evidence.regions(boxes), colours, *crosses)
    judged = draw_boxes(shown.image, boxes, texts, colours)
    return {"kept (green), removed by the center test (red)": judged}, {"center keypoints, central regions": regions}
