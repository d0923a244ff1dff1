"""Running pairs: the machine is shared, failures do not stop the others, signals are passed on.

Scripts of a few lines stand for train.py and test.py.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from db import DataError
from nnet.runtime.files import FolderLock
from nnet.runtime.signals import Signals
from nnet.studies import running
from nnet.studies.options import StudyOptions
from nnet.studies.plan import Pair, Variant
from nnet.studies.running import LOG, Runner, Slot, last_row, share_machine, wait_for_orphan
from tests.processes import SECONDS

OPTIONS = {"train": {"iterations": 10}, "runtime": {"threads": 0}, "seed": 0}
METRICS = {"AP": 0.5, "seconds_per_image": 0.1, "images": 4, "detections": 9}
METRICS |= {"iteration": 10, "split": "val", "truth": [], "config": OPTIONS}

# Each writes when it began and ended. A variant's "override" says what train.py does.
TRAIN = """
import json, signal, sys, time
from pathlib import Path
what, folder = sys.argv[2], Path(sys.argv[sys.argv.index("--output") + 1])
def stop(number, frame):
    (folder / "saved").write_text(str(number))
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
begun = time.monotonic()
(folder / "metrics.jsonl").write_text(json.dumps({"iteration": 4, "loss": 1.5}) + "\\n")
if what == "fails":
    sys.exit("error: there is no data\\nmore")
time.sleep({"waits": 60}.get(what, 0.3))
(folder / "times").write_text(json.dumps([begun, time.monotonic()]))
"""
TEST = """
import shutil, sys
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--output") + 1])
if sys.argv[2] != "gives_nothing":
    shutil.copy(folder.parent.parent / "metrics.json", folder)
