"""The interface of a format that can be converted, and what formats have in common."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from ..files import read_bytes

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
ALIASES = {"train": ("train", "training"), "val": ("val", "valid", "validation")}


class Box(NamedTuple):
    """An object of an image."""

    category: int  # position in Source.categories()
    bbox: list[float]  # x, y, width, height in pixels
    polygon: list[float] | None = None  # x, y, x, y, ... in pixels
    crowd: bool = False


class Picture(NamedTuple):
    """An image and its annotation."""

    file_name: str  # relative to the folder of the images
    size: tuple[int, int] | None  # height, width as annotated; None: not annotated
    boxes: Callable[[tuple[int, int]], list[Box]]  # the objects, given the (height, width) of the image


class Source(ABC):
    """A data set in another format. Its methods raise DataError, naming the file and the entry."""

    root: Path  # the folder of the data

    @abstractmethod
    def splits(self) -> list[str]:
        """The names of its splits."""

    @abstractmethod
    def categories(self) -> list[str]:
        """The names of the classes, the same for all splits."""

    @abstractmethod
    def read(self, split: str | None) -> tuple[Path, list[Picture]]:
        """The folder of the images of a split, and its images. None: all images, where the format has no splits."""

    def notes(self) -> list[str]:
        """What the user should know about the data that was read."""
        return []

    def find_split(self, name: str, wanted: str | None) -> str | None:
        """The split that becomes `name` (train or val): `wanted`, or one with a usual name. None: there is none."""
        known = self.splits()
        if wanted is None:
            return next((alias for alias in ALIASES[name] if alias in known), None)
        if wanted not in known:
            raise DataError(f"{self.root}: there is no split {wanted}; {list_of(known)}.")
        return wanted


def list_of(splits: list[str]) -> str:
    """The splits, for messages."""
    return f"splits are {', '.join(splits[:8])}{', ...' if len(splits) > 8 else ''}" if splits else "it has no splits"


def natural(path: Path) -> list:
    """Sorts 2.jpg before 10.jpg."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank. Raises DataError."""
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error}).") from None
    return [line.strip() for line in lines if line.strip()]
