"""A look into a run: pictures of targets and predictions, and a trace of some steps."""

import json

import numpy as np
import pytest

from db import DataOptions, Split, load_split
from nnet.training import monitoring
from nnet.training.monitoring import TRACED, Trace, draw_predictions
from nnet.training.step import Objective
from tests.builders import small_family
from tests.nnet.training.steps import CPU


@pytest.fixture(scope="module")
def index(toy):
    return load_split(DataOptions(root=str(toy), val=Split(("val",), ("annotations/instances_val.json",), 2)), "val")


@pytest.mark.parametrize("name, kinds", [("cornernet", 2), ("centernet", 3)])
def test_targets_beside_predictions(index, monkeypatch, name, kinds):
    titles = []
    monkeypatch.setattr(monitoring, "side_by_side", lambda images, names: titles.append(names) or images[0])
    drawn = list(draw_predictions(Objective(small_family(name, classes=index.num_classes)), index, (63, 63), CPU))
    assert [stem for stem, _ in drawn] == [index.path(i).rsplit("/")[-1].split(".")[0] for i in range(2)]
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for _, picture in drawn)
    corners = ["top-left target", "top-left predicted", "bottom-right target", "bottom-right predicted"]
    assert titles[0][:4] == corners and len(titles[0]) == 2 * kinds


def test_a_network_without_heatmaps_has_no_pictures(index):
    family = small_family()
    family.network.keypoints = ()
    assert list(draw_predictions(Objective(family), index, (63, 63), CPU)) == []


@pytest.mark.parametrize("steps", [1, 2, 2 * TRACED, 2 * TRACED + 5])
def test_a_trace(tmp_path, steps):
    trace = Trace(tmp_path / "trace.json", steps)
    for _ in range(steps):
        trace.step()
    trace.stop()
    assert trace.written and json.loads((tmp_path / "trace.json").read_text())["traceEvents"] is not None


def test_no_trace(tmp_path, logged):
    trace = Trace(None, 9)
    trace.step()
    trace.stop()
    assert trace.profile is None and logged == []
    trace = Trace(tmp_path / "trace.json", 0)  # a run that has nothing left to do
    trace.stop()
    assert logged == [f"no trace in {tmp_path / 'trace.json'}: too few steps were made"]