"""


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """Makes a pair for each of these words, which train.py gets as an override."""
    monkeypatch.setattr(running, "ROOT", tmp_path)
    monkeypatch.setattr(running, "POLL", 0.01)
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "test.py").write_text(TEST)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text(json.dumps(METRICS))

    def make(*words):
        study = StudyOptions(base="a.yaml", variants=dict.fromkeys(words), seeds=(0,))
        variants = [Variant(word, "a.yaml", (word,), (), OPTIONS, OPTIONS) for word in words]
        return [
            Pair(variant, 0, tmp_path / "out" / f"{variant.name}{n}" / "seed0", study)
            for n, variant in enumerate(variants)
        ]

    return make


def logged(pair):
    return [line for line in (pair.folder / LOG).read_text().splitlines() if line.startswith("$")]


def test_all_runs_side_by_side(pairs):
    some = pairs(*("works",) * 4)
    runner = Runner(some, [Slot(3, 1, "")] * 2, "study")
    assert runner.run() == 0 and runner.failures == [] and runner.done == 4
    spans = [json.loads((pair.folder / "times").read_text()) for pair in some]
    together = [sum(begun <= at < ended for begun, ended in spans) for at, _ in spans]
    assert max(together) == 2
    train, test = logged(some[0])
    assert train == f"$ python train.py a.yaml works seed=0 runtime.threads=3 --output {some[0].folder} --resume"
    assert test.startswith("$ python test.py a.yaml works seed=0 ") and f"{some[0].folder}/last.pt --split val" in test


def test_what_is_done_is_not_run_again(pairs):
    some = pairs("works", "works")
    some[0].folder.mkdir(parents=True)
    (some[0].folder / "metrics.json").write_text(json.dumps(METRICS))
    assert Runner(some, [Slot(1, 1, "")], "study").run() == 0
    assert [(pair.folder / LOG).exists() for pair in some] == [False, True]
    assert Runner(some, [], "study").run() == 0


def test_the_others_go_on_after_a_failure(pairs):
    some = pairs("fails", "gives_nothing", "works")
    runner = Runner(some, [Slot(1, 1, "")], "study")
    assert runner.run() == 0 and runner.done == 1
    failures = {failure.pair.variant.name: failure for failure in runner.failures}
    assert failures["fails"].reason == "there is no data" and failures["fails"].log == some[0].folder / LOG
    assert "metrics.json is incomplete" in failures["gives_nothing"].reason
    assert [len(logged(pair)) for pair in some] == [1, 2, 2]  # no test without a training


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_are_passed_on(pairs, number):
    some = pairs("waits", "waits", "works")

    def ask():
        end = time.monotonic() + SECONDS
        while not all((pair.folder / "metrics.jsonl").exists() for pair in some[:2]) and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=ask)
    thread.start()
    before = signal.getsignal(number)
    assert Runner(some, [Slot(1, 1, "")] * 2, "study").run() == number
    thread.join()
    assert signal.getsignal(number) == before
    assert [(pair.folder / "saved").read_text() for pair in some[:2]] == [str(int(signal.SIGTERM))] * 2
    assert not some[2].folder.exists() and all(len(logged(pair)) == 1 for pair in some[:2])


# A process that holds a lock for a second
LOCKED = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(1)
"""
ORPHAN = """
import sys
from pathlib import Path
from nnet.studies import running
running.ROOT = Path(sys.argv[1])
with open(running.ROOT / "log", "wb") as log:
    process = running.start(running.Slot(1, 1, ""), ["train.py", "a", "waits", "--output", sys.argv[1]], log)
    print(process.pid, flush=True)
    process.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the signal of a dead parent is Linux's")
def test_trainings_save_and_end_when_the_study_is_killed(tmp_path, start):
    (tmp_path / "train.py").write_text(TRAIN)
    process = start("-c", ORPHAN, tmp_path)
    end = time.monotonic() + SECONDS
    while not (tmp_path / "metrics.jsonl").exists() and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    while not (tmp_path / "saved").exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert (tmp_path / "saved").read_text() == str(int(signal.SIGTERM))


def test_a_training_that_still_saves_is_waited_for(pairs, start):
    """The folder of a run is locked by another process, until it ends."""
    (pair,) = pairs("works")
    pair.folder.mkdir(parents=True)
    process = start("-c", LOCKED, pair.folder / ".lock")
    assert process.stdout.readline() == "held\n"
    with pytest.raises(DataError):
        FolderLock(pair.folder)
    signals = Signals()
    try:
        wait_for_orphan(pair, signals)
    finally:
        signals.restore()
    assert process.wait() == 0
    FolderLock(pair.folder).release()


@pytest.mark.parametrize(
    "gpus, jobs, processes, expected",
    [
        ("", 2, 1, ["", ""]),  # no GPU
        ("3", 2, 1, ["", ""]),  # one, for all
        ("0,1,2,3", 2, 2, ["0,1", "2,3"]),
        ("0,1,2", 3, 2, ["0,1", "0,1", "0,1"]),
        ("4,5", 3, 1, ["4", "5", "4"]),
    ],
)
def test_the_machine_is_shared(gpus, jobs, processes, expected, monkeypatch):
    monkeypatch.setattr(running, "available_cores", lambda: 16)
    monkeypatch.setattr(running.torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(running.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    slots = share_machine(jobs, processes, "auto")
    assert [slot.gpus for slot in slots] == expected
    assert {slot.threads for slot in slots} == {max(1, 8 // (jobs * processes))}
    assert slots[0].environment()["CUDA_VISIBLE_DEVICES"] == (expected[0] or gpus)
    assert ("torch.distributed.run" in slots[0].command(["train.py"])) == (processes > 1)


def test_a_run_alone_has_the_whole_machine():
    assert share_machine(1, 1, "cpu") == [Slot(0, 1, "")]


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(DataError, match="--processes 3: there are 2 GPUs"):
        share_machine(1, 3, "auto")
    assert share_machine(1, 3, "cpu")[0].gpus == ""


def test_the_last_row_of_a_log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert last_row(path) == {}
    path.write_text('{"iteration": 1}\n' * 5000 + '{"iteration": 2}\n{"iter')
    assert last_row(path) == {"iteration": 2}


def test_scripts_are_found_from_anywhere():
    command = Slot(1, 1, "").command(["train.py", "a.yaml"])
    assert Path(command[-2]).is_file() and command[-1] == "a.yaml"
