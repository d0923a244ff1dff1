"""Benchmarks of decoding and suppression, compared with the published computations."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Row, Setting, timed_row
from external.soft_nms import soft_nms, soft_nms_merge
from models.decode import Detections, decode_corners
from models.keypoints import KeypointMaps

FIFTH = 1 / 5  # target: a fifth of the time of the released implementation
# The released soft-NMS is Cython code that calls NumPy for every exponential. It takes 1.4 times as long as the plain C
# code used here (see docs/performance.md), which compiles on any machine with a C compiler.
RELEASE_IN_PLAIN_C = 1.4
RELEASED = {("soft_nms", 500): 3.5, ("soft_nms", 2000): 38.6, ("merge", 500): 4.2, ("merge", 2000): 43.6}  # ms


def published_decode(top_left: KeypointMaps, bottom_right: KeypointMaps, k: int, pairs: int = 1000) -> Detections:
    """Decoding by the published computation, step by step. Boxes are in cells."""
    batch = len(top_left.heatmap)
    corners = []
    for maps in (top_left, bottom_right):
        heat = torch.sigmoid(maps.heatmap)
        _, _, height, width = heat.shape
        highest = F.max_pool2d(heat, 3, stride=1, padding=1)
        heat = heat * (highest == heat).float()
        scores, index = torch.topk(heat.view(batch, -1), k)
        classes, cell = index // (height * width), index % (height * width)
        rows, columns = (cell // width).float(), (cell % width).float()

        def taken(values: Tensor, cell: Tensor = cell) -> Tensor:  # (B, C, h, w) -> (B, K, C)
            channels = values.shape[1]
            flat = values.permute(0, 2, 3, 1).contiguous().view(batch, -1, channels)
            return flat.gather(1, cell[:, :, None].expand(batch, k, channels))

        embedding, offset = taken(maps.embedding)[..., 0], taken(maps.offset)
        corners.append((scores, classes, columns + offset[..., 0], rows + offset[..., 1], embedding))
    first = [value.view(batch, k, 1).expand(batch, k, k) for value in corners[0]]
    second = [value.view(batch, 1, k).expand(batch, k, k) for value in corners[1]]
    scores = (first[0] + second[0]) / 2
    scores[first[1] != second[1]] = -1
    scores[(first[4] - second[4]).abs() > 0.5] = -1
    scores[second[2] < first[2]] = -1
    scores[second[3] < first[3]] = -1
    scores, index = torch.topk(scores.reshape(batch, -1), min(pairs, k * k))
    boxes = torch.stack((first[2], first[3], second[2], second[3]), 3).view(batch, -1, 4)
    boxes = boxes.gather(1, index[:, :, None].expand(*index.shape, 4))
    top_left, bottom_right, labels = (
        value.contiguous().view(batch, -1).gather(1, index) for value in (first[0], second[0], first[1])
    )
    return Detections(boxes, scores, labels, torch.stack([top_left, bottom_right], 2))


def draw_maps(setting: Setting, seed: int) -> KeypointMaps:
    """Maps of an image of 511x767 and its mirror image. Most scores are low, as those of a trained network."""
    batch, classes, height, width = (2, 5, 16, 24) if setting.small else (2, 80, 128, 192)
    generator = torch.Generator().manual_seed(seed)
    heat, embedding, offset = (torch.randn(batch, c, height, width, generator=generator) for c in (classes, 1, 2))
    return KeypointMaps(*(v.to(setting.device) for v in (heat * 1.5 - 6, embedding, offset.sigmoid())))


def decode(setting: Setting) -> Iterator[Row]:
    maps, k = [draw_maps(setting, seed) for seed in (0, 1)], 10 if setting.small else 100
    size = "x".join(map(str, maps[0].heatmap.shape))
    with torch.inference_mode():
        base = "published, plain PyTorch", lambda: published_decode(*maps, k)
        ours = lambda: decode_corners(*maps, k)  # noqa: E731
        yield timed_row(setting, "decode", f"{size}, K = {k}", ours, base, FIFTH, graphs=True)


def draw_boxes(count: int) -> np.ndarray:
    """Boxes of one class at random places in an image: (count, 7), 20 to 250 pixels wide and high."""
    rng = np.random.default_rng(0)
    centers = rng.uniform(0, (640, 480), (count, 2))
    half = np.exp(rng.uniform(np.log(20), np.log(250), (count, 2))) / 2
    boxes = np.concatenate([centers - half, centers + half], 1).clip(0, 640)
    return np.concatenate([boxes, rng.uniform(0.01, 1, (count, 3))], 1).astype(np.float32)


def compile_published(folder: Path) -> Callable[[np.ndarray, bool], tuple[np.ndarray, int]] | None:
    """Compile the published suppression (Gaussian) in plain C with -O2. None if there is no C compiler.

    The function returned maps boxes and whether to merge to the resulting rows and the number of kept rows.
    """
    compiler = next(filter(None, (shutil.which(c) for c in (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None:
        return None
    source, library = Path(__file__).with_name("published_soft_nms.c"), folder / "published_soft_nms.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", str(source), "-o", str(library), "-lm"], check=True)
    function = ctypes.CDLL(str(library)).published_soft_nms
    function.argtypes = [ctypes.c_void_p, *[ctypes.c_int] * 2, *[ctypes.c_float] * 2, ctypes.c_int, ctypes.c_float]

    def run(boxes: np.ndarray, merge: bool) -> tuple[np.ndarray, int]:
        rows = boxes.copy()
        return rows, function(rows.ctypes.data, *rows.shape, 0.5, 0.001, merge, 10.0)

    return run


def suppression(setting: Setting) -> Iterator[Row]:
    """Soft-NMS of 500 and of 2000 boxes of one class, without and with merging."""
    with tempfile.TemporaryDirectory(prefix="benchmarks_") as folder:
        published = compile_published(Path(folder))
        if published is None:
            raise RuntimeError("soft_nms is compared with published code compiled from C, and no C compiler was found")
        for name, function, columns in (("soft_nms", soft_nms, 5), ("merge", soft_nms_merge, 7)):
            for count in (20, 40) if setting.small else (500, 2000):
                boxes = np.ascontiguousarray(draw_boxes(count)[:, :columns])
                works = (lambda b=boxes, f=function: f(b)), (lambda b=boxes, m=columns == 7: published(b, m))
                released = RELEASED.get((name, count))
                note = f"at most {released / 5:.1f} ms where the release took {released}" if released else ""
                case, base = f"{name}, {count} boxes", ("published, plain C", works[1])
                target = FIFTH * RELEASE_IN_PLAIN_C
                yield timed_row(setting, "soft_nms", case, works[0], base, target, one_core=True, note=note)
