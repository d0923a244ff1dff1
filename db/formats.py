"""The annotation formats that a config can name as `data.format`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .coco import load_index
from .index import AnnotationIndex

Reader = Callable[[list[Path], list[Path], int, bool], AnnotationIndex]
"""(annotation files, image folders, limit, require_boxes) -> index.

The reader merges the files, and finds each image in one of the folders. With `limit` above 0 it keeps only that many
images, the first by id. With `require_boxes` false, files without boxes are allowed. It raises DataError, naming the
file and the entry, for data that cannot be used. `AnnotationIndex.build` sorts images and boxes.
"""

READERS: dict[str, Reader] = {"coco": load_index}
