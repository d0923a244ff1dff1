"""Writes a data set of another format as COCO annotation files, and the config's `data:` section for them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from tqdm import tqdm

from ..coco import load_index
from ..errors import DataError
from ..files import write_text
from ..images import UnreadableImage, read_image
from ..index import AnnotationIndex
from .base import Picture, Source, list_of


class Converted(NamedTuple):
    """A split that was written."""

    name: str  # train or val
    folder: Path  # of its images
    path: Path  # of its annotation file
    index: AnnotationIndex  # as training reads it
    unreadable: list[str]  # messages about images that were left out


def convert(
    source: Source, output: Path, train: str | None, val: str | None, hold_out: float | None = None
) -> list[Converted]:
    """Write instances_train.json and instances_val.json into the folder `output`, and check them.

    Args:
        train, val: names of the splits. None: those with the usual names.
        hold_out: the fraction of the training images that make the validation split, drawn at random, the same in every
            run. None: the data has a validation split.

    Raises:
        DataError: a split is missing, or an annotation cannot be used.
    """
    categories = source.categories()
    if not categories:
        raise DataError(f"{source.root}: there are no objects in any annotation.")
    output.mkdir(parents=True, exist_ok=True)
    first_image = first_box = 1
    written = []
    for name, (folder, pictures) in choose(source, train, val, hold_out).items():
        content, unreadable = collect(name, folder, pictures, categories, first_image, first_box)
        first_image, first_box = first_image + len(content["images"]), first_box + len(content["annotations"])
        path = output / f"instances_{name}.json"
        write_text(path, json.dumps(content))
        written.append(Converted(name, folder, path, load_index(path, folder), unreadable))
    return written


def choose(
    source: Source, train: str | None, val: str | None, hold_out: float | None
) -> dict[str, tuple[Path, list[Picture]]]:
    """The image folder and the images of the training and the validation split."""
    splits = {"train": source.find_split("train", train), "val": source.find_split("val", val)}
    if hold_out is None:
        for name, split in splits.items():
            if split is None:
                raise DataError(
                    f"{source.root}: there is no split {name}; {list_of(source.splits())}. Name one with --{name}, or "
                    "divide the training images with --hold-out 0.2."
                )
        return {name: source.read(split) for name, split in splits.items()}
    folder, pictures = source.read(splits["train"])
    count = round(hold_out * len(pictures))
    if not 0 < count < len(pictures):
        raise DataError(f"{folder}: --hold-out {hold_out:g} of {len(pictures)} images leaves a split without images.")
    held = set(np.random.default_rng(0).permutation(len(pictures))[:count].tolist())
    parts = [[p for i, p in enumerate(pictures) if (i in held) == inside] for inside in (False, True)]
    return {"train": (folder, parts[0]), "val": (folder, parts[1])}


def collect(
    name: str, folder: Path, pictures: Iterable[Picture], categories: list[str], first_image: int, first_box: int
) -> tuple[dict[str, Any], list[str]]:
    """The content of an annotation file, and messages about images that cannot be read, which are left out.

    Ids count from first_image and first_box, so that the ids of all splits differ.
    """
    images, annotations, unreadable = [], [], []
    for picture in tqdm(pictures, desc=name, unit="image", disable=None):
        try:
            height, width = read_image(folder / picture.file_name, picture.size).shape[:2]
        except UnreadableImage as error:
            unreadable.append(str(error))
            continue
        image_id = first_image + len(images)
        images.append({"id": image_id, "file_name": picture.file_name, "height": height, "width": width})
        for box in picture.boxes((height, width)):
            annotations.append(
                {
                    "id": first_box + len(annotations),
                    "image_id": image_id,
                    "category_id": box.category + 1,
                    "bbox": [round(value, 3) for value in box.bbox],
                    "area": round(box.bbox[2] * box.bbox[3], 3),
                    "iscrowd": int(box.crowd),
                    **({"segmentation": [[round(v, 3) for v in box.polygon]]} if box.polygon else {}),
                }
            )
    if unreadable and not images:
        raise DataError(f"none of the {len(unreadable)} images of the split {name} can be read: {unreadable[0]}.")
    names = [{"id": i, "name": category} for i, category in enumerate(categories, 1)]
    return {"images": images, "annotations": annotations, "categories": names}, unreadable


def data_section(root: Path, written: list[Converted]) -> str:
    """The config's `data:` section, in YAML."""
    section: dict[str, Any] = {"root": str(root)}
    for split in written:
        folder, path = os.path.relpath(split.folder, root), os.path.relpath(split.path, root)
        section[split.name] = {"images": [folder], "annotations": [path]}
    return yaml.safe_dump({"data": section | {"test": None}}, sort_keys=False, allow_unicode=True)
