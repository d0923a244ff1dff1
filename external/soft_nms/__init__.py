"""Soft-NMS (Bodla et al., ICCV 2017) and the merging variant CornerNet tests with at several scales, as CornerNet's
release computes them.

The work is done in C (soft_nms.c, through cffi). Where that is not built, Python and numpy do it: same results, slower,
with one warning.
"""

import math
import warnings
from typing import NamedTuple

import numpy as np

METHODS = ("hard", "linear", "gaussian")
LIMIT = 1e15  # of what boxes hold, so that no area overflows

try:
    from external.soft_nms._soft_nms import ffi, lib
except ImportError as error:
    lib = None
    warnings.warn(
        f"soft-NMS runs in Python, slower: {error}; "
        "build it with `pip install --no-build-isolation -e .` in the repository's root",
        RuntimeWarning,
        stacklevel=2,
    )


class Suppressed(NamedTuple):
    """What suppression makes of N boxes, class by class, those of the lowest label first."""

    boxes: np.ndarray  # (N, columns) float32; of each class first the kept ones, best first, then stale ones: what the
    # release leaves behind there, and keeps
    labels: np.ndarray  # (N,) int64
    kept: np.ndarray  # (N,) bool: not stale


def soft_nms(
    boxes: np.ndarray,
    labels: np.ndarray | None = None,
    method: str = "gaussian",
    sigma: float = 0.5,
    overlap: float = 0.5,
    floor: float = 0.001,
) -> Suppressed:
    """Decay, in each class, the scores of boxes that overlap better ones; drop those that fall under a floor.

    boxes: (N, >= 5), x1, y1, x2, y2 in pixels, score; further columns are carried along but do not move with their box
        (the release's way). Anything that converts to float32; it is left as it is.
    labels: (N,) integers, the class of each box. None: all are of class 0.
    method: what a box's score is multiplied by, for an IoU (+1 on widths and heights) of o with a better box:
        "hard": 0 if o > overlap; "linear": 1 - o if o > overlap; "gaussian": exp(-o^2 / sigma), whatever o.
    floor: boxes with a decayed score under it are dropped.

    Raises ValueError for boxes or labels of another shape or kind, values that are not finite numbers, an unknown
    method or parameters out of range.
    """
    return _run(boxes, labels, method, sigma, overlap, floor, merge=False, exponent=1.0, columns=5)


def soft_nms_merge(
    boxes: np.ndarray,
    labels: np.ndarray | None = None,
    method: str = "gaussian",
    sigma: float = 0.5,
    overlap: float = 0.5,
    floor: float = 0.001,
    exponent: float = 10.0,
) -> Suppressed:
    """`soft_nms` in which a kept box becomes the average of itself and the boxes whose scores it decays.

    boxes: (N, >= 7), x1, y1, x2, y2, score, top-left score, bottom-right score. A box decayed by the factor d weighs (1
        - d)^exponent times its own corner score: the top-left one for x1, y1, the bottom-right one for x2, y2; the kept
        box weighs its corner scores. A corner whose weights are all 0 stays where it is.

    Returns and raises as `soft_nms`.
    """
    return _run(boxes, labels, method, sigma, overlap, floor, merge=True, exponent=exponent, columns=7)


