"""Reads annotation files in COCO's format, and checks them: bad data fails early, with the file and the entry named."""

from __future__ import annotations

import gc
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from .errors import DataError
from .files import read_bytes
from .index import AnnotationIndex
from .segmentations import add_boxes, lacks_boxes

PathLike = str | os.PathLike

# Polygons are two thirds of COCO's files, and nothing here uses them. (In a JSON text a quote within a string has a
# backslash before it, so this cannot match inside one.)
POLYGONS = re.compile(rb'"segmentation"\s*:\s*\[[][0-9eE+.,\s-]*\]')
LARGEST = sys.float_info.max


def load_index(
    annotations: PathLike | Sequence[PathLike],
    images: PathLike | Sequence[PathLike],
    limit: int = 0,
    require_boxes: bool = True,
) -> AnnotationIndex:
    """Read COCO annotation files and find their images.

    Args:
        annotations: annotation files, merged into one index. Their categories must be the same.
        images: folders in which the images are looked for: one in the 2017 layout, train2014 and val2014 in 2014's.
        limit: if above 0, keep only this many images, the first by id. Only these need to be on disk.
        require_boxes: whether a file without `annotations` (COCO's image_info files of test-dev) is an error.

    Category ids may have gaps and come in any order. `iscrowd` may be missing (0), and so may `area` (the area of the
    box), `segmentation` and the ids of annotations.

    Raises:
        DataError: for anything that is missing, malformed or contradictory; the message names the file and the entry.
    """
    files = [parse(path, read_json(path), require_boxes) for path in _paths(annotations, "annotation file")]
    _check_together(files)
    image_ids = np.concatenate([file.image_ids for file in files])
    names = [name for file in files for name in file.names]
    starts = np.cumsum([0] + [len(file.names) for file in files[:-1]])
    box_image = np.concatenate([start + file.box_image for start, file in zip(starts, files, strict=True)])

    kept = np.argsort(image_ids, kind="stable")[: limit if limit > 0 else None]
    position = np.full(len(image_ids), -1)  # of each image among those kept
    position[kept] = np.arange(len(kept))
    box_image = position[box_image]
    rows = np.flatnonzero(box_image >= 0)

    kept_names = [names[i] for i in kept]
    folders, folder_of = _locate(kept_names, _paths(images, "image folder"), files[0].path)
    of_boxes = ("boxes", "extents", "areas", "labels", "crowd")
    return AnnotationIndex.build(
        image_ids=image_ids[kept],
        sizes=np.concatenate([file.sizes for file in files])[kept],
        names=kept_names,
        folders=folders,
        folder_of=folder_of,
        box_image=box_image[rows],
        category_ids=tuple(files[0].categories),
        category_names=tuple(files[0].categories.values()),
        sources=[file.path for file in files],
        **{name: np.concatenate([getattr(file, name) for file in files])[rows] for name in of_boxes},
    )


def read_json(path: PathLike) -> dict:
    """The JSON object in an annotation file, without its polygons (`segmentation` is null in their place).

    Where annotations have a `segmentation` and no `bbox`, the polygons stay, and the boxes around them are added.

    Raises:
        DataError: there is no such file, or it holds no JSON object.
    """
    collecting = gc.isenabled()
    gc.disable()  # millions of small objects and no cycles: the collector would take as long as the parsing
    try:
        text = read_bytes(path)
        try:
            content = json.loads(POLYGONS.sub(b'"segmentation":null', text))
            if lacks_boxes(content):
                content = json.loads(text)
                add_boxes(path, content)
        except json.JSONDecodeError:
            content = json.loads(text)  # again, for the position of the error in the file itself
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file. Check the path, or put the file there.") from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). Give the path of a readable JSON file.{other_format(path)}"
        ) from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}. "
            f"Is the file cut short, or not an annotation file?{other_format(path)}"
        ) from None
    except DataError:
        raise
    except (ValueError, RecursionError) as error:  # not text; a number of thousands of digits; nested too deeply
        raise DataError(
            f"{path}: not JSON ({error}). Give the annotation file, not an archive or image.{other_format(path)}"
        ) from None
    finally:
        if collecting:
            gc.enable()
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: not COCO: a JSON {type(content).__name__}, where an object with `images`, `annotations` and "
            "`categories` is expected."
        )
    return content


