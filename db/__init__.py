"""Data on disk and its metrics: COCO index, toy data, result files, evaluation."""

from .coco import CocoIndex, load_index
from .errors import DataError
from .evaluation import FIGURES, Evaluation, evaluate
from .results import results_name, submission_note, to_results, write_results

__all__ = [
    "FIGURES",
    "CocoIndex",
    "DataError",
    "Evaluation",
    "evaluate",
    "load_index",
    "results_name",
    "submission_note",
    "to_results",
    "write_results",
]
