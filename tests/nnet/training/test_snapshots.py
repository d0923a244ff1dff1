"""The checkpoints of a run: which are kept, which one is the best, where a run goes on."""

import os
from pathlib import Path

import pytest
import torch

from db import DataError
from nnet.runtime import checkpoint
from nnet.training import snapshots
from nnet.training.snapshots import Snapshots, replace_by_link
from tests.builders import run_state


def state(iteration):
    return run_state(iteration, {"w": torch.full((9,), float(iteration))})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def saved(folder, *iterations, keep=2, keep_every=0):
    """Snapshots of a run of these iterations."""
    made = Snapshots(folder, keep, keep_every)
    for iteration in iterations:
        assert made.save(state(iteration))
    return made


def test_the_newest_and_those_of_multiples_are_kept(tmp_path):
    made = saved(tmp_path, *range(1, 8), keep=2, keep_every=3)
    assert names(tmp_path) == [*(f"0000000{n}.pt" for n in (3, 6, 7)), "last.pt"]
    assert made.saved == 7 and checkpoint.load(made.last)["iteration"] == 7


def test_a_failed_save_is_not_raised(tmp_path, monkeypatch):
    made = saved(tmp_path, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert not made.save(state(2)) and made.saved == 1
    assert "No space left" in str(made.failure) and checkpoint.load(made.last)["iteration"] == 1


def test_the_best_is_that_of_the_highest_precision(tmp_path):
    made = saved(tmp_path, 1)
    for iteration, precision, best in ((1, 0.1, 1), (2, 0.3, 2), (3, 0.2, 2)):
        made.save(state(iteration))
        made.keep_best(iteration, precision)
        assert checkpoint.load(tmp_path / "best.pt")["iteration"] == best
    made.keep_best(2, 0.9)  # its checkpoint is not the newest any more
    assert checkpoint.load(tmp_path / "best.pt")["iteration"] == 2 and made.best == 0.3


def test_where_a_run_goes_on(tmp_path):
    made = saved(tmp_path, 1, 2)
    assert made.find("")[0] == tmp_path / "00000002.pt" and made.start == 2
    path, found = Snapshots(tmp_path, 2).find(str(tmp_path / "00000001.pt"))
    assert path.name == "00000001.pt" and found["iteration"] == 1
    assert Snapshots(tmp_path / "new", 2).find(None) is None and Snapshots(tmp_path / "new", 2).find("") is None
    with pytest.raises(DataError, match="holds another run than"):
        saved(tmp_path / "new", 1).find(str(tmp_path / "last.pt"))


def test_a_run_killed_before_last_was_linked_goes_on_from_the_newest(tmp_path):
    made = saved(tmp_path, 1, 2)
    replace_by_link(tmp_path / "00000001.pt", made.last)
    assert made.find("")[1]["iteration"] == 2
    made.clear()
    assert checkpoint.load(made.last)["iteration"] == 2
    for path in tmp_path.glob(snapshots.PATTERN):
        path.unlink()
    assert made.newest() == made.last


def test_later_checkpoints_are_removed_where_a_run_goes_back(tmp_path):
    made = saved(tmp_path, 1, 2, 3, keep=3)
    made.keep_best(3, 0.5)
    (tmp_path / ".last.pt.partial").write_text("")
    made = Snapshots(tmp_path, 3)
    made.find(str(tmp_path / "00000001.pt"))
    assert made.clear() == ["00000002.pt", "00000003.pt", "best.pt"]
    assert names(tmp_path) == ["00000001.pt", "last.pt"]
    assert made.saved == 1 and checkpoint.load(made.last)["iteration"] == 1


def test_a_damaged_best_does_not_stop_a_run_that_goes_back(tmp_path, caplog):
    made = saved(tmp_path, 1, 2, keep=3)
    made.keep_best(2, 0.5)
    (tmp_path / "best.pt").unlink()  # a link to a checkpoint that stays whole
    (tmp_path / "best.pt").write_bytes(b"cut short")
    made = Snapshots(tmp_path, 3)
    made.find(str(tmp_path / "00000001.pt"))
    with caplog.at_level("WARNING", logger="nnet"):
        assert made.clear() == ["00000002.pt"]
    assert "best.pt cannot be read, and stays" in caplog.text and "best.pt" in names(tmp_path)


def test_an_earlier_best_stays(tmp_path):
    made = saved(tmp_path, 1, keep=3)
    made.keep_best(1, 0.5)
    made.save(state(2))
    made = Snapshots(tmp_path, 3)
    made.find(str(tmp_path / "00000001.pt"))
    assert made.clear() == ["00000002.pt"] and "best.pt" in names(tmp_path)


def test_the_best_of_a_run_on_a_gpu_is_read_without_one(tmp_path, monkeypatch):
    """Its tensors are mapped to the CPU, in `clear` too, which reads only its iteration."""
    made = saved(tmp_path, 1, 2)
    made.keep_best(2, 0.5)
    seen, load = {}, torch.load
    monkeypatch.setattr(torch, "load", lambda path, **o: seen.update({Path(path).name: o}) or load(path, **o))
    made = Snapshots(tmp_path, 2)
    made.find(str(tmp_path / "00000001.pt"))
    made.clear()
    assert seen.keys() == {"00000001.pt", "best.pt"}
    assert all(options["map_location"] == "cpu" and options["weights_only"] for options in seen.values())


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_name_is_replaced_by_a_link_or_a_copy(tmp_path, monkeypatch, hard_links):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    if not hard_links:
        monkeypatch.setattr(os, "link", refuse)
    one, other, name = tmp_path / "one", tmp_path / "other", tmp_path / "name"
    one.write_text("1")
    other.write_text("2")
    for path in (one, other, other):
        replace_by_link(path, name)
        assert name.read_text() == path.read_text() and name.samefile(path) == hard_links
    assert names(tmp_path) == ["name", "one", "other"]
