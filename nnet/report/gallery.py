"""The images of a page and their boxes: small pictures, layers of heatmaps, and the numbers that the page draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from db import UnreadableImage, read_image
from nnet.analysis.tide import KINDS
from nnet.detection.detector import Detector
from nnet.drawing.images import resized, write_image
from nnet.families.options import SHOWN_SCORE
from nnet.report.runs import Run
from nnet.runtime.console import progress_bar

SIDE = 400  # longest side of the pictures in pixels
LOWEST_SCORE = 0.05  # detections with a lower score are not on the page
BOX_KINDS = ("true_positive", *KINDS[:-1])  # of detections, as the page numbers them
THOUSAND = 1000  # scores are whole numbers on the page


def write_pictures(run: Run, folder: Path) -> list[list]:
    """Write the images in a small size. Returns of each: file name (empty if unreadable), name, width, height."""
    images = []
    for i in progress_bar(range(len(run.index)), desc="pictures", unit="image"):
        height, width = run.index.sizes[i].tolist()
        image_id, file = int(run.index.image_ids[i]), ""
        try:
            image = read_image(run.index.path(i), (height, width))
        except UnreadableImage:
            pass
        else:
            file = f"images/{image_id}.jpg"
            write_image(folder / file, small(image))
        name = Path(run.index.path(i)).name.encode(errors="replace").decode()  # it may not be UTF-8
        images.append([file, name, width, height])
    return images


def small(image: np.ndarray) -> np.ndarray:
    """The image, reduced to a longest side of SIDE pixels."""
    factor = SIDE / max(image.shape[:2])
    return image if factor >= 1 else resized(image, *(max(1, round(n * factor)) for n in image.shape[:2]))


def write_heatmaps(run: Run, detector: Detector, number: int, folder: Path, prefix: str) -> dict[int, dict[str, str]]:
    """Write the heatmaps of the images with the most errors: by position of the image, the files by kind of keypoint.

    They are bright on black: the page adds them to the picture.
    """
    files: dict[int, dict[str, str]] = {}
    if not detector.family.network.keypoints:
        return files
    worst = np.argsort(-count_errors(run), kind="stable")[:number].tolist()
    for i in progress_bar(worst, desc="heatmaps", unit="image"):
        try:
            image = read_image(run.index.path(i), tuple(run.index.sizes[i].tolist()))
        except UnreadableImage:
            continue
        for kind, scores in detector.heatmaps(image, run.index.objects(i)).items():
            files.setdefault(i, {})[kind] = f"heatmaps/{prefix}{int(run.index.image_ids[i])}_{kind}.jpg"
            levels = (255 * scores.clip(0, 1)).round().astype(np.uint8)
            coloured = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)
            write_image(folder / files[i][kind], small(coloured))
    return files


def count_errors(run: Run) -> np.ndarray:
    """The number of false positives and missed objects of each image, at a score of SHOWN_SCORE: (N,)."""
    false = [d.image for d in run.judged if d.kind != "true_positive" and not d.ignored and d.score >= SHOWN_SCORE]
    missed = ~run.index.crowd
    missed[[d.row for d in run.judged if d.kind == "true_positive" and d.score >= SHOWN_SCORE]] = False
    owners = np.repeat(np.arange(len(run.index)), np.diff(run.index.first))
    return np.bincount([*false, *owners[missed]], minlength=len(run.index))


def object_numbers(run: Run) -> list[list[int]]:
    """Of each image, x, y, width, height, class, and whether it is a crowd, of all objects in one list."""
    rows = np.column_stack([run.index.boxes[:, :2], run.index.extents, run.index.labels, run.index.crowd])
    rows = rows.round().astype(int)
    return [rows[start:end].ravel().tolist() for start, end in zip(run.index.first, run.index.first[1:], strict=False)]


def box_numbers(run: Run) -> dict[str, list[list[int]]]:
    """What a run has found in each image.

    Returns:
        boxes: x, y, width, height, score in thousandths, class and kind (of BOX_KINDS) of all detections in one list.
        found: of each object the score, in thousandths, of the detection that it is found by, -1 if there is none.
    """
    boxes: list[list[int]] = [[] for _ in range(len(run.index))]
    scores = np.full(len(run.index.boxes), -1)
    for d in run.judged:
        score = int(THOUSAND * d.score)  # rounded down, so that no detection is shown at a threshold above its score
        if d.kind == "true_positive":
            scores[d.row] = score
        if d.score >= LOWEST_SCORE and not d.ignored:
            box = [round(value) for value in run.results[d.detection]["bbox"]]
            boxes[d.image] += [*box, score, d.label, BOX_KINDS.index(d.kind)]
    first: Sequence[Any] = run.index.first.tolist()
    return {"boxes": boxes, "found": [scores[a:b].tolist() for a, b in zip(first, first[1:], strict=False)]}