def other_format(path: PathLike) -> str:
    """Which command converts a file or folder that is not COCO's, as the end of a message. Empty if unknown."""
    path = Path(path)
    endings = {path.suffix.lower()}
    if os.path.isdir(path):
        endings = {os.path.splitext(name)[1].lower() for name in _list_folder(os.fspath(path))}
    for ending, command, what in (
        (".xml", "voc FOLDER", "Pascal VOC's XML files"),
        (".txt", "yolo DATA.yaml", "YOLO's text files"),
        (".yaml", "yolo DATA.yaml", "YOLO's data.yaml"),
    ):
        if ending in endings:
            return f" Convert {what} with: python -m db.convert {command}"
    return ""


@dataclass(frozen=True)
class CocoFile:
    """One annotation file, checked, as arrays in the order of the file: n images, m boxes."""

    path: Path
    categories: dict[int, str]  # names by id, ids ascending
    image_ids: np.ndarray  # (n,) int64
    names: list[str]  # n file names
    sizes: np.ndarray  # (n, 2) int32: height, width
    box_image: np.ndarray  # (m,) int64: position of the box's image in image_ids
    labels: np.ndarray  # (m,) int64: position of the box's category in categories
    boxes: np.ndarray  # (m, 4) float64: x1, y1, x2, y2
    extents: np.ndarray  # (m, 2) float64: width, height
    areas: np.ndarray  # (m,) float64
    crowd: np.ndarray  # (m,) bool


def parse(path: Path, content: dict, require_boxes: bool = True) -> CocoFile:
    """Check what `read_json` returned, and turn it into arrays. DataError for the first entry that is wrong."""
    for field in ("images", "categories", "annotations"):
        if field not in content:
            if field == "annotations" and not require_boxes:
                content["annotations"] = []
                continue
            hint = (
                " An image_info file lists images without boxes: use instances_*.json."
                if field == "annotations"
                else ""
            )
            raise DataError(f"{path}: not COCO: `{field}` is missing at the top level.{hint}")
        if not isinstance(content[field], list):
            raise DataError(f"{path}: not COCO: `{field}` must be a list, and is a {type(content[field]).__name__}.")
    categories = _categories(path, content["categories"])
    image_ids, names, sizes = _images(path, content["images"])
    return CocoFile(
        path, categories, image_ids, names, sizes, **_annotations(path, content["annotations"], image_ids, categories)
    )


def _categories(path: Path, entries: list) -> dict[int, str]:
    """Names of the categories by id, ids ascending."""
    if not entries:
        raise DataError(f"{path}: `categories` is empty. List the classes of the boxes there.")
    ids = _integers(path, "categories", entries, "id")
    order = np.argsort(ids, kind="stable")
    _no_duplicates(ids, order, [path] * len(ids), "categories", "category id")
    names = _column(path, "categories", entries, "name", (str,))
    return {int(ids[i]): names[i] for i in order}


