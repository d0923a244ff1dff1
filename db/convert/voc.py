"""Pascal VOC's format: one XML file per image. Two layouts are known:

ROOT/Annotations/*.xml  ROOT/JPEGImages/*  ROOT/ImageSets/Main/<split>.txt    Pascal VOC's own
ROOT/<split>/*.xml      ROOT/<split>/*                                        XML files beside their images
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from ..files import read_bytes
from .base import IMAGE_ENDINGS, Box, Picture, Source, natural, read_lines


class Item(NamedTuple):
    """An object as an XML file describes it."""

    name: str
    corners: list[float]  # xmin, ymin, xmax, ymax
    difficult: bool


class Annotation(NamedTuple):
    """The content of an XML file."""

    path: Path
    file_name: str | None
    size: tuple[int, int] | None  # height, width; None: not given, or 0
    items: list[Item]


class VOC(Source):
    """A data set in Pascal VOC's format.

    Pascal VOC counts pixels from 1 and includes the last one: the box 1, 1, 10, 10 covers 10x10 pixels and begins at
    the image's edge. With `zero_based`, coordinates are those of the box's edges, from 0. Objects marked `difficult`
    become crowds, which COCO's evaluation ignores.
    """

    def __init__(self, root: Path, zero_based: bool = False) -> None:
        self.root = root
        self.zero_based = zero_based
        self.known: dict[Path, Annotation] = {}
        self.own_layout = (root / "Annotations").is_dir()
        if not root.is_dir():
            raise DataError(f"{root}: no such folder. Name the one that holds Annotations, or train and val.")
        self.every_file = sorted(root.glob("Annotations/*.xml" if self.own_layout else "**/*.xml"))
        if not self.every_file:
            raise DataError(
                f"{root}: there are no XML files. Name the folder that holds Annotations, or train and val."
            )

    def splits(self) -> list[str]:
        if self.own_layout:
            return [path.stem for path in sorted((self.root / "ImageSets" / "Main").glob("*.txt"))]
        return [path.name for path in sorted(self.root.iterdir()) if path.is_dir() and any(path.glob("*.xml"))]

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The classes of all XML files, in alphabetical order, so that the splits agree."""
        names = {item.name for path in self.every_file for item in self.get(path).items}
        return {name: i for i, name in enumerate(sorted(names))}

    def categories(self) -> list[str]:
        return list(self.numbers)

    def read(self, split: str | None) -> tuple[Path, list[Picture]]:
        folder = self.root / ("JPEGImages" if self.own_layout else split or "")
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder. The images of {self.root / 'Annotations'} should lie there.")
        annotations = [self.get(path) for path in self.files(split)]
        return folder, [Picture(find_image(folder, a), a.size, lambda size, a=a: self.boxes(a)) for a in annotations]

    def files(self, split: str | None) -> list[Path]:
        """The XML files of a split."""
        if self.own_layout and split is not None:
            names = [line.split()[0] for line in read_lines(self.root / "ImageSets" / "Main" / f"{split}.txt")]
            return [self.root / "Annotations" / f"{name}.xml" for name in names]
        return sorted((self.root / ("Annotations" if self.own_layout else split or "")).glob("*.xml"), key=natural)

    def get(self, path: Path) -> Annotation:
        """The content of an XML file, which is read once."""
        if path not in self.known:
            self.known[path] = read_xml(path)
        return self.known[path]

    def boxes(self, annotation: Annotation) -> list[Box]:
        first, extra = (0, 0) if self.zero_based else (1, 1)
        found = []
        for name, (x1, y1, x2, y2), difficult in annotation.items:
            bbox = [x1 - first, y1 - first, x2 - x1 + extra, y2 - y1 + extra]
            found.append(Box(self.numbers[name], bbox, crowd=difficult))
        return found

    def notes(self) -> list[str]:
        items, notes = [item for annotation in self.known.values() for item in annotation.items], []
        if difficult := sum(item.difficult for item in items):
            notes.append(f"{difficult} objects are marked difficult: they have iscrowd 1, which evaluation ignores")
        if not self.zero_based and (below := sum(min(item.corners[:2]) < 1 for item in items)):
            notes.append(
                f"{below} boxes begin below pixel 1. Pascal VOC counts pixels from 1; if these files count from 0, "
                "convert them with --zero-based"
            )
        return notes


def read_xml(path: Path) -> Annotation:
    """Read an XML file. Raises DataError, naming the object."""
    try:
        root = ElementTree.fromstring(read_bytes(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Each image of a split needs one.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: encodings
        raise DataError(f"{path}: not XML: {error}. Is the file cut short?") from None
    if root.tag != "annotation":
        raise DataError(f"{path}: not Pascal VOC: the element <{root.tag}>, where <annotation> is expected.")
    height, width = (_number(f"{path}", root, f"size/{side}", 0) for side in ("height", "width"))
    items = []
    for i, item in enumerate(root.findall("object"), 1):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{path}: object {i}: <name> is missing.")
        where = f"{path}: object {i} ({name})"
        corners = [_number(where, item, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        if corners[0] > corners[2] or corners[1] > corners[3]:
            raise DataError(f"{where}: bndbox {corners} has xmin > xmax or ymin > ymax. Correct or remove the object.")
        items.append(Item(name, corners, _number(where, item, "difficult", 0) > 0))
    size = (int(height), int(width)) if min(height, width) > 0 else None
    return Annotation(path, root.findtext("filename"), size, items)


def _number(where: str, parent: ElementTree.Element, name: str, default: float | None = None) -> float:
    """The number in a child element. DataError if it is none, or if there is no such element and no default."""
    text = parent.findtext(name)
    if text is None:
        if default is None:
            raise DataError(f"{where}: <{name}> is missing.")
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) <= 1_000_000:
        raise DataError(f"{where}: <{name}> must be a number, and is {text.strip()!r}.")
    return value


def find_image(folder: Path, annotation: Annotation) -> str:
    """The name of an annotation's image: that of the XML file with another ending, or <filename>. Raises DataError."""
    stem, written = annotation.path.stem, Path((annotation.file_name or "").strip().replace("\\", "/")).name
    endings = dict.fromkeys([Path(written).suffix, *IMAGE_ENDINGS, *(ending.upper() for ending in IMAGE_ENDINGS)])
    for name in [*(f"{stem}{ending}" for ending in endings if ending), written]:
        if name and name != annotation.path.name and (folder / name).is_file():
            return name
    also = f" and no {written}" if written else ""
    raise DataError(
        f"{annotation.path}: its image is missing: in {folder} there is no {stem}.jpg (or .png, ...){also}. Add it, or "
        "remove the XML file."
    )
