"""Lines about images with more objects, or more pixels, than an evaluation is made for."""

from dataclasses import replace

import numpy as np
import pytest

from db import AnnotationIndex
from nnet.detection import warnings
from nnet.detection.detector import Detector
from nnet.detection.warnings import MemoryWatch, before_evaluation, largest, network_memory, too_many_objects
from nnet.families.options import DetectionOptions
from nnet.training.step import checkpoint_activations
from tests.builders import small_family
from tests.nnet.oracles import CPU


def index_of(*counts):
    """An index of images of growing size with this many objects each."""
    owners = np.repeat(np.arange(len(counts)), counts)
    return AnnotationIndex.build(
        image_ids=range(1, len(counts) + 1),
        sizes=[(10 + i, 20) for i in range(len(counts))],
        names=[f"{i}.jpg" for i in range(len(counts))],
        folders=["."],
        box_image=owners,
        boxes=np.tile([0.0, 0, 5, 5], (len(owners), 1)),
        labels=np.zeros(len(owners)),
        category_ids=[1],
        category_names=["a"],
    )


def detector_of(name="cornernet", **options):
    return Detector(small_family(name), DetectionOptions(**options), (63, 63), CPU)


@pytest.mark.parametrize(
    "name, options, line",
    [
        ("cornernet", {}, None),
        ("cornernet", {"corners": 8}, "1 of 3 images have more objects (up to 9) than the 8 that can be found"),
        ("cornernet", {"corners": 7}, "to find more: test.detections=9 test.corners=9 test.pairs=90"),
        ("cornernet", {"detections": 2}, "2 of 3 images have more objects (up to 9) than the 2"),
        ("cornernet", {"pairs": 2}, "than the 2 that"),
        ("cornernet", {"centers": 2}, None),
        ("centernet", {"centers": 2}, "test.detections=9 test.corners=9 test.centers=9 test.pairs=90"),
    ],
)
def test_more_objects_than_can_be_found(name, options, line):
    found = too_many_objects(index_of(1, 9, 3), detector_of(name, **options))
    assert (found == []) if line is None else (line in found[0])


def test_crowds_do_not_count():
    index = index_of(0, 9)
    assert too_many_objects(replace(index, crowd=np.arange(9) < 2), detector_of(detections=7)) == []
    assert too_many_objects(index_of(0, 0), detector_of()) == []


def test_large_images_are_told_of_before_memory_ends(monkeypatch):
    detector = detector_of()
    assert largest(index_of(1, 1)) == (11, 20)
    need = network_memory(detector, (1023, 2047), 2)
    assert need == pytest.approx(4 * network_memory(detector, (511, 1023), 2), rel=0.05) and detector.device == CPU
    monkeypatch.setattr(warnings, "free_memory", lambda device: 1.9 * need)
    watch = MemoryWatch(detector)
    assert watch(1000, 1001) == []  # too small to look at
    (line,) = watch(1020, 2045)
    assert line.startswith("an image of 2045x1020 takes about") and "test.resize=fit or smaller test.scales" in line
    assert watch(1020, 2045) == []  # once
    assert len(watch(1020, 2045, images=2)) == 1
    monkeypatch.setattr(warnings, "free_memory", lambda device: 2.1 * need)
    assert MemoryWatch(detector)(1020, 2045) == []
    monkeypatch.setattr(warnings, "free_memory", lambda device: 0)
    assert MemoryWatch(detector_of(resize="fit"))(1020, 2045) == []


def test_all_is_said_before_an_evaluation(monkeypatch):
    index = replace(index_of(1, 9), sizes=np.array([[1020, 2045], [10, 10]], np.int32))
    detector = detector_of(corners=8)
    monkeypatch.setattr(warnings, "free_memory", lambda device: 0)
    crowded, large = before_evaluation(index, detector)
    assert crowded.startswith("1 of 2 images have more objects") and large.startswith("an image of 2045x1020 takes")
    # A network that is trained recomputes its activations: what it needs without a backward pass is the same.
    checkpoint_activations(detector.family.network, detector.family.network.recomputed)
    assert before_evaluation(index, detector) == [crowded, large]
