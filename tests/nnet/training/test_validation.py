"""Measurements on the validation split: the loss by hand, what is logged, and what cuts a measurement short."""

import time
from types import SimpleNamespace

import pytest
import torch

from db import DataOptions, Split, load_split
from nnet.detection.detector import Detector
from nnet.families.options import DetectionOptions
from nnet.runtime.distributed import Group
from nnet.runtime.errors import RunError
from nnet.training import validation
from nnet.training.metrics import NoLog
from nnet.training.step import Objective
from nnet.training.validation import SHOWN, Validation, validation_loss
from tests.builders import changed_toy, make_batch, small_family
from tests.nnet.training.steps import CPU

SIZE = (95, 95)
VAL = Split(("val",), ("annotations/instances_val.json",))


def test_validation_loss_weighs_by_images_and_leaves_the_network_alone():
    objective = Objective(small_family(backbone={"stacks": 2}))
    net = objective.family.network
    before = {k: v.clone() for k, v in net.state_dict().items()}
    parts = [make_batch(3, 5, 0), make_batch(1, 2, 1)]
    found = validation_loss(objective, parts, CPU)
    with torch.no_grad():
        each = [objective(net.eval(), part).loss.mean().item() for part in parts]
    assert found.loss == pytest.approx((3 * each[0] + each[1]) / 4, rel=1e-6)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert validation_loss(objective, [], CPU) is None


class Log(NoLog):
    """Remembers rows and the names of pictures."""

    def __init__(self):
        self.rows, self.pictures = [], []

    def row(self, iteration, **values):
        self.rows.append((iteration, values))

    def picture(self, iteration, name, image):
        self.pictures.append(name)


def make(folder, images=3, group=None):
    """A validation on the toy data of this folder."""
    index = load_split(DataOptions(root=str(folder), val=VAL), "val")
    family = small_family(classes=index.num_classes)
    detector = Detector(family, DetectionOptions(embedding_distance=9.0), SIZE, CPU)
    signals = SimpleNamespace(stop=None)
    return Validation(index, detector, Objective(family), images, 2, group or Group(CPU), Log(), signals)


def test_a_process_loads_where_one_does_in_training(toy):
    """The loss is the same, and a hanging disk has the training's limit."""
    made, own = make(toy), make(toy)
    made.workers, made.timeout = 2, 30
    made.loss(7)
    own.loss(7)
    assert made.log.rows == own.log.rows and made.log.rows


def test_a_hanging_disk_ends_the_loss(toy, monkeypatch):
    monkeypatch.setattr(validation.TrainingSet, "__getitem__", lambda self, key: time.sleep(600))
    made = make(toy)
    made.workers, made.timeout = 1, 1
    with pytest.raises(RunError, match="loading validation data failed: DataLoader timed out after 1"):
        made.loss(7)


def test_the_loss_is_logged_with_pictures(toy, logged):
    made = make(toy)
    made.loss(7)
    ((iteration, values),) = made.log.rows
    assert iteration == 7 and list(values) == ["val_loss", "val_focal", "val_pull", "val_push", "val_offset"]
    assert logged == [f"iteration 7: validation loss {values['val_loss']:.4g}"]
    assert len(made.log.pictures) == 3 <= SHOWN
    made.loss(8)
    assert made.log.rows[1][1] == values  # the images are not augmented


def test_the_other_processes_wait(toy):
    group = Group(CPU)
    group.rank, waits = 1, []
    group.barrier = lambda: waits.append(1)
    made = make(toy, group=group)
    made.loss(7)
    assert made.log.rows == [] and waits == [1]


@pytest.mark.parametrize("after", [0, 1])
def test_a_signal_cuts_the_loss_short(toy, logged, monkeypatch, after):
    made, reports = make(toy), []

    def report():
        reports.append(1)
        if len(reports) > after:
            made.signals.stop = 15

    made.group.report_progress = report
    if after == 0:
        made.signals.stop = 15
    made.loss(7)
    assert made.log.rows == made.log.pictures == logged == [] and len(reports) <= after + 1


def test_unreadable_images_are_reported(toy, tmp_path, logged):
    folder = changed_toy(toy, tmp_path, lambda content, folder: None)
    made = make(folder, images=0)
    (broken := next(iter(sorted((folder / "val").iterdir())))).write_bytes(b"no image")
    made.loss(7)
    assert len(made.log.rows) == 1
    assert logged[0].startswith(f"validation: skipped {broken}: ") and len(logged) == 2


def test_bad_validation_data_does_not_end_the_run(toy, tmp_path, logged):
    folder = changed_toy(toy, tmp_path, lambda content, folder: None)
    made = make(folder)
    for image in (folder / "val").iterdir():
        image.write_bytes(b"no image")
    made.loss(7)
    assert made.log.rows == [] and logged[-1].startswith("iteration 7: no validation loss: ")


def test_precision(toy, monkeypatch):
    made = make(toy)
    made.detector.family.network.train()
    figures = made.precision()
    assert 0 <= figures["AP"] <= 1 and not made.detector.family.network.training
    seen = []
    monkeypatch.setattr(validation, "evaluate", lambda index, results: seen.append(results) or {"AP": 0.5})
    assert made.precision() == {"AP": 0.5}
    assert seen[0] and {result["image_id"] for result in seen[0]} <= set(made.index.image_ids.tolist())


def test_no_precision_of_a_measurement_that_is_cut_short(toy):
    made = make(toy)
    made.signals.stop = 15
    assert made.precision() is None
    made = make(toy)
    made.group.sum_counts = lambda *values: [1]  # another process was asked to stop
    assert made.precision() is None
    other = Group(CPU)
    other.rank = 1
    assert make(toy, group=other).precision() is None
