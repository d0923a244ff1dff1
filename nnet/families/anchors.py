"""Testing a network with anchors: the counterpart of Detector."""

import numpy as np

from models.anchors import AnchorPredictions, decode_anchors
from models.hourglass import feature_size
from nnet.inference import Detector, Placement, Truth, detection_rows, to_image


class AnchorDetector(Detector):
    """As Detector. Boxes of all levels, scales and views are joined before they suppress one another."""

    def pairs(self, maps: AnchorPredictions, placement: Placement) -> np.ndarray:
        """Rows (n, 8) of the best boxes, in pixels of the image; a box's score takes the place of its corners'."""
        s = self.settings
        with self.timed("decode"):
            rows = detection_rows(decode_anchors(maps, placement.canvas, s.pairs, s.score_threshold))
            height, width = (c / n for c, n in zip(feature_size(placement.canvas), placement.canvas, strict=True))
            rows[..., :4] *= np.array([width, height] * 2, rows.dtype)  # in cells, as to_image takes them
            return to_image(rows, placement, s.outside)

    def heatmaps(self, image: np.ndarray, truth: Truth | None = None) -> dict[str, np.ndarray]:
        """None: anchors have no heatmaps."""
        return {}