def _images(path: Path, entries: list) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Ids (n,), n file names, and sizes (n, 2) int32 of the images."""
    if not entries:
        raise DataError(f"{path}: `images` is empty: there is nothing to read.")
    ids = _integers(path, "images", entries, "id")
    _no_duplicates(ids, np.argsort(ids, kind="stable"), [path] * len(ids), "images", "image id")
    names = _column(path, "images", entries, "file_name", (str,))
    sizes = np.stack([_integers(path, "images", entries, key) for key in ("height", "width")], axis=1)
    bad = np.flatnonzero(((sizes < 1) | (sizes > 1_000_000)).any(axis=1))
    if len(bad):
        i = bad[0]
        raise DataError(
            f"{path}: images[{i}] (id {ids[i]}, {_shown(names[i])}): height {sizes[i, 0]}, width {sizes[i, 1]}: "
            "both must be at least 1 pixel (and no more than a million). Write the image's true size."
        )
    return ids, names, sizes.astype(np.int32)


def _annotations(path: Path, entries: list, image_ids: np.ndarray, categories: dict[int, str]) -> dict[str, np.ndarray]:
    """The fields of CocoFile that describe boxes, by name."""
    box_image = _lookup(path, entries, "image_id", image_ids, "images")
    labels = _lookup(path, entries, "category_id", np.array(list(categories)), "categories")
    if all("id" in entry for entry in entries):
        ids = _integers(path, "annotations", entries, "id")
        _no_duplicates(ids, np.argsort(ids, kind="stable"), [path] * len(ids), "annotations", "annotation id")
    crowd = [entry.get("iscrowd", 0) for entry in entries]
    for i in (i for i, value in enumerate(crowd) if value not in (0, 1)):
        raise DataError(f"{path}: annotations[{i}].iscrowd is {_brief(crowd[i])}; it must be 0 or 1.")
    boxes, extents = _boxes(path, entries)
    return {
        "box_image": box_image,
        "labels": labels,
        "boxes": boxes,
        "extents": extents,
        "areas": _areas(path, entries, extents),
        "crowd": np.array(crowd, dtype=bool),
    }


def _check_together(files: list[CocoFile]) -> None:
    """DataError unless these files can be merged: the same categories, and no image in two of them."""
    head = files[0]
    for file in files[1:]:
        if file.categories != head.categories:
            raise DataError(
                f"{file.path}: its categories differ from those of {head.path}. Files read together must list "
                "the same category ids and names; make them agree, or use the files one at a time."
            )
    image_ids = np.concatenate([file.image_ids for file in files])
    paths = [file.path for file in files for _ in file.names]
    _no_duplicates(image_ids, np.argsort(image_ids, kind="stable"), paths, "images", "image id")


def _column(path: Path, table: str, entries: list, key: str, types: tuple[type, ...]) -> list:
    """entries[i][key] for all i. DataError for the first that is missing or of another type.

    The whole column is tried first, which is fast; the wrong entry is searched for only if that fails.
    """
    try:
        values = [entry[key] for entry in entries]
        if set(map(type, values)) <= set(types):
            return values
    except (KeyError, TypeError, IndexError):
        pass
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: not COCO: {table}[{i}] must be an object, and is {_brief(entry)}.")
        if key not in entry:
            raise DataError(f"{path}: not COCO: {table}[{i}].{key} is missing{_named(entry)}.")
        if type(entry[key]) not in types:
            wanted = " or ".join(
                {"str": "a text", "int": "a whole number", "list": "a list"}[t.__name__] for t in types
            )
            raise DataError(f"{path}: {table}[{i}].{key} must be {wanted}, and is {_brief(entry[key])}{_named(entry)}.")
    raise AssertionError("the column failed, but none of its entries did")


def _integers(path: Path, table: str, entries: list, key: str) -> np.ndarray:
    """entries[i][key] for all i, as int64."""
    values = _column(path, table, entries, key, (int,))
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        i = next(i for i, value in enumerate(values) if not -(2**63) <= value < 2**63)
        raise DataError(f"{path}: {table}[{i}].{key} is {values[i]}: too large for a 64-bit number.") from None


def _lookup(path: Path, entries: list, key: str, ids: np.ndarray, table: str) -> np.ndarray:
    """Position in ids, which are those of `table`, of every annotation's key."""
    order = np.argsort(ids, kind="stable")
    wanted = _integers(path, "annotations", entries, key)
    ascending = ids[order]
    place = np.minimum(np.searchsorted(ascending, wanted), len(ids) - 1)
    unknown = np.flatnonzero(ascending[place] != wanted)
    if len(unknown):
        i = unknown[0]
        raise DataError(
            f"{path}: annotations[{i}].{key} is {wanted[i]}, which is not the id of any of the {len(ids)} entries of "
            f"`{table}`{_named(entries[i])}; {len(unknown)} annotations in all. Add the entry or remove the annotation."
        )
    return order[place]


def _boxes(path: Path, entries: list) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (m, 4) float64 x1, y1, x2, y2 and extents (m, 2) width, height of the annotations' x, y, width, height."""
    lists = _column(path, "annotations", entries, "bbox", (list,))
    if not set(map(len, lists)) <= {4} or not set(map(type, chain.from_iterable(lists))) <= {int, float}:
        i = next(i for i, b in enumerate(lists) if len(b) != 4 or not {type(v) for v in b} <= {int, float})
        raise DataError(
            f"{path}: annotations[{i}].bbox is {_brief(lists[i])}; it must be 4 numbers{_named(entries[i])}."
        )
    try:
        boxes = np.fromiter(chain.from_iterable(lists), dtype=np.float64, count=4 * len(lists)).reshape(-1, 4)
    except OverflowError:  # an integer beyond the largest float64 counts as infinity
        boxes = np.array([[v if abs(v) <= LARGEST else np.inf for v in box] for box in lists], dtype=np.float64)
    for bad, what in (
        (~np.isfinite(boxes).all(axis=1), "holds NaN or infinity"),
        ((boxes[:, 2:] < 0).any(axis=1), "has a negative width or height (COCO boxes are x, y, width, height)"),
    ):
        if bad.any():
            i = int(bad.argmax())
            raise DataError(
                f"{path}: annotations[{i}].bbox {_brief(lists[i])} {what}{_named(entries[i])}; {bad.sum()} such boxes "
                "in all. Correct or remove them."
            )
    extents = boxes[:, 2:].copy()
    boxes[:, 2:] += boxes[:, :2]
    return boxes, extents


