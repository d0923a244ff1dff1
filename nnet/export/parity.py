"""Whether an exported file computes what the network computes, on images of several sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch

from models.backbones import feature_size
from nnet.families.base import REJECTED, Candidates, Family, Points, View, select
from nnet.families.centernet import keep_triplets, regions_of
from nnet.families.exported import ExportedFamily
from nnet.families.options import DetectionOptions
from nnet.families.placement import Placement
from nnet.runtime.exported import ExportedFile
from sample.geometry import Size


class Tolerance(NamedTuple):
    """Largest differences."""

    maps: float  # as a fraction of their largest value
    boxes: float  # in pixels
    scores: float
    distance: float  # of embeddings


TOLERANCES = {
    "float32": Tolerance(1e-4, 1e-2, 1e-4, 1e-3),
    "float16": Tolerance(1e-2, 1.0, 1e-2, 0.05),
    "bfloat16": Tolerance(8e-2, 8.0, 8e-2, 0.25),
}
# Which corners and pairs are among the best may depend on rounding, where the next ones have almost their scores. So
# boxes that the network finds with fewer have to be in the file's, and the file's in those that it finds with more.
FEWER, MORE = 0.8, 1.25


class Compared(NamedTuple):
    """The comparison for one size and batch."""

    case: str  # such as "2 images of 127x255"
    count: int  # of the boxes or maps that were compared
    of: str  # "boxes" or "maps"
    differences: dict[str, float]  # the largest ones, by what they are of
    problems: list[str]  # empty: equal up to the tolerance


def compare(family: Family, file: ExportedFile, options: DetectionOptions, precision: str) -> Iterator[Compared]:
    """Compare a file with the network of `family` for three sizes, each with one and with two images.

    family: in evaluation mode, float32. precision: of the file.
    """
    tolerance = TOLERANCES[precision]
    base = max(128, family.network.divisor)
    for number, size in enumerate([(base - 1, base - 1), (2 * base - 1, base - 1), (base + 2, 2 * base - 31)]):
        images = np.stack([draw_image(size, seed=2 * number + i) for i in range(2)])
        for batch in (images[:1], images):
            case = f"{len(batch)} image{'s' if len(batch) > 1 else ' '} of {size[0]}x{size[1]}"
            if "boxes" in file.outputs:
                yield compare_boxes(family, ExportedFamily(file), options, batch, tolerance, case)
            else:
                yield compare_maps(family, file, batch, tolerance, case)


def draw_image(size: Size, seed: int) -> np.ndarray:
    """A picture of bright and dark rectangles and discs with noise: (3, H, W) uint8."""
    rng, (height, width) = np.random.default_rng(seed), size
    image = rng.integers(60, 140, (1, 1, 3)).astype(np.float32) + rng.normal(0, 12, (height, width, 3))
    image = np.ascontiguousarray(image, np.float32)
    for _ in range(8):
        x, y = (int(v) for v in rng.integers(0, (width, height)))
        w, h = (int(v) for v in rng.integers(8, max(9, min(size) // 2), 2))
        colour = tuple(float(v) for v in rng.integers(0, 256, 3))
        if rng.random() < 0.5:
            cv2.rectangle(image, (x, y), (x + w, y + h), colour, -1)
        else:
            cv2.circle(image, (x, y), w // 2, colour, -1)
    return image.clip(0, 255).astype(np.uint8).transpose(2, 0, 1)


@torch.inference_mode()
def compare_maps(family: Family, file: ExportedFile, images: np.ndarray, tolerance: Tolerance, case: str) -> Compared:
    """Compare every map."""
    found, differences, problems = file(torch.from_numpy(images)), {}, []
    for kind, maps in family.predict(torch.from_numpy(images), mirror=False).items():
        for name, wanted in maps._asdict().items():
            if wanted is None:
                continue
            what, wanted = f"{kind}_{name}", wanted.numpy()
            apart = np.abs(found[what] - wanted) / np.abs(wanted).max()
            differences[what] = float(apart.max())
            if not differences[what] <= tolerance.maps:  # also if it is NaN
                place = "image {}, channel {}, row {}, column {}".format(*np.unravel_index(apart.argmax(), apart.shape))
                problems.append(f"{what} differs by {differences[what]:.2g} of its scale: {place}")
    return Compared(case, len(differences), "maps", differences, problems)


def compare_boxes(
    family: Family,
    exported: ExportedFamily,
    options: DetectionOptions,
    images: np.ndarray,
    tolerance: Tolerance,
    case: str,
) -> Compared:
    """Compare the boxes before suppression as sets."""
    height, width = images.shape[2:]
    cells = feature_size((height, width), family.network.stride)
    placement = Placement((height, width), cells, (0, 0), (height, width), (1.0, 1.0), not options.as_published)
    rows = 2 if options.mirror else 1
    with torch.inference_mode():
        doubled = np.stack([images, images[..., ::-1]][:rows], 1).reshape(-1, *images.shape[1:])
        maps = family.predict(torch.from_numpy(np.ascontiguousarray(doubled)), options.mirror)
        outputs = exported.predict(torch.from_numpy(np.ascontiguousarray(doubled)), options.mirror)
    count, differences, problems = 0, {"boxes": 0.0, "scores": 0.0}, []
    for i in range(len(images)):
        own = slice(i * rows, (i + 1) * rows)
        view = View(1.0, placement, select(maps, own))
        decoded = select(outputs, own)
        found = valid(exported.propose(iter([view._replace(maps=decoded)]), options))
        wanted, least, most = (
            valid(family.propose(iter([view]), varied(options, part, tolerance))) for part in (1.0, FEWER, MORE)
        )
        count += len(found.scores)
        where = f"image {i} of {case}"
        problems += missing(least, found, tolerance, f"{where}: the file lacks")
        problems += missing(found, most, tolerance, f"{where}: the file alone has")
        near, box_apart, score_apart = nearest(wanted, found, tolerance)
        if near.any():
            differences["boxes"] = max(differences["boxes"], float(box_apart[near].max()))
            differences["scores"] = max(differences["scores"], float(score_apart[near].max()))
        if not (score_apart[near] <= tolerance.scores).all():
            problems.append(f"{where}: scores differ by {score_apart[near].max():.2g}")
        problems += untested(decoded, options, where)
    return Compared(case, count, "boxes", differences, problems)


def valid(found: Candidates) -> Candidates:
    """The candidates that are not rejected."""
    return found.take(found.scores > REJECTED)


def varied(options: DetectionOptions, part: float, tolerance: Tolerance) -> DetectionOptions:
    """The options with this part of the corners, pairs and centers."""
    if part == 1:
        return options
    distance = options.embedding_distance + (tolerance.distance if part > 1 else -tolerance.distance)
    return dataclasses.replace(
        options,
        corners=max(1, int(options.corners * part)),
        pairs=max(1, int(options.pairs * part)),
        centers=max(1, int(options.centers * part)),
        embedding_distance=max(0.0, distance),
    )


def nearest(boxes: Candidates, others: Candidates, tolerance: Tolerance) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of n boxes, whether `others` hold it, and how far it and its score are from the nearest there: (n,)."""
    near, far, score = np.zeros(len(boxes.scores), bool), *np.full((2, len(boxes.scores)), np.inf, np.float32)
    for label in np.unique(boxes.labels):
        own, other = np.flatnonzero(boxes.labels == label), np.flatnonzero(others.labels == label)
        if not len(other):
            continue
        apart = np.abs(boxes.boxes[own][:, None] - others.boxes[other]).max(2)  # (n, m)
        corners = np.abs(boxes.corner_scores[own][:, None] - others.corner_scores[other]).max(2)
        cost = np.maximum(apart / tolerance.boxes, corners / tolerance.scores)
        best = cost.argmin(1)
        near[own] = cost.min(1) <= 1
        far[own] = apart[np.arange(len(own)), best]
        score[own] = np.abs(boxes.scores[own] - others.scores[other][best])
    return near, far, score


