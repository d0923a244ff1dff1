"""Soft-NMS (Bodla et al., ICCV 2017), and the merging variant that CornerNet uses for multi-scale testing, as computed
by CornerNet's released code.

The computation is compiled C (soft_nms.c, called through cffi). If it is not built, Python and NumPy compute the same
results, more slowly. One warning says so.
"""

import math
import warnings
from typing import NamedTuple

import numpy as np

METHODS = ("hard", "linear", "gaussian")
LIMIT = 1e15  # largest absolute value of coordinates and scores, so that no area overflows float32

try:
    from external.soft_nms._soft_nms import ffi, lib
except ImportError as error:
    lib = None
    warnings.warn(
        f"soft-NMS runs in Python, which is slower: {error}; "
        "build it with `pip install --no-build-isolation -e .` in the repository's root",
        RuntimeWarning,
        stacklevel=2,
    )


class Settings(NamedTuple):
    """How boxes are suppressed, in the order of the C function's arguments. See soft_nms."""

    method: int  # index in METHODS
    sigma: float
    overlap: float
    floor: float
    merge: bool
    exponent: float


class Suppressed(NamedTuple):
    """N boxes after suppression, grouped by class in the order of their labels.

    Within a class the kept boxes come first, by decreasing score. The remaining rows are stale: they hold what the
    in-place algorithm leaves behind. They are returned because the released code returns them as well.
    """

    boxes: np.ndarray  # (N, columns) float32
    labels: np.ndarray  # (N,) int64
    kept: np.ndarray  # (N,) bool: False for stale rows


def soft_nms(
    boxes: np.ndarray,
    labels: np.ndarray | None = None,
    method: str = "gaussian",
    sigma: float = 0.5,
    overlap: float = 0.5,
    floor: float = 0.001,
) -> Suppressed:
    """Decay the scores of boxes that overlap a better box of their class, and drop boxes whose score becomes too low.

    Args:
        boxes: (N, >= 5) x1, y1, x2, y2 in pixels, score; any array that converts to float32. It is not modified.
            Further columns are returned in their original rows: they do not move with their box, as in the released
            code.
        labels: (N,) integers, the class of each box; None if all boxes are of one class.
        method: the factor by which a box's score is multiplied, where o is its IoU with a better box (widths and
            heights plus 1). "hard": 0 if o > overlap, else 1; "linear": 1 - o if o > overlap, else 1; "gaussian":
            exp(-o^2 / sigma).
        sigma: width of the Gaussian, above 0 also when it is rounded to float32.
        overlap: IoU threshold of "hard" and "linear".
        floor: boxes whose decayed score is below it are dropped.

    Raises ValueError for boxes or labels of a wrong shape or dtype, values that are not finite or exceed `LIMIT`, an
    unknown method or parameters out of range.
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
    """`soft_nms` in which each kept box becomes a weighted average of itself and the boxes whose scores it decays.

    Args:
        boxes: (N, >= 7) x1, y1, x2, y2 in pixels, score, top-left corner score, bottom-right corner score.
        exponent: a box whose score is multiplied by d gets the weight (1 - d)^exponent times its corner score: the
            top-left score for x1, y1 and the bottom-right score for x2, y2. The weights of the kept box are its corner
            scores. A corner does not move if all its weights are 0.

    The other arguments, the result and the errors are those of `soft_nms`.
    """
    return _run(boxes, labels, method, sigma, overlap, floor, merge=True, exponent=exponent, columns=7)


def _run(
    boxes, labels, method: str, sigma: float, overlap: float, floor: float, merge: bool, exponent: float, columns: int
) -> Suppressed:
    if method not in METHODS:
        raise ValueError(f"unknown soft-NMS method {method!r}, expected one of {', '.join(METHODS)}")
    if not (math.isfinite(sigma) and np.float32(sigma) > 0):  # a sigma that rounds to 0 would give 0 / 0
        raise ValueError(f"soft-NMS needs a sigma above 0 in float32, got {sigma}")
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
    with np.errstate(over="ignore"):  # values that overflow are reported below
        rows = rows.astype(np.float32, order="C")  # always a copy: the caller's array is not modified
    if not (np.abs(rows) <= LIMIT).all():
        bad = int(np.flatnonzero(~(np.abs(rows) <= LIMIT).all(axis=1))[0])
        raise ValueError(
            f"soft-NMS expects finite boxes with absolute values up to {LIMIT:g}, but row {bad} is {rows[bad].tolist()}"
        )
    labels = labels.astype(np.int64)
    if (labels[1:] < labels[:-1]).any():
        order = labels.argsort(kind="stable")
        rows, labels = rows[order], labels[order]
    run = _python_classes if lib is None else _compiled_classes
    kept = run(rows, labels, Settings(METHODS.index(method), sigma, overlap, floor, merge, exponent))
    return Suppressed(rows, labels, kept)


def _compiled_classes(rows: np.ndarray, labels: np.ndarray, settings: Settings) -> np.ndarray:
    kept = np.empty(len(rows), bool)
    pointers = ffi.from_buffer("float[]", rows), ffi.from_buffer("int64_t[]", labels)
    if lib.soft_nms(*pointers, *rows.shape, *settings, ffi.from_buffer("unsigned char[]", kept)):
        raise MemoryError(f"soft-NMS of {len(rows)} boxes: out of memory")
    return kept


def _python_classes(rows: np.ndarray, labels: np.ndarray, settings: Settings) -> np.ndarray:
    kept = np.empty(len(rows), bool)
    ends = [*np.flatnonzero(np.diff(labels)) + 1, len(rows)]
    for begin, end in zip([0, *ends], ends, strict=False):
        kept[begin:end] = np.arange(end - begin) < _python_soft_nms(rows[begin:end], settings)
    return kept


def _python_soft_nms(rows: np.ndarray, settings: Settings) -> int:
    """The algorithm of soft_nms.c for one class, with the same rounding.

    Modifies rows in place. Returns the number of kept rows, which come first.
    """
    one = np.float32(1)
    method, sigma, overlap, floor, merge, exponent = settings
    sigma, overlap, floor, exponent = (np.float32(value) for value in (sigma, overlap, floor, exponent))
    kept = len(rows)
    for i in range(len(rows)):
        top = i + int(rows[i:kept, 4].argmax()) if i < kept else i
        rows[[i, top], :5] = rows[[top, i], :5]
        best = rows[i].copy()

        def corner_sums(row: np.ndarray, weight: np.float32) -> np.ndarray:
            """Weight, weighted x and weighted y of a row's two corners: (2, 3)."""
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
                    continue  # row j now holds another box, which is processed next
            j += 1
        if merge:
            for corner in np.flatnonzero(sums[:, 0] > 0):
                rows[i, 2 * corner : 2 * corner + 2] = sums[corner, 1:] / sums[corner, 0]
    return kept


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of a box with others: (N,) float32, 0 where they do not intersect.

    Widths and heights are the differences of the coordinates plus 1. That addition is done in float64, as in
    soft_nms.c.
    """
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
