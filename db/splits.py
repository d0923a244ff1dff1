"""Options of the data: the config's `data:` section."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field, NonNegativeInt

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
    input_size: tuple[Annotated[int, Field(ge=16)], Annotated[int, Field(ge=16)]] = (511, 511)
    """[height, width] of the training images in pixels."""
    train: Split = field(default_factory=lambda: Split(("train2017",), ("annotations/instances_train2017.json",)))
    """Split to train on."""
    val: Split = field(default_factory=lambda: Split(("val2017",), ("annotations/instances_val2017.json",)))
    """Split to validate on."""
    test: Split | None = field(
        default_factory=lambda: Split(("test2017",), ("annotations/image_info_test-dev2017.json",))
    )
    """Split without annotations, whose detections go to COCO's evaluation server. null: none."""
