"""What several sampling tests need: random and damaged images, batches and their comparison, golden crops."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from db import AnnotationIndex, load_index, read_image
from sample.augment import AugmentOptions, Crop, Mirror, RandomCrop, Sample
from sample.dataset import Batch, TrainingSet
from sample.loader import make_loader
from sample.order import MicroBatches


def picture(height: int, width: int) -> np.ndarray:
    """Noise, (height, width, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def damage(index: AnnotationIndex, i: int) -> None:
    """Cut the file of image i short."""
    with open(index.path(i), "r+b") as file:
        file.truncate(os.path.getsize(index.path(i)) // 2)


def load_batches(
    index: AnnotationIndex,
    start: int,
    end: int,
    workers: int = 0,
    batch: Sequence[int] = (2, 3),
    seed: int = 1,
    mine: Sequence[int] | None = None,
    augment: AugmentOptions | None = AugmentOptions(),  # noqa: B008 - frozen
) -> list[Batch]:
    """The micro-batches of iterations `start` to `end` - 1, of 64 x 64 pixels."""
    dataset = TrainingSet(index, (64, 64), augment, seed)
    batches = MicroBatches(len(index), batch, seed, start, end, mine)
    return list(make_loader(dataset, batches, workers, 60, "cpu"))


def assert_same(a: Sequence[Batch], b: Sequence[Batch]) -> None:
    """Assert that two lists of batches are equal bit for bit."""
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.unreadable == other.unreadable
        assert torch.equal(one.images, other.images) and torch.equal(one.image_ids, other.image_ids)
        for name, mine, same in zip(one.objects._fields, one.objects, other.objects, strict=True):
            assert torch.equal(mine, same), name
        assert (one.colour is None) == (other.colour is None)
        for part, same in zip(one.colour or (), other.colour or (), strict=True):
            assert torch.equal(part, same)


def golden_index(shared_data: Path, split: str) -> tuple[AnnotationIndex, dict[str, int]]:
    """The index of a split of COCO's small excerpt, and the position of each file name in it."""
    coco = shared_data / "coco_tiny"
    index = load_index(coco / "annotations" / f"instances_{split}.json", coco / split)
    return index, {index.path(i).rpartition("/")[2]: i for i in range(len(index))}


def golden_crops(golden: Callable[[str], Path], shared_data: Path) -> Iterator[tuple[dict, Callable[..., Sample]]]:
    """The draws of each image of augment.json, and a function of an input size that makes its sample from them."""
    drawn = json.loads(golden("augment.json").read_text())
    index, where = golden_index(shared_data, drawn["split"])
    for draw in drawn["images"]:
        i = where[draw["file"]]

        def make(input_size: tuple[int, int], i: int = i, draw: dict = draw) -> Sample:
            crop = RandomCrop(input_size, (draw["scale"],), 0)
            sample = Sample(read_image(index.path(i)), *index.annotations(i))
            sample = crop.apply(sample, Crop(draw["scale"], draw["center_x"], draw["center_y"]))
            return Mirror(0.5).apply(sample, draw["flip"])

        yield draw, make
