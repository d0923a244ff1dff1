"""Measures the speed of the data loader, and the time of its parts:

python -m benchmarks.loader [--data DIR] [--workers 1 2 ...] [--images N]

Prints as Markdown: augmented 511x511 training images per second by number of workers, the time per image of each part,
and the bytes transferred from worker to trainer. DIR is a folder in COCO's 2017 layout. Its images are read repeatedly,
so that after the first round the files come from the page cache. The time of reading is that of cached files.
"""

import argparse
import sys
import time
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler

import cv2
import numpy as np
import torch

from db import CocoIndex
from nnet.experiment import exit_code, load_split
from sample import Augment, MicroBatches, TrainingSet, make_loader, read_image
from sample.augment import apply_crop, draw_crop
from sample.colour import draw_colour
from sample.loader import pack

SIZE = (511, 511)
BATCH = 5  # images per micro-batch, as in most micro-batches of the paper's run
WANTED = 240  # desired images/s on two cores


def throughput(index: CocoIndex, workers: int, images: int) -> float:
    """Images per second that the loader delivers after the first batches, while the trainer does nothing else."""
    count, start = images // BATCH, 4 * max(workers, 1)
    batches = MicroBatches(len(index), [BATCH], 0, 0, start + count)
    stream = iter(make_loader(TrainingSet(index, SIZE, Augment(), 0), batches, workers, 0, "cpu"))
    for _ in range(start):
        next(stream)
    begun = time.perf_counter()
    for _ in range(count):
        next(stream)
    return count * BATCH / (time.perf_counter() - begun)


def parts(index: CocoIndex, images: int) -> dict[str, float]:
    """Milliseconds per image of each part of a worker's work, measured in this process on one thread."""
    cv2.setNumThreads(0)
    dataset, spent = TrainingSet(index, SIZE, Augment(), 0), dict.fromkeys(("read", "decode"), 0.0)
    for name in ("seed and colour draws", "crop, resize, mirror", "to shared memory", "all"):
        spent[name] = 0.0

    def timed(name: str, work: Callable):
        begun = time.perf_counter()
        value = work()
        spent[name] += time.perf_counter() - begun
        return value

    def read(path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    keys = [keys for keys in MicroBatches(len(index), [BATCH], 0, 0, images // BATCH)]
    for batch in keys:
        for epoch, i in batch:
            path, size = index.path(i), tuple(index.sizes[i].tolist())
            timed("read", lambda path=path: read(path))
            image = timed("decode", lambda path=path, size=size: read_image(path, size))
            boxes, labels = index.annotations(i)
            rng = timed("seed and colour draws", lambda key=(0, epoch, i): np.random.default_rng(key))
            crop = draw_crop(rng, *image.shape[:2], dataset.augment)
            shown = (image, boxes, labels, crop, SIZE)
            timed("crop, resize, mirror", lambda shown=shown: apply_crop(*shown))
            timed("seed and colour draws", lambda rng=rng: draw_colour(rng))
        samples = dataset.__getitems__(batch)
        timed("to shared memory", lambda samples=samples: pack(samples))
    for batch in keys:
        timed("all", lambda batch=batch: pack(dataset.__getitems__(batch)))
    spent["decode"] -= spent["read"]  # read_image also reads the file
    return {name: 1000 * seconds / (len(keys) * BATCH) for name, seconds in spent.items()}


def crossing(index: CocoIndex) -> tuple[int, int, int]:
    """Bytes per image of a batch: of the images; of boxes, labels, random draws and ids; of the pickled message.

    The worker copies the tensors to shared memory, which the trainer uses without a further copy. The message says
    where they are in that memory.
    """
    dataset = TrainingSet(index, SIZE, Augment(), 0)
    packed = pack(dataset.__getitems__([(0, i) for i in range(BATCH)]))
    batch = packed.unpack()
    rest = [batch.boxes, batch.labels, batch.image_index, batch.image_ids, *batch.colour]
    pickled = len(ForkingPickler.dumps(packed))
    return batch.images.nbytes // BATCH, sum(t.nbytes for t in rest) // BATCH, pickled // BATCH


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the speed of the data loader.")
    parser.add_argument("--data", default="data/coco", metavar="DIR", help="COCO in its 2017 layout")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--images", type=int, default=2000, help="number of images to time")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each number of workers")
    args = parser.parse_args(argv)
    return exit_code(lambda: measure(args))


def measure(args: argparse.Namespace) -> int:
    index = load_split(args.data, ["train2017"], ["annotations/instances_train2017.json"])
    torch.set_num_threads(1)  # as in a worker

    height, width = index.sizes.mean(0)
    print(f"{len(index)} images of {width:.0f}x{height:.0f} pixels on average, crops of {SIZE[1]}x{SIZE[0]}\n")
    print(f"| workers | images/s: best of {args.repeats} (each) |\n| --- | --- |")
    for workers in args.workers:
        speeds = [throughput(index, workers, args.images) for _ in range(args.repeats)]
        print(f"| {workers} | {max(speeds):.0f} ({', '.join(f'{s:.0f}' for s in speeds)}) |", flush=True)
    spent = parts(index, min(args.images, 500))
    whole = spent.pop("all")
    print("\n| part | ms per image | share |\n| --- | --- | --- |")
    for name, ms in spent.items():
        print(f"| {name} | {ms:.2f} | {ms / sum(spent.values()):.0%} |")
    print(f"| all together | {whole:.2f} | |")
    print(f"\nOne core: {1000 / whole:.0f} images/s; two cores: {2000 / whole:.0f} (desired: {WANTED}).")
    images, rest, pickled = crossing(index)
    print(
        f"Bytes per image from worker to trainer: {images:,} of pixels, {rest:,} of boxes and draws, in shared memory;"
    )
    print(f"{pickled:,} through the pipe.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
