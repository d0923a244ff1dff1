"""Measures the speed of the data loader, and the time of its parts:

python -m benchmarks.loader [--data DIR] [--workers 1 2 ...] [--images N] [--side PIXELS] [--batch N] [--collate]

Prints as Markdown: augmented 511x511 training images per second by number of workers, the time per image of each part,
and the bytes transferred from worker to trainer. DIR is a folder in COCO's 2017 layout. Its images are read repeatedly,
so that after the first round the files come from the page cache. The time of reading is that of cached files.

With --collate, it compares packed batches (sample.batch.pack) with PyTorch's own transfer of each tensor instead: for
the whole loader, and for the transport alone, where the workers send samples that were made beforehand.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.reduction import ForkingPickler

import cv2
import numpy as np
import torch

from benchmarks.measure import Spread
from db import AnnotationIndex, DataOptions, load_split, read_image
from nnet.runtime.errors import exit_code
from sample.augment import AugmentOptions, Colour, Sample
from sample.batch import collate, pack
from sample.dataset import Key, TrainingSample, TrainingSet
from sample.geometry import Size
from sample.loader import make_loader
from sample.order import MicroBatches

SIZE = (511, 511)
BATCH = 5  # images per micro-batch, as in most micro-batches of the paper's run
WANTED = 240  # desired images/s on two cores


class Prepared(TrainingSet):
    """A training set whose samples are made once, here, so that only their transport takes time in a worker."""

    def __init__(self, dataset: TrainingSet):
        self.made = [dataset[0, i] for i in range(len(dataset))]

    def __len__(self) -> int:
        return len(self.made)

    def __getitem__(self, key: Key) -> TrainingSample:
        return self.made[key[1]]


def training_set(index: AnnotationIndex, size: Size = SIZE) -> TrainingSet:
    return TrainingSet(index, size, AugmentOptions(), 0)


def throughput(
    dataset: TrainingSet, workers: int, images: int, batch: int = BATCH, gather: Callable | None = None
) -> float:
    """Images per second that the loader delivers after the first batches, while the trainer does nothing else.

    gather: what a worker makes a batch with, in place of the loader's choice.
    """
    count, start = max(1, images // batch), 4 * max(workers, 1)
    batches = MicroBatches(len(dataset), [batch], 0, 0, start + count)
    loader = make_loader(dataset, batches, workers, 0, "cpu")
    loader.collate_fn = gather or loader.collate_fn
    stream = iter(loader)
    for _ in range(start):
        next(stream)
    begun = time.perf_counter()
    for _ in range(count):
        next(stream)
    return count * batch / (time.perf_counter() - begun)


def compare_packing(
    dataset: TrainingSet, workers: int, images: int, batch: int, repeats: int
) -> tuple[Spread, Spread, Spread]:
    """Images per second with `pack` and with `collate`, and their ratio, measured in turn in each round."""
    speeds: dict[Callable, list[float]] = {pack: [], collate: []}
    for number in range(repeats):
        for gather in (pack, collate) if number % 2 == 0 else (collate, pack):
            speeds[gather].append(throughput(dataset, workers, images, batch, gather))
    ratios = [packed / collated for packed, collated in zip(*speeds.values(), strict=True)]
    return Spread.of(speeds[pack]), Spread.of(speeds[collate]), Spread.of(ratios)


def parts(index: AnnotationIndex, images: int) -> dict[str, float]:
    """Milliseconds per image of each part of a worker's work, measured in this process on one thread."""
    cv2.setNumThreads(0)
    dataset, spent = training_set(index), dict.fromkeys(("read", "decode"), 0.0)
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
            sample = Sample(image, *index.annotations(i))
            rng = timed("seed and colour draws", lambda key=(0, epoch, i): np.random.default_rng(key))
            for step in dataset.augmentations:
                name = "seed and colour draws" if isinstance(step, Colour) else "crop, resize, mirror"
                sample = timed(name, partial(step, sample, rng))
        samples = dataset.__getitems__(batch)
        timed("to shared memory", lambda samples=samples: pack(samples))
    for batch in keys:
        timed("all", lambda batch=batch: pack(dataset.__getitems__(batch)))
    spent["decode"] -= spent["read"]  # read_image also reads the file
    return {name: 1000 * seconds / (len(keys) * BATCH) for name, seconds in spent.items()}


def crossing(index: AnnotationIndex) -> tuple[int, int, int]:
    """Bytes per image of a batch: of the images; of boxes, labels, random draws and ids; of the pickled message.

    The worker copies the tensors to shared memory, which the trainer uses without a further copy. The message says
    where they are in that memory.
    """
    packed = pack(training_set(index).__getitems__([(0, i) for i in range(BATCH)]))
    batch = packed.unpack()
    rest = [*batch.objects, batch.image_ids, *batch.colour]
    pickled = len(ForkingPickler.dumps(packed))
    return batch.images.nbytes // BATCH, sum(t.nbytes for t in rest) // BATCH, pickled // BATCH


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the speed of the data loader.")
    parser.add_argument("--data", default="data/coco", metavar="DIR", help="COCO in its 2017 layout")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--images", type=int, default=2000, help="number of images to time")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each number of workers")
    parser.add_argument("--collate", action="store_true", help="compare packed batches with PyTorch's own transfer")
    parser.add_argument("--side", type=int, default=SIZE[0], help="with --collate: pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=BATCH, help="with --collate: images (default: %(default)s)")
    args = parser.parse_args(argv)
    return exit_code(lambda: (measure_packing if args.collate else measure)(args))


def load(folder: str) -> AnnotationIndex:
    """The training images of a folder in COCO's layout. Limits this process to one thread, as in a worker."""
    torch.set_num_threads(1)
    return load_split(DataOptions(root=folder), "train")


def measure_packing(args: argparse.Namespace) -> int:
    index, side, batch = load(args.data), args.side, args.batch
    made = training_set(index, (side, side))
    print(f"Batches of {batch} images of {side}x{side}; median of {args.repeats} rounds (quartiles)\n")
    print("| workers | | packed, images/s | collated, images/s | ratio |\n| --- | --- | --- | --- | --- |")
    for workers in args.workers:
        for name, dataset in (("whole loader", made), ("transport alone", Prepared(made))):
            *speeds, ratio = compare_packing(dataset, workers, args.images, batch, args.repeats)
            cells = [f"{s.median:.0f} ({s.low:.0f} to {s.high:.0f})" for s in speeds]
            cells.append(f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")
            print(f"| {workers} | {name} | {' | '.join(cells)} |", flush=True)
    return 0


def measure(args: argparse.Namespace) -> int:
    index = load(args.data)

    height, width = index.sizes.mean(0)
    print(f"{len(index)} images of {width:.0f}x{height:.0f} pixels on average, crops of {SIZE[1]}x{SIZE[0]}\n")
    print(f"| workers | images/s: best of {args.repeats} (each) |\n| --- | --- |")
    for workers in args.workers:
        speeds = [throughput(training_set(index), workers, args.images) for _ in range(args.repeats)]
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