def missing(boxes: Candidates, others: Candidates, tolerance: Tolerance, text: str) -> list[str]:
    """A message if `others` do not hold all of the boxes that have an area."""
    near, apart, _ = nearest(boxes, others, tolerance)
    lacking = np.flatnonzero(~near & (boxes.boxes[:, 2:] - boxes.boxes[:, :2] > tolerance.boxes).all(1))
    if not len(lacking):
        return []
    first = lacking[boxes.scores[lacking].argmax()]
    box = ", ".join(f"{v:.2f}" for v in boxes.boxes[first])
    return [
        f"{text} {len(lacking)} boxes, such as class {boxes.labels[first]}, score {boxes.scores[first]:.4f}, ({box}), "
        f"whose nearest is {apart[first]:.2g} pixels away"
    ]


def untested(decoded: dict[str, np.ndarray], options: DetectionOptions, where: str) -> list[str]:
    """A message if the file's center test differs from the family's on the file's own boxes and centers."""
    if "centers" not in decoded:
        return []
    flat = {name: values.reshape(-1, *values.shape[2:]) for name, values in decoded.items()}
    pairs = Candidates(flat["boxes"], flat["pair_scores"], flat["labels"], flat["corner_scores"])
    there = flat["center_scores"] > REJECTED
    centers = Points(*(flat[name][there] for name in ("centers", "center_labels", "center_scores")))
    wanted = keep_triplets(valid(pairs), centers, options.center_match, regions_of(options))
    found = np.sort(flat["scores"][flat["scores"] > REJECTED])
    if len(found) != len(wanted.scores) or not np.allclose(found, np.sort(wanted.scores), atol=1e-6):
        return [f"{where}: the center test keeps {len(found)} boxes, the network's {len(wanted.scores)}"]
    return []
