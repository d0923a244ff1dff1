"""Annotated images on disk and their metrics.

In reading order: errors, files, index, coco, formats, splits, inspection, images, results, matches,
evaluation; then toy, convert, segmentations, coco_categories.
"""

from .coco import load_index
from .coco_categories import COCO_CATEGORIES
from .errors import DataError
from .evaluation import FIGURES, Evaluation, evaluate, false_discovery
from .formats import READERS
from .images import UnreadableImage, read_image
from .index import AnnotationIndex, Objects
from .inspection import inspect_annotations
from .matches import ClassMatches, Matches
from .results import coco_results, results_name, submission_note, to_results, write_results
from .splits import DataOptions, Split, load_split, split_files

__all__ = [
    "COCO_CATEGORIES",
    "FIGURES",
    "READERS",
    "AnnotationIndex",
    "ClassMatches",
    "DataError",
    "DataOptions",
    "Evaluation",
    "Matches",
    "Objects",
    "Split",
    "UnreadableImage",
    "coco_results",
    "evaluate",
    "false_discovery",
    "inspect_annotations",
    "load_index",
    "load_split",
    "read_image",
    "results_name",
    "split_files",
    "submission_note",
    "to_results",
    "write_results",
]
