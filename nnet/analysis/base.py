"""The interface of an analysis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from db import AnnotationIndex
from nnet.detection.detector import Detector
from nnet.detection.images import Detected
from sample.targets import PenaltyOptions


class Analysis(ABC):
    """Sees every image and its detections, and computes figures from what it has recorded.

    Attributes:
        name: its name for --analyses. key: name of its figures in metrics.json.
        needs_corners: whether it needs a network that predicts corners.
    """

    name: ClassVar[str]
    key: ClassVar[str]
    needs_corners: ClassVar[bool] = False

    def __init__(self, index: AnnotationIndex, detector: Detector, penalty: PenaltyOptions):
        """index: the annotated images. penalty: of the network's training."""
        self.index = index
        self.detector = detector
        self.penalty = penalty

    def see(self, detected: Detected) -> list[Any]:
        """Records of an image. The records of all images are gathered over the processes."""
        return []

    @abstractmethod
    def figures(self, records: list[Any], results: list[dict]) -> dict[str, Any]:
        """The figures, of plain values, from all records and all results (in COCO's format)."""
