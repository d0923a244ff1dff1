"""The comparison of an exported file with its network, with made-up files."""

import numpy as np
import pytest
import torch

from models.decode import best
from nnet.export.graph import output_names, trace
from nnet.export.parity import TOLERANCES, compare
from nnet.families.options import DetectionOptions
from tests.builders import draw_weights, small_family

OPTIONS = DetectionOptions(corners=40, pairs=300, centers=20, embedding_distance=9.0)


class Decoded:
    """Stands for an exported file: the network and its decoding in PyTorch, then a change."""

    def __init__(self, family, change=lambda found: None):
        self.family, self.change = family, change
        self.decoder = family.decoder(OPTIONS, OPTIONS.mirror, best)
        self.outputs = list(self.decoder.outputs)
        network = family.network
        sizes = {"stride": network.stride, "divisor": network.divisor, "largest_side": 4096}
        self.metadata = sizes | {"categories": [list(range(family.classes)), ["a"] * family.classes]}

    @torch.inference_mode()
    def __call__(self, images):
        doubled = torch.stack([images, images.flip(3)], 1).flatten(0, 1)
        found = self.decoder(self.family.predict(doubled, True), images)
        found = {name: value.numpy().copy() for name, value in found.items()}
        self.change(found)
        return found


class Traced:
    """Stands for an exported file: the graph that is written with --maps, in a precision."""

    def __init__(self, family, precision):
        self.outputs = output_names(family, None)
        program = trace(family, None, False, getattr(torch, precision))
        self.module = program.module()

    @torch.inference_mode()
    def __call__(self, images):
        return {name: value.numpy() for name, value in self.module(images).items()}


def problems(detector, change):
    family = small_family(detector)
    draw_weights(family.network.eval())
    compared = list(compare(family, Decoded(family, change), OPTIONS, "float32"))
    assert len(compared) == 6 and sum(one.count for one in compared) > 100
    return [problem for one in compared for problem in one.problems]


@pytest.mark.slow
def test_the_graph_of_cornernet_squeeze_in_16_bits():
    """Its transposed convolutions make maps that are cropped, by a size that a graph does not know."""
    squeeze = {"stride": 8, "block": "fire", "upsampling": "transposed"}
    family = small_family(backbone=squeeze, head="conv1x1")
    draw_weights(family.network.eval())
    compared = list(compare(family, Traced(family, "float16"), OPTIONS, "float16"))
    assert len(compared) == 6 and all(one.of == "maps" and one.count == 6 for one in compared)
    assert not [problem for one in compared for problem in one.problems]


@pytest.mark.parametrize("detector", ["cornernet", "centernet"])
def test_equal_files(detector):
    assert not problems(detector, lambda found: None)
    assert not problems(detector, lambda found: found["boxes"].__iadd__(TOLERANCES["float32"].boxes / 4))


def first_valid(found):
    """Index of a good box that the comparison cannot excuse: the best one of the first image."""
    scores = found.get("pair_scores", found["scores"])
    return 0, int(scores[0].argmax())


def move(found):
    found["boxes"][first_valid(found)] += 0.5


def lose(found):
    for name in {"scores", "pair_scores"} & set(found):
        found[name][0] = -1


def other_class(found):
    found["labels"] = (found["labels"] + 1) % 3


def not_a_number(found):
    found["boxes"][...] = np.nan


def worse_scores(found):
    found["corner_scores"] += 5e-4


@pytest.mark.parametrize("change", [move, lose, other_class, not_a_number, worse_scores])
def test_files_that_differ(change):
    found = problems("cornernet", change)
    assert found and "the file" in found[0]


def keep_all(found):
    found["scores"] = found["pair_scores"].copy()


def test_a_file_without_the_center_test():
    assert any("the center test keeps" in problem for problem in problems("centernet", keep_all))
