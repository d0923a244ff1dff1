"""The interface of a family: what it does unless a family says otherwise, and the values that pass through it."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from models.decode import Detections
from nnet.detection.detector import Detector
from nnet.families import FAMILIES, build_family
from nnet.families.anchors import Anchors
from nnet.families.base import REJECTED, Candidates, Family, View, candidates_from_cells, to_host
from nnet.families.centernet import CenterNet
from nnet.families.cornernet import CornerNet
from nnet.families.ground_truth import MAPS
from nnet.families.options import DetectionOptions
from nnet.families.placement import place_original
from tests.builders import small_family, small_options
from tests.nnet.oracles import CPU

PLACEMENT = place_original(60, 100, 1.0, 4, divisor=128)  # canvas 127 x 127: 32 x 32 cells


class OneBox(Family):
    """A family that implements only what it has to."""

    class Options(NamedTuple):
        detector: str = "one_box"

    class Terms(NamedTuple):
        loss: torch.Tensor

    def __init__(self):
        self.network = torch.nn.Identity()
        self.network.stride, self.network.divisor, self.network.keypoints = 4, 128, ()
        self.network.forward = lambda images: [images.mean()]
        self.classes = 1

    def loss(self, outputs, batch, memory_format=torch.contiguous_format):
        return self.Terms(torch.stack(outputs))

    def propose(self, views, options):
        scales = [view.scale for view in views]
        boxes = np.tile(np.array([[1, 2, 30, 40]], np.float32), (len(scales), 1))
        return Candidates(boxes, np.array(scales, np.float32) / 4, np.zeros(len(scales), np.int64), None)


def candidates(*scores, corners=True):
    count = len(scores)
    boxes = np.arange(4 * count, dtype=np.float32).reshape(count, 4)
    labels = np.arange(count)
    return Candidates(boxes, np.array(scores, np.float32), labels, np.ones((count, 2), np.float32) if corners else None)


def test_a_family_has_to_bring_loss_and_boxes():
    class Incomplete(Family):
        pass

    with pytest.raises(TypeError, match="loss.*propose"):
        Incomplete()


def test_defaults_of_the_interface():
    family, view = OneBox(), View(1.0, PLACEMENT, None, frozenset({"heatmaps", "embeddings"}))
    assert family.truths == ()
    assert family.heatmaps(None) == family.corners(view, DetectionOptions()) == {}
    assert family.targets(torch.zeros(0, 4), torch.zeros(0), PLACEMENT) == {}
    assert family.evidence(iter([view]), DetectionOptions()) is None
    with pytest.raises(ValueError, match="embeddings, heatmaps in place of predictions: .* does not predict them"):
        family.substitute(view)


def test_a_detector_needs_nothing_else():
    detector = Detector(OneBox(), DetectionOptions(scales=(1.0, 2.0)), (64, 64), CPU)
    image = np.zeros((60, 100, 3), np.uint8)
    found = detector(image)
    assert found.scores.max() == 0.5 and (found.boxes == [1, 2, 30, 40]).all()
    assert detector.heatmaps(image) == detector.corners(image) == {}
    with pytest.raises(ValueError, match="does not predict"):
        Detector(OneBox(), DetectionOptions(), (64, 64), CPU, truth=["heatmaps"])


def test_the_options_choose_the_family():
    assert [family.Options().detector for family in FAMILIES] == ["cornernet", "centernet", "anchors", "saccade"]
    assert type(small_family("cornernet")) is CornerNet and type(small_family("centernet")) is CenterNet
    assert FAMILIES[2] is Anchors  # which needs torchvision
    with pytest.raises(KeyError):
        build_family(2, object(), None, None)


def test_what_the_annotation_can_replace():
    assert small_family("cornernet").truths == MAPS
    assert small_family("centernet").truths == (*MAPS, "centers")
    untested = small_family("centernet", center_keypoints=False, center_pooling=False)
    assert untested.truths == MAPS and CenterNet.truths == (*MAPS, "centers")
    assert small_options("centernet").detector == "centernet"


# Candidates


def test_take():
    four = candidates(0.1, 0.2, 0.3, 0.4)
    for which in (np.array([1, 3]), np.array([False, True, False, True])):
        two = four.take(which)
        assert two.labels.tolist() == [1, 3] and two.boxes[:, 0].tolist() == [4, 12]
        assert two.scores.tolist() == pytest.approx([0.2, 0.4]) and two.corner_scores.shape == (2, 2)
    assert four.take(np.array([2, 0])).labels.tolist() == [2, 0]
    assert candidates(0.1, corners=False).take(np.array([0])).corner_scores is None
    assert len(four.take(np.zeros(4, bool)).scores) == 0


def test_join():
    parts = candidates(0.1, 0.2), candidates(0.3)
    joined = Candidates.join(parts)
    assert joined.scores.tolist() == pytest.approx([0.1, 0.2, 0.3]) and joined.labels.tolist() == [0, 1, 0]
    assert joined.boxes.shape == (3, 4) and joined.corner_scores.shape == (3, 2)
    assert Candidates.join([candidates(0.1, corners=False)] * 2).corner_scores is None
    assert Candidates.join(parts[:1]).boxes.tolist() == parts[0].boxes.tolist()


# From the device to candidates


def detections(corners=True):
    boxes = torch.tensor([[[1.0, 2, 3, 4], [5, 6, 7, 8]], [[9.0, 10, 11, 12], [13, 14, 15, 16]]])  # (2, 2, 4)
    labels, scores = torch.tensor([[3, 0], [1, 2]]), torch.tensor([[0.5, -1], [0.25, 0.125]])
    return Detections(boxes, scores, labels, torch.rand(2, 2, 2) if corners else None)


@pytest.mark.parametrize("corners", [True, False])
def test_to_host_gives_back_every_field(corners):
    found = detections(corners)
    arrays = to_host(found)
    assert type(arrays) is Detections and (arrays.corner_scores is None) == (not corners)
    for array, tensor in zip(arrays, found, strict=True):
        if tensor is not None:
            assert array.dtype == np.float32 and array.tolist() == tensor.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_to_host_is_float32_whatever_the_network_computes_in(dtype):
    found = detections()
    arrays = to_host(found._replace(scores=found.scores.to(dtype)))
    assert arrays.scores.dtype == np.float32 and arrays.scores.tolist() == found.scores.tolist()


def test_candidates_from_cells():
    arrays = to_host(detections())
    found = candidates_from_cells(arrays, PLACEMENT)
    assert found.labels.tolist() == [3, 0, 1, 2] and found.labels.dtype == np.int64
    assert found.scores.tolist() == [0.5, -1, 0.25, 0.125] and found.boxes.shape == (4, 4)
    assert np.array_equal(found.corner_scores, arrays.corner_scores.reshape(4, 2))
    assert candidates_from_cells(to_host(detections(False)), PLACEMENT).corner_scores is None
    far = candidates_from_cells(arrays, PLACEMENT, outside=1e-3)
    assert (far.scores[:2] == REJECTED).all()  # both reach above the image, which begins 33 pixels below the top
