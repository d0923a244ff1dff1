"""Draws a toy detection data set from a seed, in COCO format: `python -m db.toy --output data/toy`.

It has six classes of shapes. The corners of their boxes lie outside the shapes, so a corner has to be inferred from the
shape's edges, as in real images: corner pooling is made for this case. Most images have several objects of one class,
which the embeddings have to tell apart. Objects overlap a little, have all three of COCO's sizes, and lie on textured
backgrounds.

    folder/train/*.jpg  folder/val/*.jpg  folder/annotations/instances_{train,val}.json  folder/toy.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from .errors import DataError
from .files import partial_of

CLASSES = ("ring", "cross", "star", "ellipse", "crescent", "arrow")
SMALLEST_IMAGE = 64
MOST_OBJECTS = 6
# Range of the square root of the box area in pixels, and its share of the objects: COCO's small (below 32), medium,
# and large (above 96).
SIZES = ((17, 30, 0.3), (34, 92, 0.5), (98, 150, 0.2))
LARGEST_SHARE = 0.75  # of the image's shorter side
MOST_COVERED = 0.3  # largest share of an object's pixels that later objects may hide
MOST_OVERLAP = 0.5  # IoU of two boxes; above it, soft-NMS by itself would lose one of the objects
SUPERSAMPLING = 4


def draw_toy(folder: str | os.PathLike, seed: int = 0, images: int = 1000, size: int = 191) -> bool:
    """Draw `images` images (80% train, 20% val) of height and width in [3/4 size, size] into the folder.

    The same arguments give the same bytes. Every image has its own random numbers. Boxes are the tight bounds of the
    whole shape, including the part that another object hides. `area` is the area of the box, so that COCO's small,
    medium and large refer to boxes. `iscrowd` is 0.

    Returns whether the data was drawn: False if the folder already holds this data set.

    Raises:
        DataError: the folder holds something else, or the arguments are out of range.
    """
    folder = Path(folder)
    recipe = {"toy": 2, "seed": seed, "images": images, "size": size}
    if images < 5 or size < SMALLEST_IMAGE or seed < 0:
        raise DataError(
            f"toy data of {images} images of {size} pixels, seed {seed}: there must be at least 5 images of at least "
            f"{SMALLEST_IMAGE} pixels, and the seed must not be negative."
        )
    if _holds(folder, recipe):
        return False
    # Drawn beside the folder and renamed at the end: an interrupted run leaves nothing that looks complete.
    partial = partial_of(folder)
    try:
        train = images * 4 // 5
        first_box = 1
        (partial / "annotations").mkdir(parents=True)
        with tqdm(total=images, desc=f"drawing {folder}", unit="image", disable=None) as progress:
            for split, ids in (("train", range(1, train + 1)), ("val", range(train + 1, images + 1))):
                first_box += _draw_split(partial, split, ids, first_box, seed, size, progress)
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


def _draw_split(folder: Path, split: str, ids: range, first_box: int, seed: int, size: int, progress: tqdm) -> int:
    """Draw one split and write its annotation file; returns the number of boxes."""
    (folder / split).mkdir()
    images, annotations = [], []
    for image_id in ids:
        picture, objects = draw_image(np.random.default_rng([seed, image_id]), size)
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


def draw_image(rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[dict]]:
    """One BGR uint8 image (height, width, 3) and its objects as the fields of COCO annotations."""
    height, width = rng.integers(size * 3 // 4, size + 1, 2)
    image = _background(rng, height, width)
    objects: list[dict] = []
    shapes: list[Shape] = []
    visible: list[np.ndarray] = []  # for each shape the pixels that no later shape hides
    for kind, side in _draw_kinds(rng, min(height, width)):
        shape = _draw_shape(rng, kind, side, height, width, shapes, visible)
        if shape is None:
            continue
        shapes.append(shape)
        visible = [v & ~shape.mask for v in visible] + [shape.mask]
        image = _paint(rng, image, shape.alpha, shape.mask)
        x1, y1, x2, y2 = shape.box
        objects.append(
            {
                "category_id": int(kind) + 1,
                "bbox": [float(v) for v in (x1, y1, x2 - x1, y2 - y1)],
                "area": float((x2 - x1) * (y2 - y1)),
                "segmentation": [[round(float(v), 2) for v in shape.polygon.ravel()]],
            }
        )
    return image.round().clip(0, 255).astype(np.uint8), objects


def _draw_kinds(rng: np.random.Generator, shorter: int) -> list[tuple[int, float]]:
    """Class and nominal size of each object of an image whose shorter side is given, in the order of painting."""
    count = rng.integers(1, MOST_OBJECTS + 1)
    # Large objects first: an object that lies on another is the smaller one, so that none disappears.
    sides = sorted((_nominal_size(rng, shorter) for _ in range(count)), reverse=True)
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
        alpha = _rasterise(polygon, height, width)
        mask = alpha >= 0.5
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        if all(
            _iou(box, other.box) <= MOST_OVERLAP and (v & ~mask).sum() >= (1 - MOST_COVERED) * other.mask.sum()
            for other, v in zip(others, visible, strict=True)
        ):
            return Shape(polygon, alpha, mask, box)
    return None


def _iou(a: tuple, b: tuple) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    inner = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


def _nominal_size(rng: np.random.Generator, shorter: int) -> float:
    """Square root of the area of an object's box, in pixels."""
    low, high, _ = SIZES[rng.choice(len(SIZES), p=[share for *_, share in SIZES])]
    largest = LARGEST_SHARE * shorter
    if low >= largest:  # the image is too small for this size
        low = SIZES[0][0]
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


def _paint(rng: np.random.Generator, image: np.ndarray, alpha: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with the object painted on it, in a lightly shaded colour unlike the pixels under and around it."""
    under = image[cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0]
    for _ in range(100):
        colour = rng.uniform(20, 235, 3)
        if np.percentile(np.linalg.norm(under - colour, axis=1), 5) > 70:
            break
    height, width = mask.shape
    shade = 1 + _ramp(rng, height, width, 0.2) + rng.normal(0, 0.02, (height, width))
    return image + alpha[..., None] * (colour * shade[..., None] - image)


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
    parser.add_argument("--size", type=int, default=191, help="longest side in pixels (default: %(default)s)")
    args = parser.parse_args()
    try:
        drawn = draw_toy(args.output, args.seed, args.images, args.size)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: {'drawn' if drawn else 'already there'}: {args.images} images, seed {args.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
