"""What several test modules build: small networks and checkpoints, random batches, toy data, harmful pickles."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import configs
from db import AnnotationIndex, evaluate, false_discovery
from models.hourglass import HourglassOptions
from models.losses import LossOptions
from nnet.families import FAMILIES, Family, ModelOptions, build_family
from nnet.runtime import checkpoint
from sample.colour import ColourDraw
from sample.dataset import Batch, Unreadable
from sample.targets import BatchObjects, PenaltyOptions

SMALL_BACKBONE = {"stacks": 1, "stem_width": 4, "widths": (4, 6), "blocks": (1, 1)}


def small_options(
    detector: str = "cornernet", backbone: Mapping[str, Any] | None = None, **options: Any
) -> ModelOptions:
    """Options of a tiny network: hourglasses of SMALL_BACKBONE changed by `backbone`, pools of width 2."""
    kind = {family.Options().detector: family.Options for family in FAMILIES}[detector]
    if "pool_width" in kind.__dataclass_fields__:
        options = {"pool_width": 2} | options
    return kind(backbone=HourglassOptions(**SMALL_BACKBONE | dict(backbone or {})), **options)


def small_family(
    detector: str = "cornernet",
    classes: int = 3,
    backbone: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    penalty: PenaltyOptions | None = None,
    loss: LossOptions | None = None,
    **options: Any,
) -> Family:
    """A family with a tiny network, whose weights are drawn from the seed. See small_options."""
    torch.manual_seed(seed)
    model = small_options(detector, backbone, **options)
    return build_family(classes, model, penalty or PenaltyOptions(), loss or LossOptions())


def small_network(*args: Any, **options: Any) -> nn.Module:
    """The network of small_family."""
    return small_family(*args, **options).network


def make_batch(
    images: int,
    objects: int,
    seed: int = 0,
    *,
    size: tuple[int, int] = (63, 63),
    classes: int = 3,
    corners: float = 20,
    colour: ColourDraw | None = None,
    first_id: int = 0,
    unreadable: Sequence[Unreadable] = (),
) -> Batch:
    """A batch of random images of this (height, width), with `objects` boxes in all.

    corners: the top-left corners are within this many pixels of the image's. first_id: id of the first image.
    """
    r = np.random.default_rng(seed)
    corner = r.uniform(0, corners, (objects, 2))
    boxes = np.concatenate([corner, corner + r.uniform(4, 40, (objects, 2))], 1).clip(0, min(size) - 1)
    pixels = torch.from_numpy(r.integers(0, 256, (images, 3, *size), dtype=np.uint8))
    labels = torch.from_numpy(r.integers(0, classes, objects))
    image_index = torch.from_numpy(np.sort(r.integers(0, images, objects)))
    there = BatchObjects(torch.from_numpy(boxes), labels, image_index)
    return Batch(pixels, there, colour, torch.arange(first_id, first_id + images), list(unreadable))


def changed_toy(toy: Path, parent: Path, change: Callable[[dict, Path], dict | str | None]) -> Path:
    """Copy the toy data into a folder `toy` of `parent`, and change its training annotations; returns the copy.

    `change` takes the content of the annotation file and the copy's folder. It may change both in place, or return the
    file's new content, as an object for JSON or as text.
    """
    folder = parent / "toy"
    shutil.copytree(toy, folder)
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content = change(content, folder) or content
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def save_detector(path: Path, config: configs.Config, categories: list[list], seed: int = 0) -> None:
    """Save a network as train.py does: with its config and the ids and names of its categories.

    Its weights are random, such that it finds objects anywhere in an image.
    """
    torch.manual_seed(seed)
    family = build_family(len(categories[0]), config.model, config.penalty, config.loss)
    draw_weights(family.network)
    state = {"model": family.network.state_dict(), "config": configs.to_dict(config), "categories": categories}
    checkpoint.save(path, state)


def make_results(index: AnnotationIndex, seed: int) -> list[dict]:
    """Detections in COCO's format near most objects, some of another class or elsewhere."""
    r = np.random.default_rng(seed)
    results = []
    for i in range(len(index)):
        for box, label in zip(*index.objects(i)[:2], strict=True):
            for spread in (0.02, 0.2):
                x1, y1, x2, y2 = box + r.normal(0, spread, 4) * (box[2] - box[0])
                category = index.category_ids[label if r.random() < 0.7 else (label + 1) % index.num_classes]
                results.append(make_result(index, i, category, [x1, y1, max(x2 - x1, 1), max(y2 - y1, 1)], r.random()))
        results.append(make_result(index, i, index.category_ids[0], [0, 0, 9, 9], r.random()))
    return results


def make_result(index: AnnotationIndex, i: int, category: int, box: Sequence[float], score: float) -> dict:
    """A detection in COCO's format."""
    image = int(index.image_ids[i])
    return {"image_id": image, "category_id": category, "bbox": list(map(float, box)), "score": float(score)}


def write_run(
    folder: Path, config: configs.Config, checkpoint: Path, index: AnnotationIndex, results: list[dict], **more: Any
) -> Path:
    """Write a finished run, as test.py leaves it. more: further content of metrics.json."""
    folder.mkdir(parents=True)
    evaluation = evaluate(index, results)
    metrics = evaluation | false_discovery(index, results) | {"AP_per_class": evaluation.per_class}
    metrics |= {"config": configs.to_dict(config), "split": "val", "checkpoint": str(checkpoint), "iteration": 4}
    metrics |= {"images": len(index), "detections": len(results), "truth": [], "seconds_per_image": 0.25}
    (folder / "metrics.json").write_text(json.dumps(metrics | more))
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def draw_weights(network: nn.Module) -> None:
    """Give a network random weights, such that it finds objects anywhere in an image."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            torch.nn.init.kaiming_normal_(parameter)
            if parameter.shape[-1] == 1:  # those of the heads are among them
                parameter.data *= 0.1


def run_state(iteration: int, weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What a checkpoint of a run holds, as little as there can be."""
    zero, random = torch.zeros(()), {"cpu": torch.get_rng_state()}
    return {
        "iteration": iteration,
        "model": dict(weights),
        "optimizer": {"state": {}, "param_groups": [{"params": [0]}]},
        "scaler": {},
        "window": {"steps": 0, "terms": zero, "norm": zero},
        "random": random,
        "config": {},
        "categories": [[1], ["thing"]],
    }


class CommandWhenUnpickled:
    """An object whose unpickling runs a command, which makes a file `ran` in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.system, (f"touch {self.folder}/ran",)
