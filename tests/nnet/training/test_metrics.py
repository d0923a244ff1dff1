"""What a run records: rows, sums between two rows, curves."""

import json
import math
import os

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from nnet.training import metrics
from nnet.training.metrics import MetricsLog, NoLog, Window, draw_curves, peak_memory, read_metrics
from nnet.training.step import Update
from tests.nnet.training.steps import CPU

TERMS = ("loss", "focal")
MORE = {"lr": 0.1, "images_per_second": 2.0, "data_wait": 0.5, "memory_gb": 1.0, "gradient_norm": 3.0}


@pytest.fixture
def make_log(tmp_path):
    """Makes logs in one folder; all are closed at the end."""
    made = []

    def make(start=0, end=9):
        made.append(MetricsLog(tmp_path, start, end, TERMS))
        return made[-1]

    yield make
    for log in made:
        log.close()


def rows(folder):
    return read_metrics(folder / "metrics.jsonl")


def test_losses_are_means_over_the_stacks(tmp_path, make_log):
    make_log().losses(2, [[1.0, 3.0], [0.5, 0.25]], **MORE)
    assert rows(tmp_path) == [{"iteration": 2, "loss": 2.0, "focal": 0.375} | MORE]


def test_values_that_are_not_finite_are_none(tmp_path, make_log):
    make_log().row(1, a=math.inf, b=math.nan, c=1.5, d=None, e=2)
    (text,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(text) == {"iteration": 1, "a": None, "b": None, "c": 1.5, "d": None, "e": 2}


def test_a_resumed_run_removes_later_rows_and_knows_earlier_ones(tmp_path, make_log):
    first = make_log()
    for iteration in (1, 2, 3):
        first.row(iteration, loss=float(iteration), **({"val_AP": 0.5} if iteration == 2 else {}))
    first.close()
    resumed = make_log(start=2)
    assert [row["iteration"] for row in rows(tmp_path)] == [1, 2]
    assert resumed.logged("val_AP") == {2: 0.5} and resumed.logged("loss") == {1: 1.0, 2: 2.0}
    assert resumed.logged("val_loss") == {} and resumed.bar.n == 2
    resumed.close()
    assert make_log().logged("loss") == {} and rows(tmp_path) == []  # a new run


def test_a_line_that_is_cut_short_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"iteration": 1}\n{"iteration": 2, "lo')
    assert read_metrics(path) == [{"iteration": 1}]


def test_a_full_disk_does_not_stop_the_run(tmp_path, make_log, monkeypatch, logged):
    log = make_log()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    log.row(1, loss=1.0)
    log.row(2, loss=1.0)
    assert len(logged) == 1 and logged[0].startswith("TensorBoard files are not written any more until --resume")
    assert [row["iteration"] for row in rows(tmp_path)] == [1, 2]
    log.file.close()
    log.file = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w", buffering=1) if os.path.exists("/dev/full") else None
    if log.file:
        log.row(3, loss=1.0)
        assert logged[1].startswith("iteration 3: not logged yet: ")


def test_pictures_are_rgb_for_tensorboard(make_log, monkeypatch):
    shown = []
    monkeypatch.setattr(SummaryWriter, "add_image", lambda self, *args, **options: shown.append((args, options)))
    make_log().picture(3, "a", np.array([[[1, 2, 3]]], np.uint8))
    ((name, image, iteration), options) = shown[0]
    assert (name, iteration, image.tolist(), options) == ("a", 3, [[[3, 2, 1]]], {"dataformats": "HWC"})


def test_the_other_processes_log_nothing():
    log, methods = NoLog(), {name for name in vars(MetricsLog) if not name.startswith("_")}
    assert methods <= set(dir(NoLog)) and log.logged("loss") == {}
    log.row(1, loss=1.0), log.losses(1, [[1.0]]), log.picture(1, "a", None), log.step(), log.close()


# Sums between two rows


class Rows(NoLog):
    """Remembers the losses."""

    def __init__(self):
        self.rows = []

    def losses(self, iteration, terms, **more):
        self.rows.append((iteration, terms, more))


def update(value):
    return Update(torch.full((2, 1), value), torch.tensor(2 * value))


def test_a_row_holds_the_means_since_the_last(monkeypatch):
    clock = iter([0.0, 10.0, 13.0, 20.0, 24.0, 20.0, 40.0])
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(clock))
    window, log = Window(6, CPU), Rows()  # begins at 0
    with window.waiting():  # 10 to 13
        pass
    with window.paused():  # 20 to 24
        pass
    window.add(update(1.0))
    window.add(update(2.0))
    window.log_to(log, 5, 0.1)  # 20 seconds, without the 4 of the pause 16
    ((iteration, terms, more),) = log.rows
    assert iteration == 5 and terms == [[1.5], [1.5]] and more["gradient_norm"] == 3
    assert more["images_per_second"] == 6 / 16 and more["data_wait"] == 3 / 16 and more["lr"] == 0.1
    assert window.steps == window.iterations == 0 and window.begun == 40


def test_no_row_without_an_update():
    window, log = Window(6, CPU), Rows()
    window.log_to(log, 5, 0.1)
    assert log.rows == []


def test_sums_go_through_a_checkpoint():
    one, other = Window(6, CPU), Window(6, CPU)
    one.add(update(1.0))
    other.load(one.state())
    assert other.steps == 1 and torch.equal(other.terms, one.terms) and other.norm == one.norm
    other.add(update(3.0))
    log = Rows()
    other.log_to(log, 1, 0.1)
    assert log.rows[0][1] == [[2.0], [2.0]]


def test_peak_memory():
    assert 0.01 < peak_memory(CPU) < 10_000


# Curves


def test_curves(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(metrics, "plot_panels", lambda path, panels: drawn.append((path, panels)))
    assert draw_curves(tmp_path) is None and not drawn
    every = [{"iteration": i, "loss": 1.0 / i, "focal": 0.5} | MORE for i in (1, 2)]
    every.append({"iteration": 2, "val_loss": 0.7, "val_AP": None})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in every))
    assert draw_curves(tmp_path) == tmp_path / "curves.png"
    ((path, panels),) = drawn
    assert path == tmp_path / "curves.png"
    assert [list(panel.series) for panel in panels] == [["loss", "focal"], ["loss", "val_loss"]]
    assert panels[0].series["loss"] == ([1, 2], [1.0, 0.5])
