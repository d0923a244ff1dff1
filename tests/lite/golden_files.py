"""Reading CornerNet-Lite's golden vectors."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from db import AnnotationIndex, evaluate, load_index
from models.keypoints import CORNERS, KeypointMaps
from nnet.runtime import checkpoint
from nnet.runtime.released_names import rename
from sample.augment import Sample
from sample.colour import BRIGHTNESS, CONTRAST, SATURATION, ColourDraw, normalise
from tests.golden_files import Golden, released_state

COLOURS = {"brightness": BRIGHTNESS, "contrast": CONTRAST, "saturation": SATURATION}


def seed_of(golden: Golden) -> int:
    """The seed S of the golden vectors."""
    return json.loads(golden("manifest.json").read_text())["seed"]


def released_network(golden: Golden, folder: Path, name: str, network: nn.Module) -> nn.Module:
    """The network with the weights of a released checkpoint of params_lite_`name`, which is written to the folder and
    read from there."""
    names = json.loads(golden(f"params_lite_{name}.json").read_text())
    path = folder / f"CornerNet_{name}_500000.pkl"
    torch.save(released_state(names), path)
    checkpoint.load_weights(network, checkpoint.load(path)["model"], path)
    path.unlink()
    return network


def compare_parameters(golden: Golden, name: str, network: nn.Module, number: int) -> None:
    """Compare names and shapes of a network's parameters with params_lite_`name`, and their number."""
    names = json.loads(golden(f"params_lite_{name}.json").read_text())
    own = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert {rename(name): shape for name, shape in names.items()} == own
    assert sum(p.numel() for p in network.parameters()) == number


def compare_results(
    index: AnnotationIndex, results: Sequence[dict], listed: Mapping[str, Any], images: Sequence[int], atol: float
) -> None:
    """Compare results in COCO's format, and COCO's figures, with those that a golden lists.

    images: ids of the tested ones. atol: of the scores.
    """
    for own, released in zip(results, listed["results"], strict=True):
        assert (own["image_id"], own["category_id"]) == (released["image_id"], released["category_id"])
        np.testing.assert_allclose(own["bbox"], released["bbox"], rtol=0, atol=0.02)
        assert own["score"] == pytest.approx(released["score"], abs=atol)
    figures = evaluate(index, results, images)
    stats = [-1 if value is None else value for value in figures.values()]
    assert stats == pytest.approx(listed["ap_stats"], abs=1e-12)


@contextmanager
def counts_in_float64() -> Iterator[None]:
    """These goldens were made with float64 as the default type, in which the loss counts objects."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def colours(drawn: Mapping[str, Any]) -> ColourDraw:
    """The colour draws of an image of targets_lite, as a batch."""
    order = torch.tensor([[COLOURS[name] for name in drawn["colour_order"]]])
    return ColourDraw(order, torch.tensor([drawn["colour_alphas"]]), torch.tensor([drawn["lighting_alpha"]]))


def compare_crops(golden: Golden, name: str, samples: Iterable[tuple[Sample, Mapping[str, Any]]]) -> None:
    """Compare the images of samples, each with its draws, with targets_lite_`name`: as cropped, and as coloured."""
    expected = np.load(golden(f"targets_lite_{name}.npz"))
    step = json.loads(golden(f"targets_lite_{name}.json").read_text())["row_step"]
    for n, (sample, drawn) in enumerate(samples):
        rows = sample.image[::step]
        np.testing.assert_allclose(rows.astype(int), expected[f"{n}_crop_rows"].astype(int), rtol=0, atol=1)
        image = normalise(torch.from_numpy(sample.image.transpose(2, 0, 1).copy())[None], colours(drawn))[0]
        image = image.permute(1, 2, 0)
        np.testing.assert_allclose(image[::step], expected[f"{n}_rows"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(image.double().mean((0, 1)), drawn["image_mean"], rtol=0, atol=1e-4)


class DecodeCase(NamedTuple):
    """A case of decode_lite."""

    case: str
    batch: int
    classes: int
    height: int
    width: int
    k: int
    pairs: int
    distance: float
    border_rule: bool  # whether pairs at the edge of the map are rejected


def decode_cases(golden: Golden) -> Iterator[tuple[DecodeCase, list[KeypointMaps]]]:
    """The cases of decode_lite, each with the maps of the top-left and bottom-right corners."""
    listed = json.loads(golden("decode_lite.json").read_text())
    r = np.random.RandomState(seed_of(golden) + 30)
    for row in listed["cases"]:
        case = DecodeCase(*row)
        size = case.height, case.width
        heat = [r.standard_normal((case.batch, case.classes, *size)) * 1.5 - 2 for _ in CORNERS]
        tag = [r.standard_normal((case.batch, 1, *size)) * 0.5 for _ in CORNERS]
        off = [r.uniform(0, 1, (case.batch, 2, *size)) for _ in CORNERS]
        corners = zip(heat, tag, off, strict=True)
        yield case, [KeypointMaps(*(torch.from_numpy(part.astype(np.float32)) for part in of)) for of in corners]


def tiny_index(shared_data: Path, split: str) -> tuple[AnnotationIndex, dict[str, int]]:
    """The index of a split of the small part of COCO, and the position of each file name in it."""
    coco = shared_data / "coco_tiny"
    index = load_index(coco / "annotations" / f"instances_{split}.json", coco / split)
    return index, {Path(index.path(i)).name: i for i in range(len(index))}