def _areas(path: Path, entries: list, extents: np.ndarray) -> np.ndarray:
    """(m,) float64: the annotations' `area`; where that is missing or null, the area of the box."""
    areas = extents.prod(axis=1)
    given = [entry.get("area") for entry in entries]
    bad = [
        i
        for i, area in enumerate(given)
        if area is not None and not (type(area) in (int, float) and 0 <= area <= LARGEST)
    ]
    if bad:
        i = bad[0]
        raise DataError(
            f"{path}: annotations[{i}].area is {_brief(given[i])}; it must be a finite number of at least 0"
            f"{_named(entries[i])}; {len(bad)} such areas in all. Correct them, or remove them to use the boxes' areas."
        )
    rows = [i for i, area in enumerate(given) if area is not None]
    areas[rows] = [given[i] for i in rows]
    return areas


def _no_duplicates(ids: np.ndarray, order: np.ndarray, paths: list[Path], table: str, what: str) -> None:
    """DataError if an id occurs twice. order sorts ids; paths[i] is the file of ids[i]."""
    same = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if len(same):
        one, two = sorted((order[same[0]], order[same[0] + 1]))
        where = f"{paths[one]}" if paths[one] == paths[two] else f"{paths[one]} and {paths[two]}"
        raise DataError(
            f"{where}: {what} {ids[one]} occurs twice in `{table}`; {len(same)} such cases in all. "
            "Ids must be unique: remove the copies or number them anew."
        )


def _locate(names: list[str], images: list[Path], annotation_file: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """The folders (absolute, each once), and for each file name the position of the folder that holds it (n,) int16.

    Every folder is listed once. This is much faster than asking for each file where folders are on network storage.
    """
    folders = list(dict.fromkeys(os.path.abspath(folder) for folder in images))
    for folder in folders:
        if not os.path.isdir(folder):
            raise DataError(
                f"{folder}: no such image folder. Check the path, or put the images of {annotation_file} there."
            )
    split = [os.path.split(name) for name in names]
    subs = {sub for sub, _ in split}
    found = np.full(len(names), -1, dtype=np.int16)
    entries = 0
    for k, folder in enumerate(folders):
        files = {sub: _list_folder(os.path.join(folder, sub)) for sub in subs}
        entries += sum(map(len, files.values()))
        here = np.fromiter((name in files[sub] for sub, name in split), dtype=bool, count=len(names))
        twice = np.flatnonzero(here & (found >= 0))
        if len(twice):
            i = twice[0]
            raise DataError(
                f"{_shown(names[i])}: in {folders[found[i]]} as well as in {folder}; {len(twice)} such images in all. "
                "Name only the folder that belongs to the annotations."
            )
        found[here] = k
    missing = np.flatnonzero(found < 0)
    if len(missing):
        where = " and ".join(folders)
        if not entries:
            raise DataError(
                f"{where}: empty, where {len(names)} images listed in {annotation_file} should be. Put them there."
            )
        first = ", ".join(_shown(names[i]) for i in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(
            f"{where}: {len(missing)} of the {len(names)} images listed in {annotation_file} are missing: {first}. "
            "Add them, name their folder too, or remove them from the annotations."
        )
    return tuple(folders), found


def _list_folder(folder: str) -> set[str]:
    """Names in a folder; empty where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (OSError, ValueError):  # the sub-folder is in another image folder, or its name is not a valid path
        return set()


def _paths(paths: PathLike | Sequence[PathLike], what: str) -> list[Path]:
    """One path or several as a list. DataError if there is none."""
    paths = [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(path) for path in paths]
    if not paths:
        raise DataError(f"no {what} is given. Name at least one.")
    return paths


def _named(entry: dict) -> str:
    """The ids and the file name of an entry of an annotation file, for messages."""
    known = [f"{key} {_brief(entry[key])}" for key in ("id", "image_id", "file_name") if key in entry]
    return f" ({', '.join(known)})" if known else ""


def _brief(value: object) -> str:
    """The value as Python writes it, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _shown(name: str) -> str:
    """A file name for messages of one line: names that are long or hold control characters as `_brief` writes them."""
    return name if name.isprintable() and len(name) <= 200 else _brief(name)
