"""From annotated image to training batch."""

from db import UnreadableImage, read_image

from .augment import Augment, fit_image
from .colour import MEAN, STD, ColourDraw, normalise
from .loader import (
    Batch,
    MicroBatches,
    Sample,
    TrainingSet,
    Unreadable,
    make_loader,
    validation_batches,
)
from .targets import CORNERS, KeypointTargets, Penalty, box_targets, gaussian_radius

__all__ = [
    "CORNERS",
    "MEAN",
    "STD",
    "Augment",
    "Batch",
    "ColourDraw",
    "KeypointTargets",
    "MicroBatches",
    "Penalty",
    "Sample",
    "TrainingSet",
    "Unreadable",
    "UnreadableImage",
    "box_targets",
    "fit_image",
    "gaussian_radius",
    "make_loader",
    "normalise",
    "read_image",
    "validation_batches",
]
