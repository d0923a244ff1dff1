"""Draws a toy detection data set from a seed, in COCO format: `python -m db.toy --output data/toy`.

It has six classes of shapes. The corners of their boxes lie outside the shapes, so a corner has to be inferred from the
shape's edges, as in real images: corner pooling is made for this case. Most images have several objects of one class,
which the embeddings have to tell apart. Objects overlap a little, have all three of COCO's sizes, and lie on textured
backgrounds.

A second set is drawn with `--wide`: larger images, and objects from 8 to 400 pixels. With `--crowded SHARE`, this share
of the images has rows of touching objects of one class and one colour.

    folder/train/*.jpg  folder/val/*.jpg  folder/annotations/instances_{train,val}.json  folder/toy.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from .errors import DataError
from .files import partial_of


class Look(NamedTuple):
    """What kind of images are drawn.

    sizes: ranges of the square root of the box area in pixels, each with its share of the objects: COCO's small (below
    32), medium, and large (above 96). largest_share: largest size as a share of the image's shorter side.
    shortest: shortest side of an image as a share of the longest. size: longest side of an image by default, in pixels.
    """

    sizes: tuple[tuple[float, float, float], ...]
    most_objects: int
    largest_share: float
    shortest: float
    size: int


CLASSES = ("ring", "cross", "star", "ellipse", "crescent", "arrow")
SMALLEST_IMAGE = 64
MOST_OBJECTS = 6
TOY = Look(((17, 30, 0.3), (34, 92, 0.5), (98, 150, 0.2)), MOST_OBJECTS, largest_share=0.75, shortest=0.75, size=191)
WIDE = Look(((8, 32, 0.35), (32, 96, 0.35), (96, 400, 0.3)), most_objects=10, largest_share=0.8, shortest=1, size=511)
CROWD_SIDES = (12, 64)  # range of the square root of the box area of the objects of a crowd, in pixels
CROWD_ROWS, CROWD_COLUMNS = (1, 3), (3, 6)  # fewest and most
MOST_COVERED = 0.3  # largest share of an object's pixels that later objects may hide
MOST_OVERLAP = 0.5  # IoU of two boxes; above it, soft-NMS by itself would lose one of the objects
SUPERSAMPLING = 4


def draw_toy(
    folder: str | os.PathLike,
    seed: int = 0,
    images: int = 1000,
    size: int = TOY.size,
    look: Look = TOY,
    crowded: float = 0.0,
) -> bool:
    """Draw `images` images (80% train, 20% val) of height and width in [look.shortest * size, size] into the folder.

    crowded: share of the images that have a crowd.

    The same arguments give the same bytes. Every image has its own random numbers. Boxes are the tight bounds of the
    whole shape, including the part that another object hides. `area` is the area of the box, so that COCO's small,
    medium and large refer to boxes. `iscrowd` is 0.

    Returns whether the data was drawn: False if the folder already holds this data set.

    Raises:
        DataError: the folder holds something else, or the arguments are out of range.
    """
    folder = Path(folder)
    recipe = {"toy": 2, "seed": seed, "images": images, "size": size}
    recipe |= {"wide": True} if look == WIDE else {}
    recipe |= {"crowded": crowded} if crowded else {}
    if images < 5 or size < SMALLEST_IMAGE or seed < 0:
        raise DataError(
            f"toy data of {images} images of {size} pixels, seed {seed}: there must be at least 5 images of at least "
            f"{SMALLEST_IMAGE} pixels, and the seed must not be negative."
        )
    if not 0 <= crowded <= 1:
        raise DataError(f"toy data with a share of {crowded:g} crowded images: it must be from 0 to 1.")
    if _holds(folder, recipe):
        return False

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, list[dict]]:
        return draw_image(rng, size, look, crowded)

    # Drawn beside the folder and renamed at the end: an interrupted run leaves nothing that looks complete.
    partial = partial_of(folder)
    try:
        train = images * 4 // 5
        first_box = 1
        (partial / "annotations").mkdir(parents=True)
        with tqdm(total=images, desc=f"drawing {folder}", unit="image", disable=None) as progress:
            for split, ids in (("train", range(1, train + 1)), ("val", range(train + 1, images + 1))):
                first_box += _draw_split(partial, split, ids, first_box, seed, draw, progress)
        (partial / "toy.json").write_text(json.dumps(recipe) + "\n")
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if not _holds(folder, recipe):  # another process may have drawn it meanwhile
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _holds(folder: Path, recipe: dict) -> bool:
    """Whether the folder holds this data set. DataError if it holds something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / "toy.json").read_text())
    except (OSError, ValueError):
        found = None
    if found == recipe:
        return True
    what = f"toy data drawn with other settings ({found})" if found else "something that is not toy data"
    raise DataError(f"{folder}: holds {what}. Remove it, or choose another folder with --output.")


