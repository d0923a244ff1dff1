"""The folder of a run: what the first process writes, and that the others write nothing."""

import os

import pytest
import torch

from db import DataError
from nnet.runtime import checkpoint
from nnet.runtime.files import LOCK
from nnet.training.folder import RunFolder
from nnet.training.metrics import MetricsLog, NoLog
from nnet.training.start import Start

CONSTANTS = {"config": {"seed": 3}, "categories": [[1], ["a"]]}
PROGRESS = {"iteration": 2, "model": {"w": torch.zeros(2)}}


def opened(path, writes=True, start=0, profile=False):
    folder = RunFolder(path, 2, 0, writes)
    folder.open("seed: 3\n", CONSTANTS, Start(start), 9, ("loss",), profile)
    return folder


def test_what_is_written(tmp_path):
    path = tmp_path / "runs" / "a"
    folder = opened(path)
    assert (path / "config.yaml").read_text() == "seed: 3\n" and isinstance(folder.log, MetricsLog)
    folder.save(PROGRESS, lambda: None)
    found = checkpoint.load(path / "last.pt")
    assert found["iteration"] == 2 and found["config"] == {"seed": 3} and found["categories"] == [[1], ["a"]]
    folder.keep_best(2, 0.5)
    folder.log.losses(2, [[1.0]], lr=1.0, images_per_second=1.0, data_wait=0.0)
    folder.close()
    names = {file.name for file in path.iterdir() if "tfevents" not in file.name}
    assert names == {"config.yaml", "00000002.pt", "last.pt", "best.pt", "metrics.jsonl", "curves.png"}


def test_the_other_processes_write_nothing(tmp_path):
    folder = opened(tmp_path / "run", writes=False, profile=True)
    folder.close()
    assert not (tmp_path / "run").exists() and isinstance(folder.log, NoLog) and folder.trace.profile is None


def test_a_resumed_run_knows_its_best_precision_and_removes_later_checkpoints(tmp_path, logged):
    folder = opened(tmp_path)
    assert folder.snapshots.best == -1
    for iteration, ap in ((1, 0.25), (2, None), (3, 0.75)):
        folder.save(PROGRESS | {"iteration": iteration}, lambda: None)
        folder.log.row(iteration, val_AP=ap)
    folder.close()
    folder = RunFolder(tmp_path, 2, 0, True)
    folder.snapshots.resumed, folder.snapshots.start = tmp_path / "00000002.pt", 2
    folder.open("", CONSTANTS, Start(2), 9, ("loss",), False)
    assert logged == ["removed the snapshots of later iterations: 00000003.pt"]
    assert folder.snapshots.best == 0.25 and folder.snapshots.saved == 2
    folder.close()


def test_a_full_disk_is_reported(tmp_path, monkeypatch, logged):
    folder = opened(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    folder.save(PROGRESS, lambda: None)
    monkeypatch.setattr(os, "fsync", full)
    folder.save(PROGRESS | {"iteration": 3}, lambda: None)
    assert logged[0].startswith("iteration 3: not saved: cannot write ") and folder.snapshots.saved == 2
    monkeypatch.setattr(os, "replace", full)
    folder.keep_best(2, 0.5)
    assert logged[1].startswith("iteration 2: best.pt is unchanged: ")
    monkeypatch.undo()
    folder.close()


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write to the folder"):
        opened(tmp_path / "file")


def test_a_folder_that_another_run_has_used_in_the_meantime(tmp_path):
    folder = RunFolder(tmp_path, 2, 0, True)
    assert folder.snapshots.find(None) is None
    other = opened(tmp_path)
    other.save(PROGRESS, lambda: None)
    other.close()
    with pytest.raises(DataError, match="another run has written to it in the meantime: resume that run"):
        folder.open("", CONSTANTS, Start(), 9, ("loss",), False)
    assert checkpoint.load(tmp_path / "last.pt")["iteration"] == 2


def test_the_lock_is_released_at_the_end(tmp_path):
    folder = opened(tmp_path)
    assert (tmp_path / LOCK).exists()
    folder.close()
    assert not (tmp_path / LOCK).exists()
