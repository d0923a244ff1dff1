"""Benchmarks of the data: a training sample compared with decoding its JPEG, and an annotation index of the size of
COCO train2017 compared with json.loads.
"""

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.loader import BATCH, SIZE, crossing
from benchmarks.measure import Row, Setting, limit_row, race, times_row
from db import AnnotationIndex, DataOptions, Split, load_index, load_split
from sample.augment import AugmentOptions
from sample.batch import pack
from sample.dataset import TrainingSet
from sample.order import MicroBatches

IMAGES, BOXES, CATEGORIES = 118_287, 860_001, 80  # the numbers of train2017
SAMPLE = 8 / 4.5  # target: at most 8 ms on a machine where decoding takes 4.5 ms and the released code's sample 13.5 ms
INDEX = 6 / 11.2  # target: at most 6 s on a machine where json.loads takes 11.2 s and the released code's index 18.6 s
MEGABYTE = 1e6


def draw_photograph(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise with a spectrum like that of photographs, so that its JPEG has about the same size: uint8 (H, W, 3)."""
    image, side = np.full((height, width, 3), 120, np.float32), 4
    while side <= max(height, width):
        shape = max(1, height * side // width), side
        octave = 0.8 * rng.normal(size=(*shape, 1)) + 0.4 * rng.normal(size=(*shape, 3))  # mostly grey
        image += cv2.resize(octave.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC) * 60 / side**0.25
        side *= 2
    return image.clip(0, 255).astype(np.uint8)


def draw_photographs(folder: Path, count: int) -> AnnotationIndex:
    """Draw JPEGs of the size of COCO's (150 kB on average) with 7 boxes each, in COCO's 2017 layout."""
    rng, images = np.random.default_rng(0), folder / "train2017"
    images.mkdir()
    sizes = [[(480, 640), (427, 640), (640, 480)][i % 3] for i in range(count)]
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": h, "width": w} for i, (h, w) in enumerate(sizes, start=1)
        ],
        "annotations": [],
        "categories": [{"id": 1, "name": "thing"}],
    }
    for entry in content["images"]:
        picture = draw_photograph(rng, entry["height"], entry["width"])
        cv2.imwrite(str(images / entry["file_name"]), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
        for _ in range(7):
            x, y, w, h = rng.uniform(5, 200, 4).round(2).tolist()
            content["annotations"].append({"image_id": entry["id"], "category_id": 1, "bbox": [x, y, w, h]})
    file = folder / "instances_train2017.json"
    file.write_text(json.dumps(content))
    return load_index(file, images)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit PyTorch and OpenCV to one thread, as in a worker process."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def sample(setting: Setting) -> Iterator[Row]:
    """The work of a loading worker for an image, up to shared memory, and the bytes transferred to the trainer."""
    with tempfile.TemporaryDirectory(prefix="benchmarks_") as folder, one_thread():
        if setting.data:
            split = Split(("train2017",), ("annotations/instances_train2017.json",), limit=80)
            index = load_split(DataOptions(root=str(setting.data), train=split), "train")
        else:
            index = draw_photographs(Path(folder), 5 if setting.small else 40)
        dataset = TrainingSet(index, SIZE, AugmentOptions(), 0)
        files = [np.fromfile(index.path(i), np.uint8) for i in range(len(index))]
        batches = list(MicroBatches(len(index), [BATCH], 0, 0, len(index) // BATCH))
        count = len(batches) * BATCH
        chosen = [files[i] for keys in batches for _, i in keys]

        def ours() -> None:
            for keys in batches:
                pack(dataset.__getitems__(keys))

        def decode() -> None:
            for file in chosen:
                cv2.imdecode(file, cv2.IMREAD_COLOR)

        times = race(setting, {"ours": ours, "base": decode}, one_core=True)
        times = {name: [t / count for t in values] for name, values in times.items()}
        size = f"{sum(map(len, chosen)) / count / 1000:.0f} kB"
        case, target = f"an augmented image, 1 core (JPEGs of {size})", SAMPLE
        yield times_row(
            setting, "sample", case, times, "JPEG decode alone", target, note="8 ms where decoding takes 4.5"
        )
        crossed = sum(crossing(index)) / MEGABYTE
        yield limit_row(setting, "sample", "from worker to trainer, per image", "MB", crossed, 1.0)


def write_annotations(folder: Path, images: int, boxes: int) -> tuple[Path, Path]:
    """Write an annotation file like COCO's instances_train2017.json, and a folder of empty image files.

    Polygons are as long as those of COCO: 45 numbers on average, with a median of 32. 1% of the objects are crowds. The
    polygons repeat after 4000 objects. Returns the paths of the file and the folder.
    """
    rng, listed = np.random.default_rng(0), folder / "train2017"
    listed.mkdir()
    ids = rng.permutation(np.sort(rng.choice(5 * images, images, replace=False)) + 1).tolist()
    sizes = [(480, 640), (427, 640), (640, 480)]
    polygons = []
    for count in np.exp(rng.normal(np.log(32), 0.84, 4000)).astype(int).clip(6, 900) // 2 * 2:
        polygons.append(", ".join(f"{value:.2f}" for value in rng.uniform(0, 480, count)))
    runs = [", ".join(str(value) for value in rng.integers(1, 3000, 300)) for _ in range(100)]

    def image(i: int) -> str:
        (listed / f"{i:012}.jpg").touch()
        height, width = sizes[i % 3]
        return (
            f'{{"license": 4, "file_name": "{i:012}.jpg", '
            f'"coco_url": "http://images.cocodataset.org/train2017/{i:012}.jpg", "height": {height}, "width": {width}, '
            '"date_captured": "2013-11-14 17:02:52", '
            f'"flickr_url": "http://farm9.staticflickr.com/8186/{8119368305 + i}_4e622c8349_z.jpg", "id": {i}}}'
        )

    owners = rng.integers(0, images, boxes).tolist()
    numbers = rng.uniform(1, 240, (boxes, 4)).round(2).tolist()
    labels = rng.integers(1, CATEGORIES + 1, boxes).tolist()

    def annotation(i: int) -> str:
        x, y, w, h = numbers[i]
        crowd = i % 100 == 99
        shape = (
            f'{{"counts": [{runs[i % len(runs)]}], "size": [480, 640]}}'
            if crowd
            else f"[[{polygons[i % len(polygons)]}]]"
        )
        return (
            f'{{"segmentation": {shape}, "area": {w * h * 0.61}, "iscrowd": {crowd:d}, "image_id": {ids[owners[i]]}, '
            f'"bbox": [{x}, {y}, {w}, {h}], "category_id": {labels[i]}, "id": {i + 1}}}'
        )

    path = folder / "instances_train2017.json"
    with open(path, "w") as file:
        file.write('{"info": {"year": 2017}, "licenses": [], "images": [')
        file.write(", ".join(map(image, ids)))
        file.write('], "annotations": [')
        for first in range(0, boxes, 10_000):
            file.write(", " * (first > 0) + ", ".join(map(annotation, range(first, min(first + 10_000, boxes)))))
        names = ", ".join(f'{{"id": {i}, "name": "class {i}"}}' for i in range(1, CATEGORIES + 1))
        file.write(f'], "categories": [{names}]}}')
    return path, listed


def index(setting: Setting) -> Iterator[Row]:
    """Time and memory of an annotation index of the size of train2017."""
    with tempfile.TemporaryDirectory(prefix="benchmarks_") as folder:
        images, boxes = (50, 300) if setting.small else (IMAGES, BOXES)
        path, listed = write_annotations(Path(folder), images, boxes)
        works = (lambda: load_index(path, listed)), lambda: json.loads(path.read_bytes())
        case = f"{images:,} images, {boxes:,} boxes, {path.stat().st_size / MEGABYTE:.0f} MB"
        times = race(setting, {"ours": works[0], "base": works[1]}, rounds=3, one_core=True)
        note = "6 s where json.loads takes 11.2"
        yield times_row(setting, "index", case, times, "json.loads of the file, alone", INDEX, note=note)
        loaded = load_index(path, listed)
        held = sum(value.nbytes for value in vars(loaded).values() if isinstance(value, np.ndarray)) / MEGABYTE
        yield limit_row(setting, "index", "one copy in memory", "MB", held, 100.0)
        if (added := worker_memory(loaded)) is not None:
            case = "added by each worker that has read all of it"
            yield limit_row(setting, "index", case, "MB", added / MEGABYTE, held, "a copy", judged=False)


def worker_memory(loaded: AnnotationIndex) -> int | None:
    """Private memory in bytes that a forked process allocates while it reads the whole index.

    None if the system does not report it.
    """
    if sys.platform != "linux" or not os.access("/proc/self/smaps_rollup", os.R_OK):
        return None
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=read_all, args=(loaded, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        process.join()


def read_all(loaded: AnnotationIndex, answer) -> None:
    before = private_memory()
    for i in range(len(loaded)):
        loaded.path(i)
        boxes, labels = loaded.annotations(i)
        boxes.sum() + labels.sum()
    answer.send(private_memory() - before)


def private_memory() -> int:
    """Bytes of this process's memory that are not shared with other processes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))
