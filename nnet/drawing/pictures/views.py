"""Where the network looked: the parts of an image that it saw, and what it found in each of them."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np

from nnet.detection.detector import Detector
from nnet.drawing.boxes import class_colour, draw_boxes
from nnet.drawing.images import WHITE, side_by_side
from nnet.drawing.pictures.base import CYAN, GREEN, MAGENTA, ORANGE, YELLOW, Picture, Shown, in_a_row
from nnet.families.base import View
from nnet.families.options import SHOWN_SCORE
from nnet.families.placement import to_canvas

COLOURS = (ORANGE, CYAN, MAGENTA, YELLOW, GREEN)  # of the views by title, in the order in which titles occur
THUMBNAIL = 200  # pixels: longer side of a view on the sheet


class Views(Picture):
    """The outlines of all views on the image, and the views themselves with their boxes."""

    name = "views"
    needs_objects = False

    def draw(self, shown: Shown, detector: Detector) -> np.ndarray:
        # Without their maps, of which there may be too many to keep
        views = [view._replace(maps=None) for view in detector.views(shown.image, shown.objects)]
        titles = Counter(view.title or f"scale {view.scale:g}" for view in views)
        colours = dict(zip(titles, COLOURS * len(titles), strict=False))
        own = [colours[view.title or f"scale {view.scale:g}"] for view in views]
        count = ", ".join(f"{title}: {n}" for title, n in titles.items())
        numbers = [str(number) for number in range(1, len(views) + 1)]
        outlines = draw_boxes(shown.image, np.array([outline(view) for view in views]), numbers, own)
        return in_a_row({f"looked at ({count})": outlines, "seen there": sheet(shown, views)})


def outline(view: View) -> np.ndarray:
    """The canvas of a view in the image: x1, y1, x2, y2 in pixels (4,)."""
    border, size = (np.array(pair[::-1], np.float64) for pair in (view.placement.border, view.placement.canvas))
    return np.concatenate([-border, size - border]) / np.tile(view.placement.scale[::-1], 2)


def sheet(shown: Shown, views: list[View]) -> np.ndarray:
    """The views with their boxes, under their numbers and scales, in rows."""
    pictures = [draw_view(shown, view) for view in views]
    titles = [f"{n} {view.title} x{view.scale:.2g}" for n, view in enumerate(views, 1)]
    columns = max(1, round(len(views) ** 0.5))
    rows = [
        side_by_side(pictures[at : at + columns], titles[at : at + columns]) for at in range(0, len(views), columns)
    ]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0)), constant_values=WHITE[0]) for r in rows]
    return np.vstack(padded)


def draw_view(shown: Shown, view: View) -> np.ndarray:
    """What the network saw, with the boxes that it found there: (h, w, 3), the longer side THUMBNAIL pixels."""
    placement = view.placement
    shrink = THUMBNAIL / max(placement.canvas)
    y, x = ((0.5 * s + b) * shrink - 0.5 for s, b in zip(placement.scale, placement.border, strict=True))  # of pixel 0
    matrix = np.array([[placement.scale[1] * shrink, 0, x], [0, placement.scale[0] * shrink, y]])
    height, width = (max(1, round(n * shrink)) for n in placement.canvas)
    picture = cv2.warpAffine(shown.image, matrix, (width, height))
    if view.found is None:
        return picture
    found = view.found.take(view.found.scores >= SHOWN_SCORE)
    texts = [f"{shown.names[k]} {score:.2f}" for k, score in zip(found.labels, found.scores, strict=True)]
    boxes, colours = to_canvas(found.boxes, placement) * shrink, [class_colour(int(k)) for k in found.labels]
    return draw_boxes(picture, boxes, texts, colours, enlarge=False)