def _run(
    boxes, labels, method: str, sigma: float, overlap: float, floor: float, merge: bool, exponent: float, columns: int
) -> Suppressed:
    if method not in METHODS:
        raise ValueError(f"unknown soft-NMS method {method!r}, expected one of {', '.join(METHODS)}")
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"soft-NMS needs a sigma above 0, got {sigma}")
    if not (math.isfinite(overlap) and math.isfinite(floor)):
        raise ValueError(f"soft-NMS needs a finite overlap and floor, got {overlap} and {floor}")
    if not (math.isfinite(exponent) and exponent >= 0):
        raise ValueError(f"soft-NMS merging needs an exponent of at least 0, got {exponent}")
    rows = np.asarray(boxes)
    if rows.dtype.kind not in "fiub":
        raise ValueError(f"soft-NMS expects boxes of real numbers, got an array of {rows.dtype}")
    if rows.ndim != 2 or rows.shape[1] < columns:
        raise ValueError(f"soft-NMS expects boxes of shape (N, {columns} or more), got {rows.shape}")
    labels = np.zeros(len(rows), np.int64) if labels is None else np.asarray(labels)
    if labels.shape != rows.shape[:1] or (labels.size and labels.dtype.kind not in "iu"):
        raise ValueError(
            f"soft-NMS expects an integer label for each of {len(rows)} boxes, got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    with np.errstate(over="ignore"):  # reported below
        rows = rows.astype(np.float32, order="C")  # a copy: the caller's boxes stay as they are
    if not (np.abs(rows) <= LIMIT).all():
        bad = int(np.flatnonzero(~(np.abs(rows) <= LIMIT).all(axis=1))[0])
        raise ValueError(f"soft-NMS expects finite boxes, within {LIMIT:g}, but row {bad} is {rows[bad].tolist()}")
    labels = labels.astype(np.int64)
    if (labels[1:] < labels[:-1]).any():
        order = labels.argsort(kind="stable")
        rows, labels = rows[order], labels[order]
    run = _python_classes if lib is None else _compiled_classes
    kept = run(rows, labels, METHODS.index(method), sigma, overlap, floor, merge, exponent)
    return Suppressed(rows, labels, kept)


def _compiled_classes(rows: np.ndarray, labels: np.ndarray, *options) -> np.ndarray:
    kept = np.empty(len(rows), bool)
    pointers = ffi.from_buffer("float[]", rows), ffi.from_buffer("int64_t[]", labels)
    if lib.soft_nms(*pointers, *rows.shape, *options, ffi.from_buffer("unsigned char[]", kept)):
        raise MemoryError(f"soft-NMS of {len(rows)} boxes found no memory")
    return kept


def _python_classes(rows: np.ndarray, labels: np.ndarray, *options) -> np.ndarray:
    kept = np.empty(len(rows), bool)
    ends = [*np.flatnonzero(np.diff(labels)) + 1, len(rows)]
    for begin, end in zip([0, *ends], ends, strict=False):
        kept[begin:end] = np.arange(end - begin) < _python_soft_nms(rows[begin:end], *options)
    return kept


def _python_soft_nms(
    rows: np.ndarray, method: int, sigma: float, overlap: float, floor: float, merge: bool, exponent: float
) -> int:
    """soft_nms.c in Python, with the same rounding. Works on rows in place, returns how many are kept."""
    one = np.float32(1)
    sigma, overlap, floor, exponent = (np.float32(value) for value in (sigma, overlap, floor, exponent))
    kept = len(rows)
    for i in range(len(rows)):
        top = i + int(rows[i:kept, 4].argmax()) if i < kept else i
        rows[[i, top], :5] = rows[[top, i], :5]
        best = rows[i].copy()

        def corner_sums(row: np.ndarray, weight: np.float32) -> np.ndarray:
            """Weight and weighted coordinates of a box: (2, 3) for both corners."""
            score = row[5:7, None]
            return np.concatenate([weight * score, weight * (score * row[:4].reshape(2, 2))], axis=1)

        if merge:
            sums = corner_sums(best, one)
        ious = _overlaps(best, rows[i + 1 : max(kept, i + 1)])
        j = i + 1
        while j < kept:
            iou = ious[j - i - 1]
            if iou > 0:
                decay = one
                if method == METHODS.index("gaussian"):
                    decay = np.float32(math.exp(-(iou * iou) / sigma))
                elif iou > overlap:
                    decay = one - iou if method == METHODS.index("linear") else np.float32(0)
                if merge:
                    sums += corner_sums(rows[j], (one - decay) ** exponent)
                rows[j, 4] *= decay
                if rows[j, 4] < floor:
                    kept -= 1
                    rows[j, :5] = rows[kept, :5]
                    ious[j - i - 1] = ious[kept - i - 1]
                    continue  # the box that came here is still to be looked at
            j += 1
        if merge:
            for corner in np.flatnonzero(sums[:, 0] > 0):
                rows[i, 2 * corner : 2 * corner + 2] = sums[corner, 1:] / sums[corner, 0]
    return kept


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of a box with others, (N,) float32, 0 where they do not meet. Adding 1 widens it, as in soft_nms.c."""
    sides = np.minimum(box[2:4], others[:, 2:4]) - np.maximum(box[:2], others[:, :2])
    sides = (sides.astype(np.float64) + 1).astype(np.float32)
    meet = (sides > 0).all(axis=1)
    ious = np.zeros(len(others), np.float32)
    intersection = sides[meet, 0] * sides[meet, 1]
    extent = (others[meet, 2:4] - others[meet, :2]).astype(np.float64) + 1
    area = (extent[:, 0] * extent[:, 1]).astype(np.float32)
    width, height = (box[2:4] - box[:2]).astype(np.float64) + 1
    ious[meet] = intersection / (width * height + area - intersection).astype(np.float32)
    return ious
