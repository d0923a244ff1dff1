"""COCO-format annotations as a handful of arrays, and the checks that make bad data fail early and by name."""

from __future__ import annotations

import gc
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from .errors import DataError

PathLike = str | os.PathLike

# Polygons are two thirds of COCO's files, and nothing here wants them. (In a JSON text a quote within a string has a
# backslash before it, so this cannot match inside one.)
POLYGONS = re.compile(rb'"segmentation"\s*:\s*\[[][0-9eE+.,\s-]*\]')


@dataclass(frozen=True)
class CocoIndex:
    """What training and testing need to know of N images with M boxes of C categories.

    Arrays only: train2017 takes about 40 MB, forked workers share the pages (no reference counts touch them), and
    spawned workers receive one compact copy.

    Images are in ascending order of their id. The boxes of one image are ordered by category, and within a category as
    in the annotation file: the order in which the released code meets them (it asks for the annotations category by
    category), which the order of the objects in goldens/targets_* confirms. Crowd boxes are among them, as there: the
    released code trains on them too. Boxes of zero size stay in the index; sampling drops them together with those that
    a crop leaves without area.
    """

    image_ids: np.ndarray  # (N,) int64, ascending
    sizes: np.ndarray  # (N, 2) int32: height, width
    names: np.ndarray  # (N,) fixed-width bytes: file names as the file system encodes them, sub-folders included
    folder_of: np.ndarray  # (N,) int16: which of `folders` holds the image
    folders: tuple[str, ...]
    first: np.ndarray  # (N + 1,) int64: the boxes of image i are rows first[i]:first[i + 1]
    boxes: np.ndarray  # (M, 4) float64: x1, y1, x2, y2 in pixels, x2 = x1 + COCO's width
    labels: np.ndarray  # (M,) int64: 0 to C - 1, the position of the category in category_ids
    crowd: np.ndarray  # (M,) bool
    category_ids: tuple[int, ...]  # ascending
    category_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_classes(self) -> int:
        return len(self.category_ids)

    def path(self, i: int) -> str:
        """Path of image i."""
        return os.path.join(self.folders[self.folder_of[i]], os.fsdecode(bytes(self.names[i])))

    def annotations(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (n, 4) float64 in pixels and labels (n,) int64 of image i, as views."""
        rows = slice(self.first[i], self.first[i + 1])
        return self.boxes[rows], self.labels[rows]

    def take(self, indices: Sequence[int] | np.ndarray) -> CocoIndex:
        """An index of the images at these positions alone, in ascending order of their id."""
        indices = np.unique(np.asarray(indices, dtype=np.int64))
        counts = np.diff(self.first)[indices]
        first = np.concatenate([[0], np.cumsum(counts)])
        # Row r of the new index is row (r - new start of its image) + (old start of its image) of this one.
        rows = np.arange(first[-1]) + np.repeat(self.first[indices] - first[:-1], counts)
        return replace(
            self,
            image_ids=self.image_ids[indices],
            sizes=self.sizes[indices],
            names=self.names[indices],
            folder_of=self.folder_of[indices],
            first=first,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
        )

    def limit(self, n: int) -> CocoIndex:
        """The first n images by id; 0 keeps all."""
        return self.take(np.arange(min(n, len(self)))) if n else self


def load_index(
    annotations: PathLike | Sequence[PathLike],
    images: PathLike | Sequence[PathLike],
    limit: int = 0,
    require_boxes: bool = True,
) -> CocoIndex:
    """Read COCO annotation files and find their images.

    Args:
        annotations: annotation files, merged into one index. Their categories must be the same.
        images: folders in which the images are looked for: one in the 2017 layout, train2014 and val2014 in 2014's.
        limit: if above 0, keep the first so many images by id; only those need to be on disk.
        require_boxes: whether a file without `annotations` (COCO's image_info files of test-dev) is an error.

    Category ids may have gaps and come in any order. `iscrowd` may be missing (0), and so may `area`, `segmentation`
    and the ids of annotations.

    Raises:
        DataError: for anything that is missing, malformed or contradictory; the message names the file and the entry.
    """
    files = [parse(path, read_coco(path), require_boxes) for path in listed(annotations, "annotation file")]
    check_together(files)
    head = files[0]
    image_ids = np.concatenate([file["image_ids"] for file in files])
    order = np.argsort(image_ids, kind="stable")

    # Position of each image in the sorted index, then boxes by (image, label, place in the file); lexsort is stable.
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    starts = np.cumsum([0] + [len(file["names"]) for file in files[:-1]])
    box_image = np.concatenate([position[start + file["box_image"]] for start, file in zip(starts, files, strict=True)])
    labels = np.concatenate([file["labels"] for file in files])
    rows = np.lexsort((labels, box_image))

    all_names = [name for file in files for name in file["names"]]
    kept = order[:limit] if limit > 0 else order
    names = [all_names[i] for i in kept]
    folders, folder_of = _locate(names, listed(images, "image folder"), head["path"])
    index = CocoIndex(
        image_ids=image_ids[order],
        sizes=np.concatenate([file["sizes"] for file in files])[order],
        names=np.zeros(len(order), dtype="S1"),
        folder_of=np.zeros(len(order), dtype=np.int16),
        folders=folders,
        first=np.concatenate([[0], np.cumsum(np.bincount(box_image, minlength=len(order)))]),
        boxes=np.concatenate([file["boxes"] for file in files])[rows],
        labels=labels[rows],
        crowd=np.concatenate([file["crowd"] for file in files])[rows],
        category_ids=tuple(head["categories"]),
        category_names=tuple(head["categories"].values()),
    ).limit(limit)
    return replace(index, names=np.array([os.fsencode(name) for name in names]), folder_of=folder_of)


def read_coco(path: PathLike) -> dict:
    """The JSON object in an annotation file, polygons left out (`segmentation` is null in their place).

    Raises:
        DataError: there is no such file, or it holds no JSON object.
    """
    collecting = gc.isenabled()
    gc.disable()  # millions of small objects and no cycles: the collector would cost as much as the parsing
    try:
        with open(path, "rb") as file:
            text = file.read()
        try:
            content = json.loads(POLYGONS.sub(b'"segmentation":null', text))
        except json.JSONDecodeError:
            content = json.loads(text)  # for the place of the error in the file itself
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file. Check the path, or put the file there.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Give the path of a readable JSON file.") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}. "
            "Is the file cut short, or not an annotation file?"
        ) from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}). Give the annotation file, not an archive or image.") from None
    finally:
        if collecting:
            gc.enable()
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: not COCO: a JSON {type(content).__name__}, where an object with `images`, `annotations` and "
            "`categories` is expected."
        )
    return content


def parse(path: Path, content: dict, require_boxes: bool = True) -> dict:
    """What read_coco returned, checked, as arrays in file order; box_image holds positions in the file's `images`."""
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

    entries = content["categories"]
    if not entries:
        raise DataError(f"{path}: `categories` is empty. List the classes of the boxes there.")
    ids = _integers(path, "categories", entries, "id")
    order = np.argsort(ids, kind="stable")
    _no_duplicates(ids, order, [path] * len(ids), "categories", "category id")
    names = _column(path, "categories", entries, "name", (str,))
    categories = {int(ids[i]): names[i] for i in order}
    category_ids = ids[order]

    entries = content["images"]
    if not entries:
        raise DataError(f"{path}: `images` is empty: there is nothing to read.")
    image_ids = _integers(path, "images", entries, "id")
    image_order = np.argsort(image_ids, kind="stable")
    _no_duplicates(image_ids, image_order, [path] * len(image_ids), "images", "image id")
    names = _column(path, "images", entries, "file_name", (str,))
    sizes = np.stack([_integers(path, "images", entries, key) for key in ("height", "width")], axis=1)
    bad = np.flatnonzero(((sizes < 1) | (sizes > 1_000_000)).any(axis=1))
    if len(bad):
        i = bad[0]
        raise DataError(
            f"{path}: images[{i}] (id {image_ids[i]}, {names[i]}): height {sizes[i, 0]}, width {sizes[i, 1]}: "
            "both must be at least 1 pixel (and no more than a million). Write the image's true size."
        )

    entries = content["annotations"]
    box_image = _lookup(path, entries, "image_id", image_ids, image_order, "images")
    labels = _lookup(path, entries, "category_id", category_ids, np.arange(len(category_ids)), "categories")
    if all("id" in entry for entry in entries):
        ids = _integers(path, "annotations", entries, "id")
        _no_duplicates(ids, np.argsort(ids, kind="stable"), [path] * len(ids), "annotations", "annotation id")
    crowd = [entry.get("iscrowd", 0) for entry in entries]
    for i in (i for i, value in enumerate(crowd) if value not in (0, 1)):
        raise DataError(f"{path}: annotations[{i}].iscrowd is {crowd[i]!r}; it must be 0 or 1.")
    return {
        "path": path,
        "categories": categories,
        "image_ids": image_ids,
        "names": names,
        "sizes": sizes.astype(np.int32),
        "box_image": box_image,
        "labels": labels,
        "boxes": _boxes(path, entries),
        "crowd": np.array(crowd, dtype=bool),
    }


def check_together(files: list[dict]) -> None:
    """DataError unless these parsed files may be merged: the same categories, and no image in two of them."""
    head = files[0]
    for file in files[1:]:
        if file["categories"] != head["categories"]:
            raise DataError(
                f"{file['path']}: its categories differ from those of {head['path']}. Files read together must list "
                "the same category ids and names; make them agree, or use the files one at a time."
            )
    image_ids = np.concatenate([file["image_ids"] for file in files])
    paths = [file["path"] for file in files for _ in file["names"]]
    _no_duplicates(image_ids, np.argsort(image_ids, kind="stable"), paths, "images", "image id")


def _column(path: Path, table: str, entries: list, key: str, types: tuple[type, ...]) -> list:
    """entries[i][key] for all i. The quick way is tried first; the culprit is looked for only if that fails."""
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
    raise AssertionError("a failing entry was found the first time")


def _integers(path: Path, table: str, entries: list, key: str) -> np.ndarray:
    values = _column(path, table, entries, key, (int,))
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        i = next(i for i, value in enumerate(values) if not -(2**63) <= value < 2**63)
        raise DataError(f"{path}: {table}[{i}].{key} is {values[i]}: too large for a 64-bit number.") from None


def _lookup(path: Path, entries: list, key: str, ids: np.ndarray, order: np.ndarray, table: str) -> np.ndarray:
    """Position in ids of every annotation's key. order sorts ids."""
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


def _boxes(path: Path, entries: list) -> np.ndarray:
    """(M, 4) float64 x1, y1, x2, y2 of the annotations' x, y, width, height."""
    lists = _column(path, "annotations", entries, "bbox", (list,))
    if not set(map(len, lists)) <= {4} or not set(map(type, chain.from_iterable(lists))) <= {int, float}:
        i = next(i for i, b in enumerate(lists) if len(b) != 4 or not {type(v) for v in b} <= {int, float})
        raise DataError(
            f"{path}: annotations[{i}].bbox is {_brief(lists[i])}; it must be 4 numbers{_named(entries[i])}."
        )
    boxes = np.fromiter(chain.from_iterable(lists), dtype=np.float64, count=4 * len(lists)).reshape(-1, 4)
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
    boxes[:, 2:] += boxes[:, :2]
    return boxes


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
    """For each file name the folder that holds it: every folder is listed once, no file is asked for by itself."""
    folders = list(dict.fromkeys(os.path.abspath(folder) for folder in images))
    for folder in folders:
        if not os.path.isdir(folder):
            raise DataError(
                f"{folder}: no such image folder. Check the path, or put the images of {annotation_file} there."
            )
    split = [os.path.split(name) for name in names]
    found = np.full(len(names), -1, dtype=np.int16)
    listed = 0
    for k, folder in enumerate(folders):
        files = {}
        for sub in {sub for sub, _ in split}:
            try:
                with os.scandir(os.path.join(folder, sub)) as entries:
                    files[sub] = {entry.name for entry in entries}
            except (OSError, ValueError):  # the sub-folder is in another image folder, or the name is no file name
                files[sub] = set()
        listed += sum(map(len, files.values()))
        here = np.fromiter((name in files[sub] for sub, name in split), dtype=bool, count=len(names))
        twice = np.flatnonzero(here & (found >= 0))
        if len(twice):
            i = twice[0]
            raise DataError(
                f"{names[i]}: in {folders[found[i]]} as well as in {folder}; {len(twice)} such images in all. "
                "Name only the folder that belongs to the annotations."
            )
        found[here] = k
    missing = np.flatnonzero(found < 0)
    if len(missing):
        where = " and ".join(folders)
        if not listed:
            raise DataError(
                f"{where}: empty, where {len(names)} images listed in {annotation_file} should be. Put them there."
            )
        first = ", ".join(names[i] for i in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(
            f"{where}: {len(missing)} of the {len(names)} images listed in {annotation_file} are missing: {first}. "
            "Add them, name their folder too, or remove them from the annotations."
        )
    return tuple(folders), found


def listed(paths: PathLike | Sequence[PathLike], what: str) -> list[Path]:
    paths = [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(path) for path in paths]
    if not paths:
        raise DataError(f"no {what} is given. Name at least one.")
    return paths


def _named(entry: dict) -> str:
    """How to find an entry of an annotation file again, for messages."""
    known = [f"{key} {_brief(entry[key])}" for key in ("id", "image_id", "file_name") if key in entry]
    return f" ({', '.join(known)})" if known else ""


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
