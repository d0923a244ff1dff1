"""The annotations of a data set as a handful of arrays: what training, evaluation and analyses know of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np


class Objects(NamedTuple):
    """The n annotated objects of one image, as views into the index."""

    boxes: np.ndarray  # (n, 4) float64: x1, y1, x2, y2 in pixels
    labels: np.ndarray  # (n,) int64: 0 to C - 1
    crowd: np.ndarray  # (n,) bool: the box is around a group of objects


@dataclass(frozen=True)
class AnnotationIndex:
    """N images with M annotated boxes of C categories.

    The index holds arrays only: train2017 takes about 60 MB. Forked workers share the memory pages, because no
    reference counts are written to them. Spawned workers receive one compact copy.

    Images are in ascending order of their id. The boxes of one image are ordered by category, and within a category as
    in the annotation file. The released code meets them in this order, because it asks for the annotations category by
    category; the order of the objects in goldens/targets_* confirms it. Crowd boxes are included: the released code
    trains on them too. Boxes of zero size are included; sampling drops them together with those that a crop leaves
    without area.

    A reader of another format makes an index with `AnnotationIndex.build`, which sorts images and boxes.
    """

    image_ids: np.ndarray  # (N,) int64, ascending
    sizes: np.ndarray  # (N, 2) int32: height, width
    names: np.ndarray  # (N,) fixed-width bytes: file names as the file system encodes them, sub-folders included
    folder_of: np.ndarray  # (N,) int16: position in `folders` of the folder that holds the image
    folders: tuple[str, ...]
    first: np.ndarray  # (N + 1,) int64: the boxes of image i are rows first[i]:first[i + 1]
    boxes: np.ndarray  # (M, 4) float64: x1, y1, x2, y2 in pixels, x2 = x1 + COCO's width
    extents: np.ndarray  # (M, 2) float64: width, height as annotated; x2 - x1 differs from the width by rounding
    areas: np.ndarray  # (M,) float64: square pixels, COCO's `area` (of the object's mask) or else the box's area
    labels: np.ndarray  # (M,) int64: 0 to C - 1, the position of the category in category_ids
    crowd: np.ndarray  # (M,) bool
    category_ids: tuple[int, ...]  # ascending
    category_names: tuple[str, ...]
    sources: tuple[str, ...]  # annotation files, for messages and for the file name of results; may be empty

    @classmethod
    def build(
        cls,
        *,
        image_ids: Sequence[int] | np.ndarray,
        sizes: Sequence | np.ndarray,
        names: Sequence[str],
        folders: Sequence[str | os.PathLike],
        box_image: Sequence[int] | np.ndarray,
        boxes: Sequence | np.ndarray,
        labels: Sequence[int] | np.ndarray,
        category_ids: Sequence[int],
        category_names: Sequence[str],
        folder_of: Sequence[int] | np.ndarray | None = None,
        extents: np.ndarray | None = None,
        areas: Sequence[float] | np.ndarray | None = None,
        crowd: Sequence[bool] | np.ndarray | None = None,
        sources: Sequence[str | os.PathLike] = (),
    ) -> AnnotationIndex:
        """An index of images and boxes in any order. Arguments are as the fields of the same name, except:

        Args:
            image_ids, sizes, names, folder_of: of the N images, in any order. Ids must be unique.
            box_image: (M,) position in image_ids of the image of each box.
            boxes, labels, extents, areas, crowd: of the M boxes, in any order. Boxes of the same image and category
                keep their order.
            folder_of: all images are in the first folder by default.
            extents, areas: computed from the boxes by default.
            crowd: no box is a crowd by default.
        """
        image_ids = np.asarray(image_ids, dtype=np.int64)
        count = len(image_ids)
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        labels = np.asarray(labels, dtype=np.int64)
        extents = boxes[:, 2:] - boxes[:, :2] if extents is None else np.asarray(extents, dtype=np.float64)
        areas = extents.prod(axis=1) if areas is None else np.asarray(areas, dtype=np.float64)
        crowd = np.zeros(len(boxes), dtype=bool) if crowd is None else np.asarray(crowd, dtype=bool)

        order = np.argsort(image_ids, kind="stable")
        position = np.empty(count, dtype=np.int64)  # of each image in the sorted index
        position[order] = np.arange(count)
        owner = position[np.asarray(box_image, dtype=np.int64)]
        rows = np.lexsort((labels, owner))  # stable
        return cls(
            image_ids=image_ids[order],
            sizes=np.asarray(sizes, dtype=np.int32).reshape(-1, 2)[order],
            names=np.array([os.fsencode(names[i]) for i in order], dtype=np.bytes_),
            folder_of=np.zeros(count, np.int16) if folder_of is None else np.asarray(folder_of, np.int16)[order],
            folders=tuple(os.fspath(folder) for folder in folders),
            first=np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=count))]),
            boxes=boxes[rows],
            extents=extents[rows],
            areas=areas[rows],
            labels=labels[rows],
            crowd=crowd[rows],
            category_ids=tuple(category_ids),
            category_names=tuple(category_names),
            sources=tuple(os.fspath(source) for source in sources),
        )

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

    def objects(self, i: int) -> Objects:
        """The annotated objects of image i, crowds included."""
        rows = slice(self.first[i], self.first[i + 1])
        return Objects(self.boxes[rows], self.labels[rows], self.crowd[rows])

    def take(self, indices: Sequence[int] | np.ndarray) -> AnnotationIndex:
        """An index of only the images at these positions, in ascending order of their id."""
        indices = np.unique(np.asarray(indices, dtype=np.int64))
        counts = np.diff(self.first)[indices]
        first = np.concatenate([[0], np.cumsum(counts)])
        # Row r of the new index is row (r - new start of its image) + (old start of its image) of this one.
        rows = np.arange(first[-1]) + np.repeat(self.first[indices] - first[:-1], counts)
        of_images = {name: getattr(self, name)[indices] for name in ("image_ids", "sizes", "names", "folder_of")}
        of_boxes = {name: getattr(self, name)[rows] for name in ("boxes", "extents", "areas", "labels", "crowd")}
        return replace(self, first=first, **of_images, **of_boxes)

    def limit(self, n: int) -> AnnotationIndex:
        """The first n images by id; 0 keeps all."""
        return self.take(np.arange(min(n, len(self)))) if n else self