def _draw_split(folder: Path, split: str, ids: range, first_box: int, seed: int, draw: Callable, progress: tqdm) -> int:
    """Draw one split and write its annotation file; returns the number of boxes. draw: `draw_image` of a generator."""
    (folder / split).mkdir()
    images, annotations = [], []
    for image_id in ids:
        picture, objects = draw(np.random.default_rng([seed, image_id]))
        name = f"{image_id:06d}.jpg"
        cv2.imwrite(str(folder / split / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
        images.append({"id": image_id, "file_name": name, "height": picture.shape[0], "width": picture.shape[1]})
        for item in objects:
            annotations.append({"id": first_box + len(annotations), "image_id": image_id, "iscrowd": 0, **item})
        progress.update()
    categories = [{"id": k, "name": name, "supercategory": "shape"} for k, name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return len(annotations)


class Shape(NamedTuple):
    """An object of an image: where it lies and which pixels it covers."""

    polygon: np.ndarray  # (points, 2) float64 x, y in pixels
    alpha: np.ndarray  # (height, width) float32: share of each pixel that it covers
    mask: np.ndarray  # (height, width) bool: pixels covered by half or more
    box: tuple  # x1, y1, x2, y2: tight bounds of the mask


def draw_image(
    rng: np.random.Generator, size: int, look: Look = TOY, crowded: float = 0.0
) -> tuple[np.ndarray, list[dict]]:
    """One BGR uint8 image (height, width, 3) and its objects as the fields of COCO annotations.

    crowded: probability of a crowd.
    """
    height, width = rng.integers(int(size * look.shortest), size + 1, 2)
    image = _background(rng, height, width)
    objects: list[dict] = []
    shapes: list[Shape] = []
    visible: list[np.ndarray] = []  # for each shape the pixels that no later shape hides

    def add(kind: int, shape: Shape, colour: np.ndarray) -> None:
        nonlocal visible
        shapes.append(shape)
        visible = [v & ~shape.mask for v in visible] + [shape.mask]
        _paint(rng, image, shape, colour)
        objects.append(_annotation(kind, shape))

    if crowded and rng.random() < crowded:
        kind, crowd = _draw_crowd(rng, height, width)
        colour = _contrasting_colour(rng, image, np.logical_or.reduce([shape.mask for shape in crowd]))
        for shape in crowd:
            add(kind, shape, colour)
    for kind, side in _draw_kinds(rng, min(height, width), look):
        shape = _draw_shape(rng, kind, side, height, width, shapes, visible)
        if shape is not None:
            add(kind, shape, _contrasting_colour(rng, image, shape.mask))
    return image.round().clip(0, 255).astype(np.uint8), objects


def _annotation(kind: int, shape: Shape) -> dict:
    """Fields of the COCO annotation of an object."""
    x1, y1, x2, y2 = shape.box
    return {
        "category_id": int(kind) + 1,
        "bbox": [float(v) for v in (x1, y1, x2 - x1, y2 - y1)],
        "area": float((x2 - x1) * (y2 - y1)),
        "segmentation": [[round(float(v), 2) for v in shape.polygon.ravel()]],
    }


def _draw_crowd(rng: np.random.Generator, height: int, width: int) -> tuple[int, list[Shape]]:
    """A class, and touching objects of it in rows: they have about one size, and hide little of each other."""
    kind = int(rng.integers(len(CLASSES)))
    side = np.exp(rng.uniform(*np.log(CROWD_SIDES)))
    rows, columns = (rng.integers(least, most + 1) for least, most in (CROWD_ROWS, CROWD_COLUMNS))
    polygons, bottom = [], 0.0
    for _ in range(rows):
        row, right = [], 0.0
        for _ in range(columns):
            gap = side * rng.uniform(-0.05, 0.05)
            row.append(_outline(rng, CLASSES[kind], side * rng.uniform(0.9, 1.1)) + (max(0, right + gap), bottom))
            right = row[-1][:, 0].max()
        polygons += row
        bottom = max(polygon[:, 1].max() for polygon in row)
    extent = np.concatenate(polygons).max(axis=0)
    shrunk = min(1.0, *(np.array([width - 2, height - 2]) / extent))
    place = rng.uniform((1, 1), np.maximum((width, height) - extent * shrunk - 1, 1))
    return kind, [_shape_of(polygon * shrunk + place, height, width) for polygon in polygons]


def _draw_kinds(rng: np.random.Generator, shorter: int, look: Look) -> list[tuple[int, float]]:
    """Class and nominal size of each object of an image whose shorter side is given, in the order of painting."""
    count = rng.integers(1, look.most_objects + 1)
    # Large objects first: an object that lies on another is the smaller one, so that none disappears.
    sides = sorted((_nominal_size(rng, shorter, look) for _ in range(count)), reverse=True)
    kinds = [int(rng.integers(len(CLASSES)))]
    while len(kinds) < len(sides):  # every second object is of a class that the image already has
        kinds.append(int(rng.choice(kinds) if rng.random() < 0.5 else rng.integers(len(CLASSES))))
    return list(zip(rng.permutation(kinds), sides, strict=True))


def _draw_shape(
    rng: np.random.Generator,
    kind: int,
    side: float,
    height: int,
    width: int,
    others: list[Shape],
    visible: list[np.ndarray],
) -> Shape | None:
    """A shape at a random place that hides little of the others, or None if 20 attempts find no such place."""
    for _ in range(20):
        polygon = _outline(rng, CLASSES[kind], side)
        extent = polygon.max(axis=0)
        if (extent > (width - 2, height - 2)).any():
            continue
        polygon += rng.uniform((1, 1), np.maximum((width, height) - extent - 1, 1))
        shape = _shape_of(polygon, height, width)
        if all(
            _iou(shape.box, other.box) <= MOST_OVERLAP
            and (v & ~shape.mask).sum() >= (1 - MOST_COVERED) * other.mask.sum()
            for other, v in zip(others, visible, strict=True)
        ):
            return shape
    return None


def _shape_of(polygon: np.ndarray, height: int, width: int) -> Shape:
    """The object with this outline in an image of this size."""
    alpha = _rasterise(polygon, height, width)
    mask = alpha >= 0.5
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return Shape(polygon, alpha, mask, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))


def _iou(a: tuple, b: tuple) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    inner = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


def _nominal_size(rng: np.random.Generator, shorter: int, look: Look) -> float:
    """Square root of the area of an object's box, in pixels."""
    low, high, _ = look.sizes[rng.choice(len(look.sizes), p=[share for *_, share in look.sizes])]
    largest = look.largest_share * shorter
    if low >= largest:  # the image is too small for this size
        low = look.sizes[0][0]
    return float(np.exp(rng.uniform(np.log(low), np.log(min(high, largest)))))


def _outline(rng: np.random.Generator, kind: str, side: float) -> np.ndarray:
    """Polygon (points, 2) of x, y whose box starts at 0, 0 and has area side^2."""
    tilt = np.deg2rad(rng.uniform(-15, 15))
    if kind == "ring":  # outer circle, then the hole in reverse: one polygon with a seam of no width
        points = np.concatenate([_arc(0, 2, 1.0), rng.uniform(0.5, 0.65) * _arc(2, 0, 1.0)]) * (1, rng.uniform(0.85, 1))
    elif kind == "cross":
        t = rng.uniform(0.26, 0.36)
        quarter = np.array([[1, -t], [1, t], [t, t]])
        points = np.concatenate([_rotate(quarter, k * np.pi / 2) for k in range(4)])
    elif kind == "star":
        angles = np.arange(10) * np.pi / 5
        points = np.stack([np.sin(angles), -np.cos(angles)], axis=1) * np.where(np.arange(10) % 2, 0.42, 1.0)[:, None]
    elif kind == "ellipse":
        points = _arc(0, 2, 1.0) * (1, rng.uniform(0.55, 0.9))
        tilt += rng.integers(2) * np.pi / 2
    elif kind == "crescent":  # a disc without a shifted disc of 3/4 its radius; the two arcs meet at the tips
        shift, radius = rng.uniform(0.45, 0.55), 0.75
        tip = (1 + shift**2 - radius**2) / (2 * shift)
        outer, inner = np.arccos(tip) / np.pi, np.arccos((tip - shift) / radius) / np.pi
        points = np.concatenate([_arc(outer, 2 - outer, 1.0), _arc(2 - inner, inner, radius) + (shift, 0)])
        tilt += rng.integers(4) * np.pi / 2
    else:  # arrow
        t, head = rng.uniform(0.14, 0.2), rng.uniform(-0.05, 0.1)
        points = np.array([[1, 0], [head, 0.75], [head, t], [-1, t], [-1, -t], [head, -t], [head, -0.75]])
        tilt += rng.integers(4) * np.pi / 2
    points = _rotate(points, tilt)
    points -= points.min(axis=0)
    return points * side / np.sqrt(points.max(axis=0).prod())


def _arc(start: float, end: float, radius: float) -> np.ndarray:
    """48 points of a circle; angles in multiples of pi."""
    angles = np.linspace(start, end, 48) * np.pi
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _rotate(points: np.ndarray, angle: float) -> np.ndarray:
    """Points (n, 2) rotated about the origin; angle in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


def _rasterise(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Share of each pixel that the polygon covers: (height, width) float32, by supersampling."""
    x0, y0 = np.floor(polygon.min(axis=0)).astype(int)
    x1, y1 = np.ceil(polygon.max(axis=0)).astype(int)
    large = np.zeros(((y1 - y0) * SUPERSAMPLING, (x1 - x0) * SUPERSAMPLING), dtype=np.uint8)
    # OpenCV's origin is the centre of the first pixel. Coordinates are fixed-point, with 4 fractional bits.
    points = ((polygon - (x0, y0)) * SUPERSAMPLING - 0.5) * 16
    cv2.fillPoly(large, [points.round().astype(np.int32)], 255, shift=4)
    alpha = np.zeros((height, width), dtype=np.float32)
    alpha[y0:y1, x0:x1] = cv2.resize(large, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA) / np.float32(255)
    return alpha


def _contrasting_colour(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A colour (3,) unlike the pixels of the image under and around a mask."""
    under = image[cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0]
    for _ in range(100):
        colour = rng.uniform(20, 235, 3)
        if np.percentile(np.linalg.norm(under - colour, axis=1), 5) > 70:
            break
    return colour


def _paint(rng: np.random.Generator, image: np.ndarray, shape: Shape, colour: np.ndarray) -> None:
    """Paint the object on the image, lightly shaded."""
    height, width = shape.mask.shape
    shade = 1 + _ramp(rng, height, width, 0.2) + rng.normal(0, 0.02, (height, width))
    (left, top), (right, bottom) = np.floor(shape.polygon.min(axis=0)), np.ceil(shape.polygon.max(axis=0))
    part = slice(int(top), int(bottom)), slice(int(left), int(right))  # beyond it, alpha is 0
    image[part] += shape.alpha[part][..., None] * (colour * shade[part][..., None] - image[part])


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A background (height, width, 3) float64, 0 to 255: a gradient with blotches, stripes or neither, and noise."""
    image = rng.uniform(40, 215, 3) + _ramp(rng, height, width, 50)[..., None] * rng.uniform(0.3, 1, 3)
    texture = rng.integers(3)
    if texture == 0:
        cells = rng.integers(4, 20)
        blotches = cv2.resize(
            rng.normal(0, 16, (cells, cells, 3)), (int(width), int(height)), interpolation=cv2.INTER_CUBIC
        )
        image = image + blotches
    elif texture == 1:
        phase = _ramp(rng, height, width, 2 * np.pi * rng.uniform(4, 14))
        image = image + rng.uniform(6, 20) * np.sin(phase)[..., None] * rng.uniform(0.4, 1, 3)
    return (image + rng.normal(0, rng.uniform(2, 8), (height, width, 3))).clip(0, 255)


def _ramp(rng: np.random.Generator, height: int, width: int, span: float) -> np.ndarray:
    """A plane (height, width) tilted in a random direction, rising by about span over the image."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:height, 0:width]
    return span * ((x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle))


def main() -> int:
    """Command line of `python -m db.toy`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m db.toy", description="Draw the toy data set.")
    parser.add_argument("--output", default="data/toy", help="folder to draw into (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=1000, help="of which 80%% for training (default: %(default)s)")
    parser.add_argument("--wide", action="store_true", help="objects from 8 to 400 pixels, up to 10 in an image")
    parser.add_argument(
        "--size", type=int, help=f"longest side in pixels (default: {TOY.size}, with --wide {WIDE.size})"
    )
    parser.add_argument(
        "--crowded",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the images with rows of touching objects of one class (default: %(default)g)",
    )
    args = parser.parse_args()
    look = WIDE if args.wide else TOY
    try:
        size = look.size if args.size is None else args.size
        drawn = draw_toy(args.output, args.seed, args.images, size, look, args.crowded)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: {'drawn' if drawn else 'already there'}: {args.images} images, seed {args.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
