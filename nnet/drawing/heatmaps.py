"""Heatmaps, drawn over images, and the center keypoints and central regions on them.

Images are uint8 BGR (H, W, 3). No function changes its arguments. Small images are enlarged, except
with enlarge=False.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from nnet.drawing.boxes import BLACK, Colour, draw_boxes
from nnet.drawing.images import enlarged, enlarged_coordinates, enlargement


def draw_heatmap(image: np.ndarray, heatmap: np.ndarray, enlarge: bool = True) -> np.ndarray:
    """Draw a heatmap over the darkened image in grey: 0 is transparent, 1 is opaque bright yellow.

    Args:
        image: (H, W, 3).
        heatmap: float (h, w) of scores 0 to 1 over the whole image, at any resolution; or (C, h, w), of which the
            maximum over the classes is drawn. Values outside 0 to 1 are clipped, NaN is 0.
        enlarge: whether a small image is enlarged.

    Returns:
        A new image.
    """
    scores = np.asarray(heatmap, dtype=np.float32)
    scores = scores.max(axis=0) if scores.ndim == 3 else scores
    shown = enlarged(image) if enlarge else image
    height, width = shown.shape[:2]
    scores = cv2.resize(np.nan_to_num(scores).clip(0, 1), (width, height), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((255 * scores).round().astype(np.uint8), cv2.COLORMAP_INFERNO).astype(np.float32)
    grey = cv2.cvtColor(cv2.cvtColor(shown, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    opacity = np.sqrt(scores)[..., None]  # (H, W, 1)
    return (0.55 * grey * (1 - opacity) + colours * opacity).round().clip(0, 255).astype(np.uint8)


def draw_regions(
    image: np.ndarray,
    heatmap: np.ndarray,
    regions: np.ndarray,
    region_colours: Sequence[Colour],
    centers: np.ndarray,
    center_colours: Sequence[Colour],
) -> np.ndarray:
    """Draw central regions as rectangles and centers as crosses over the heatmap of centers.

    Args:
        image: (H, W, 3).
        heatmap: as for `draw_heatmap`.
        regions: (N, 4) x1, y1, x2, y2 in pixels of the image.
        region_colours: N colours.
        centers: (M, 2) x, y in pixels of the image.
        center_colours: M colours.

    Returns:
        A new image, enlarged if `image` is small.
    """
    factor = enlargement(image)
    rectangles = enlarged_coordinates(regions, factor, columns=4)
    picture = draw_boxes(draw_heatmap(image, heatmap), rectangles, [""] * len(regions), region_colours)
    points = enlarged_coordinates(centers, factor, columns=2).round().astype(int).tolist()
    for (x, y), colour in zip(points, center_colours, strict=True):
        for ink, line in ((BLACK, 3), (colour, 1)):  # a dark rim stands out on any background
            cv2.drawMarker(picture, (x, y), ink, cv2.MARKER_TILTED_CROSS, 12, line, cv2.LINE_AA)
    return picture
