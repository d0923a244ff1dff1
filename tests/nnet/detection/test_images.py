"""Detection over the images of an index: order, shares of the processes, unreadable images."""

import numpy as np
import pytest

from db import DataOptions, Objects, Split, load_split
from nnet.detection.detector import Detector
from nnet.detection.images import detect_images
from nnet.families.options import DetectionOptions
from nnet.runtime.distributed import Group
from tests.builders import changed_toy, small_family
from tests.nnet.oracles import CPU

FILES = {"images": ["train"], "annotations": ["annotations/instances_train.json"]}


@pytest.fixture(scope="module")
def detector():
    return Detector(small_family(classes=3), DetectionOptions(embedding_distance=9.0), (95, 95), CPU)


def index_of(folder, images=3):
    return load_split(DataOptions(root=str(folder), train=Split(**FILES, limit=images)), "train")


class Rank(Group):
    """One of several processes, without the others."""

    def __init__(self, rank=0, size=1):
        super().__init__(CPU)
        self.rank, self.size, self.progress = rank, size, 0

    def report_progress(self):
        self.progress += 1


def test_every_image_in_order(toy, detector):
    index, group = index_of(toy), Rank()
    detected = list(detect_images(detector, index, group, pytest.fail))
    assert [d.position for d in detected] == [0, 1, 2] and group.progress == 3
    for i, (_, image, found, results) in enumerate(detected):
        assert image.shape == (*index.sizes[i], 3) and image.dtype == np.uint8
        assert len(results) == len(found.scores) > 0
        assert {r["image_id"] for r in results} == {int(index.image_ids[i])}
        scores = [r["score"] for r in results]
        assert scores == [round(s, 2) for s in scores]  # as published
    assert detector.seconds["load"] > 0


def test_results_in_full_unless_as_published(toy):
    options = DetectionOptions(embedding_distance=9.0, as_published=False)
    exact = Detector(small_family(classes=3), options, (95, 95), CPU)
    (detected,) = detect_images(exact, index_of(toy, 1), Rank(), pytest.fail)
    assert [r["score"] for r in detected.results] == detected.found.scores.tolist()


def test_each_process_has_its_share(toy, detector):
    shares = [[d.position for d in detect_images(detector, index_of(toy), Rank(r, 2), pytest.fail)] for r in range(2)]
    assert shares == [[0, 2], [1]]


def test_the_annotation_is_passed_on(toy, detector, monkeypatch):
    index, given, run = index_of(toy, 2), [], Detector.run_network
    monkeypatch.setattr(Detector, "run_network", lambda self, *batch: given.extend(batch[1]) or run(self, *batch))
    list(detect_images(detector, index, Rank(), pytest.fail))
    assert all(type(objects) is Objects for objects in given)
    assert [objects.boxes.tolist() for objects in given] == [index.objects(i).boxes.tolist() for i in range(2)]


def test_unreadable_images_are_reported_and_skipped(toy, tmp_path, detector):
    def break_second(content, folder):
        (folder / "train" / content["images"][1]["file_name"]).write_bytes(b"no image")

    index, messages = index_of(changed_toy(toy, tmp_path, break_second)), []
    detected = list(detect_images(detector, index, Rank(), messages.append))
    (broken,) = {0, 1, 2} - {d.position for d in detected}
    assert len(messages) == 1 and index.path(broken) in messages[0]
