"""Options of the data (the config's `data:` section), and the index of a split that they describe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeInt

from .errors import DataError
from .formats import READERS
from .index import AnnotationIndex

Side = Annotated[int, Field(ge=16, json_schema_extra={"most": 16_384})]  # pixels
Paths = Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Split:
    """Images and annotations of one split."""

    images: Paths
    """Image folders, relative to data.root, searched in this order."""
    annotations: Paths
    """Annotation files, relative to data.root. Several are joined."""
    limit: NonNegativeInt = 0
    """Use the first images only, this many. 0: all."""


@dataclass(frozen=True)
class DataOptions:
    """Where the data is. The defaults are COCO in its layout of 2017."""

    root: str = "data/coco"
    """Folder of the data. Relative paths start at the working directory."""
    format: str = "coco"
    """Format of the annotation files: a name in db/formats.py."""
    input_size: tuple[Side, Side] = (511, 511)
    """[height, width] of the training images in pixels."""
    train: Split = field(default_factory=lambda: Split(("train2017",), ("annotations/instances_train2017.json",)))
    """Split to train on."""
    val: Split = field(default_factory=lambda: Split(("val2017",), ("annotations/instances_val2017.json",)))
    """Split to validate on."""
    test: Split | None = field(
        default_factory=lambda: Split(("test2017",), ("annotations/image_info_test-dev2017.json",))
    )
    """Split without annotations, whose detections go to COCO's evaluation server. null: none."""


def load_split(options: DataOptions, name: str, require_boxes: bool = True) -> AnnotationIndex:
    """The index of the split `name` (train, val or test), read by the reader of the options' format.

    Args:
        require_boxes: whether annotation files without boxes are an error.

    Raises:
        DataError: an unknown format, a split that is null, or data that the reader rejects.
    """
    reader = READERS.get(options.format)
    if reader is None:
        raise DataError(f"data.format is {options.format!r}, which is not a known format: {', '.join(READERS)}.")
    folders, files = split_files(options, name)
    return reader(files, folders, getattr(options, name).limit, require_boxes)


def split_files(options: DataOptions, name: str) -> tuple[list[Path], list[Path]]:
    """Image folders and annotation files of the split `name`. DataError if the split is null."""
    split = getattr(options, name)
    if split is None:
        raise DataError(f"data.{name} is null in this config: name its images and annotations.")
    return [Path(options.root, path) for path in split.images], [Path(options.root, path) for path in split.annotations]
