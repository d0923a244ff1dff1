"""Data on disk and its metrics: COCO index, toy data, result files, evaluation."""

from .coco import CocoIndex, load_index
from .errors import DataError
from .evaluation import FIGURES, Evaluation, GroundTruth, evaluate, false_discovery
from .images import UnreadableImage, read_image
from .results import results_name, submission_note, to_results, write_results

__all__ = [
    "FIGURES",
    "CocoIndex",
    "DataError",
    "Evaluation",
    "GroundTruth",
    "UnreadableImage",
    "evaluate",
    "false_discovery",
    "load_index",
    "read_image",
    "results_name",
    "submission_note",
    "to_results",
    "write_results",
]
