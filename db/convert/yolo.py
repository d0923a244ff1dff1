"""YOLO's format: a data.yaml that names classes and splits, and beside each image a text file of its objects.

A line of a text file is `class x y width height`, with the center and the size of the box as fractions of the image's,
or `class x y x y x y ...`, a polygon. The text file of .../images/a.jpg is .../labels/a.txt; that of an image in
another folder is a.txt beside it. An image without one has no objects.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from ..errors import DataError
from ..files import read_bytes
from .base import IMAGE_ENDINGS, Box, Picture, Source, natural, read_lines

OUTSIDE = 0.01  # how far a coordinate may lie outside 0..1: rounding


class YOLO(Source):
    """A data set in YOLO's format. path: of data.yaml, or of the folder that holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path / "data.yaml" if path.is_dir() else path
        self.content = read_yaml(self.path)
        self.root = self.path.parent
        given = self.content.get("path")
        if isinstance(given, str) and not (self.root / given).is_dir():
            given = None  # written on another machine; the splits usually lie beside the file
        self.base = self.root / given if isinstance(given, str) else self.root
        self.names = self.read_names()
        self.without = 0  # images that have no text file

    def read_names(self) -> list[str]:
        """The names of the classes, which the file gives as a list or by number."""
        names = self.content.get("names")
        if isinstance(names, dict):
            if sorted(names, key=str) != sorted(range(len(names)), key=str):
                raise DataError(f"{self.path}: the numbers of `names` must be 0 to {len(names) - 1}, without gaps.")
            names = [names[i] for i in range(len(names))]
        if not isinstance(names, list) or not names:
            raise DataError(f"{self.path}: `names` must list the classes, as [cat, dog] or {{0: cat, 1: dog}}.")
        count = self.content.get("nc", len(names))
        if count != len(names):
            raise DataError(f"{self.path}: `nc` is {count}, but `names` has {len(names)} classes. Correct one of them.")
        return [str(name) for name in names]

    def splits(self) -> list[str]:
        return [name for name in ("train", "val", "valid", "test") if self.content.get(name)]

    def categories(self) -> list[str]:
        return self.names

    def read(self, split: str | None) -> tuple[Path, list[Picture]]:
        entries = self.content.get(split) if split else None
        if not entries:
            raise DataError(f"{self.path}: there is no `train`. Name a folder of images, or a list of them, there.")
        entries = entries if isinstance(entries, list) else [entries]
        places = [self.locate(str(entry)) for entry in entries]
        paths = [path for place in places for path in images_of(place)]
        if not paths:
            raise DataError(f"{', '.join(map(str, places))}: there are no images of the split {split}.")
        labels = {path: label_file(path) for path in paths}
        missing = [label for label in labels.values() if not label.is_file()]
        if len(missing) == len(paths):
            raise DataError(
                f"{missing[0]}: no such file, and none of the {len(paths)} images of the split {split} has one. Labels "
                "of .../images/a.jpg lie in .../labels/a.txt, others beside the image."
            )
        self.without += len(missing)
        folder = places[0] if len(places) == 1 and places[0].is_dir() else self.root
        return folder, [
            Picture(os.path.relpath(path, folder), None, lambda size, label=label: self.boxes(label, size))
            for path, label in labels.items()
        ]

    def locate(self, entry: str) -> Path:
        """The folder or list of images that data.yaml names."""
        inside = entry
        while inside.startswith("../"):  # some tools write ../train/images where train lies beside the file
            inside = inside[3:]
        for path in (self.base / entry, self.root / entry, self.root / inside):
            if path.exists():
                return path
        raise DataError(f"{self.base / entry}: no such folder or list of images. {self.path} names it.")

    def boxes(self, path: Path, size: tuple[int, int]) -> list[Box]:
        """The objects of a text file, for an image of this (height, width)."""
        lines = read_lines(path) if path.is_file() else []
        return [self.box(f"{path}: line {i}", line, size) for i, line in enumerate(lines, 1)]

    def box(self, where: str, line: str, size: tuple[int, int]) -> Box:
        """The object of a line. where: for messages."""
        try:
            number, *values = map(float, line.split())
        except ValueError:
            raise DataError(f"{where}: {line[:60]!r}: expected numbers: class x y width height.") from None
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise DataError(
                f"{where}: {1 + len(values)} numbers; expected 5 (class x y width height), or a class and the points "
                "of a polygon."
            )
        if number not in range(len(self.names)):
            last = len(self.names) - 1
            raise DataError(f"{where}: class {number:g} is not one of {self.path}, whose `names` are 0 to {last}.")
        if not all(-OUTSIDE <= value <= 1 + OUTSIDE for value in values):
            raise DataError(f"{where}: {line[:60]!r}: coordinates must be fractions of the image's size, 0 to 1.")
        height, width = size
        points = [value * (height if i % 2 else width) for i, value in enumerate(values)]
        if len(values) == 4:
            x, y, w, h = points
            if w < 0 or h < 0:
                raise DataError(f"{where}: {line[:60]!r}: the box has a negative width or height.")
            return Box(int(number), [x - w / 2, y - h / 2, w, h])
        x, y = points[::2], points[1::2]
        return Box(int(number), [min(x), min(y), max(x) - min(x), max(y) - min(y)], polygon=points)

    def notes(self) -> list[str]:
        return [f"{self.without} images have no text file, and so no objects"] if self.without else []


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises DataError."""
    try:
        content = yaml.safe_load(read_bytes(path).decode("utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file. Name the data.yaml that lists the classes (names) and the images (train, val)."
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    except Exception as error:  # PyYAML raises many kinds for values that its tags do not allow
        raise DataError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a data.yaml: expected a mapping with names, train and val.")
    return content


def images_of(place: Path) -> list[Path]:
    """The images in a folder and its sub-folders, or of a list with one path per line."""
    if place.is_dir():
        return sorted((path for path in place.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS), key=natural)
    return [place.parent / line for line in read_lines(place)]


def label_file(image: Path) -> Path:
    """The text file of an image: `labels` in place of the last `images` of its path."""
    parts = list(image.with_suffix(".txt").parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts)
