"""What a run meets on a real machine: signals, kills, a full disk, bad data, processes that die or hang.

docs/reliability.md has the table of them; `python -m benchmarks.faults` kills many more times.
"""

import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

import nnet.training.faults
import nnet.training.metrics
import test as test_script
from db.files import partial_of
from nnet.families.cornernet import CornerNet
from nnet.runtime import checkpoint
from nnet.training.snapshots import Snapshots
from nnet.training.trainer import Trainer
from tests.builders import changed_toy, run_state
from tests.processes import (
    SECONDS,
    children,
    free_port,
    rank_environment,
    rank_of,
    read_rows,
    start_ranks,
    started_programs,
    torchrun,
    wait_for_rows,
)
from tests.runs import (
    SLOW_SAVE,
    before_steps,
    comparable_rows,
    death_while_detecting,
    disturbed,
    hang_in_evaluation,
    hang_in_validation_loss,
    main,
    same,
    same_runs,
    same_states,
    slow_save,
    without_curves,
)

TINY = """
data: {train: {limit: 15}}
train: {iterations: 40, lr_drops: [30], log_every: 1, validate_every: 0, snapshot_every: 5}
runtime: {collective_timeout: 60}
test: {embedding_distance: 9}
"""
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc and /dev/full")


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A run that nothing disturbs."""
    output = tmp_path_factory.mktemp("undisturbed")
    assert main(config, output, "train.keep=100") == 0
    return output


@pytest.fixture(autouse=True)
def quick(run, monkeypatch):
    """All runs but `run` do without curves."""
    without_curves(monkeypatch)


# Signals


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_resume_goes_on(config, run, tmp_path, start, number):
    process = start("train.py", config, "--output", tmp_path)
    wait_for_rows(process, tmp_path, 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + number, err
    assert f"stopped by signal {number}" in out and "continue with --resume" in out and "Traceback" not in err
    iteration = checkpoint.load(tmp_path / "last.pt")["iteration"]
    assert iteration == read_rows(tmp_path)[-1]["iteration"] < 40
    assert main(config, tmp_path, "--resume") == 0
    same_runs(tmp_path, run)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_the_whole_process_group_with_workers(config, run, tmp_path, start, number):
    """As from a terminal or a cluster's scheduler: the workers get it too."""
    process = start("train.py", config, "train.workers=2", "--output", tmp_path)
    wait_for_rows(process, tmp_path, 3)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + number, err
    assert "continue with --resume" in out and "Traceback" not in err
    assert main(config, tmp_path, "--resume") == 0
    same_runs(tmp_path, run)


# SIGKILL


@pytest.mark.slow
def test_killed_again_and_again(config, run, tmp_path, start):
    often = ["train.snapshot_every=1"]  # so that much of the time goes into saving
    for rows in (4, 13, 25):
        process = start("train.py", config, *often, "--output", tmp_path, "--resume")
        wait_for_rows(process, tmp_path, rows)
        process.kill()
        process.communicate(timeout=SECONDS)
        found = checkpoint.load(tmp_path / "last.pt")["iteration"]
        assert found >= read_rows(tmp_path)[-1]["iteration"] - 1
    assert main(config, tmp_path, *often, "--resume") == 0
    same_runs(tmp_path, run)
    assert not list(tmp_path.glob(".*"))


def state(iteration):
    return run_state(iteration, {"w": torch.full((50_000,), float(iteration))})


@linux
def test_killed_at_every_point_of_a_save(tmp_path):
    """Before and after each change of the folder, and with a part of the file written: always a whole last.pt."""

    class Dying:
        """Kills its process at the nth of the calls it counts."""

        def __init__(self, count):
            self.left = count

        def __call__(self):
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.left -= 1

        def around(self, function):
            def call(*arguments, **options):
                self()
                result = function(*arguments, **options)
                self()
                return result

            return call

        def opened(self, path, mode):
            return HalfWriter(open(path, mode), self)

    class HalfWriter:
        """A file that writes each piece in two halves."""

        def __init__(self, file, dying):
            self.file, self.dying = file, dying

        def write(self, data):
            data = memoryview(data).cast("B")
            half = len(data) // 2
            for part in (data[:half], data[half:]):
                self.file.write(part)
                self.file.flush()
                self.dying()
            return len(data)

        def flush(self):
            self.file.flush()

        def fileno(self):
            return self.file.fileno()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    def save(folder, count):
        dying = Dying(count)
        for name in ("fsync", "replace", "link", "unlink"):
            setattr(os, name, dying.around(getattr(os, name)))
        checkpoint.open = dying.opened
        snapshots = Snapshots(folder, keep=1)
        snapshots.save(state(2))
        snapshots.keep_best(2, 0.2)

    context, ends = multiprocessing.get_context("fork"), []
    for count in range(200):
        folder = tmp_path / str(count)
        folder.mkdir()
        snapshots = Snapshots(folder, keep=1)
        snapshots.save(state(1))
        snapshots.keep_best(1, 0.1)
        process = context.Process(target=save, args=(folder, count))
        process.start()
        process.join(SECONDS)
        assert process.exitcode in (0, -signal.SIGKILL)
        for path in folder.glob("*.pt"):
            found = checkpoint.load(path)
            assert torch.equal(found["model"]["w"], state(found["iteration"])["model"]["w"])
        path, found = snapshots.find("")
        assert found["iteration"] >= checkpoint.load(folder / "last.pt")["iteration"] >= 1
        assert checkpoint.load(folder / "best.pt")["iteration"] in (1, 2)
        ends.append((found["iteration"], process.exitcode))
        snapshots.clear()
        assert checkpoint.load(folder / "last.pt")["iteration"] == found["iteration"]
        assert not list(folder.glob(".*"))
        if process.exitcode == 0:
            break
    assert ends[0] == (1, -signal.SIGKILL) and ends[-1] == (2, 0)
    assert sum(end[0] == 1 for end in ends) > 10 and sum(end[0] == 2 for end in ends) > 5


# A disk that is full


@linux
def test_a_full_disk_while_saving(config, run, tmp_path, monkeypatch, capsys):
    between = []

    def on_a_full_disk(path):
        full = partial_of(path)
        if path.name == "00000010.pt":
            full.symlink_to("/dev/full")
        return full

    fill = {10: lambda: monkeypatch.setattr(checkpoint, "partial_of", on_a_full_disk)}
    look = {
        12: lambda: between.append(
            (checkpoint.load(tmp_path / "last.pt")["iteration"], list(tmp_path.glob(".*.partial")))
        )
    }
    before_steps(monkeypatch, fill | look)
    assert main(config, tmp_path) == 0
    assert between == [(5, [])]
    line = next(line for line in capsys.readouterr().out.splitlines() if "not saved" in line)
    assert "iteration 10" in line and "No space left" in line
    same_runs(tmp_path, run)


@pytest.fixture
def limit():
    """Makes functions that set the largest size a file may have from there on: 0 is a disk that is full."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size=soft: lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# TensorBoard's writer is a thread, whose error is met with the next value that it is given.
thread_may_fail = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@thread_may_fail
def test_no_file_can_be_written_for_a_while(config, run, tmp_path, monkeypatch, capsys, limit):
    before_steps(monkeypatch, {8: limit(0), 13: limit()})
    assert main(config, tmp_path) == 0
    printed = capsys.readouterr().out
    assert "iteration 9: not logged yet" in printed and "iteration 10: not saved" in printed
    same_runs(tmp_path, run)


@thread_may_fail
def test_tensorboard_cannot_write_for_a_while(config, tmp_path, monkeypatch, capsys, limit):
    """Nor do pictures and the values of each stack, which are for TensorBoard alone, end the run."""
    at_once = functools.partial(SummaryWriter, max_queue=1, flush_secs=0.01)
    monkeypatch.setattr(nnet.training.metrics, "SummaryWriter", at_once)
    slow = {n: lambda: time.sleep(0.1) for n in range(4, 8)}
    before_steps(monkeypatch, {3: limit(0), **slow, 8: limit()})
    options = ["data.val.limit=1", "model.backbone.stacks=2", "train.iterations=9", "train.validate_every=1"]
    assert main(config, tmp_path, *options) == 0
    assert capsys.readouterr().out.count("TensorBoard files are not written any more") == 1
    losses = [row["iteration"] for row in read_rows(tmp_path) if "loss" in row]
    assert losses == list(range(1, 10))


def test_a_disk_that_stays_full_ends_in_a_clear_error(config, tmp_path, monkeypatch, capsys):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(config, tmp_path, "train.iterations=3") == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and "No space left" in line and "00000003.pt" in line
    assert not list(tmp_path.glob("*.pt")) and not list(tmp_path.glob(".*"))


def test_a_signal_while_the_disk_is_full_does_not_claim_a_saved_state(config, tmp_path, monkeypatch, capsys):
    def fill():
        monkeypatch.setattr(os, "fsync", full)
        signal.raise_signal(signal.SIGTERM)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    before_steps(monkeypatch, {7: fill})
    assert main(config, tmp_path) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        line.startswith(f"error: stopped by signal {int(signal.SIGTERM)} after iteration 7, but") and "No space" in line
    )
    assert "the state after iteration 5 is saved" in line
    assert checkpoint.load(tmp_path / "last.pt")["iteration"] == 5


# Data


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_left_out(config, toy, tmp_path, monkeypatch, capsys, workers):
    """Up to 1% of those seen (here, where 15 images are all there are, more); above it the run ends."""
    folder = changed_toy(toy, tmp_path, lambda content, folder: None)
    (folder / "train" / "000003.jpg").write_bytes(b"no image")
    arguments = [config, tmp_path / "run", f"data.root={folder}", f"train.workers={workers}", "train.iterations=6"]
    assert main(*arguments) == 1
    err = capsys.readouterr().err
    error = err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "Traceback" not in err
    assert checkpoint.load(tmp_path / "run" / "last.pt")["iteration"] >= 1  # what was computed is kept
    assert "000003.jpg" in error and "more than 1%" in error and "continue with --resume" in error
    monkeypatch.setattr(nnet.training.faults, "UNREADABLE_LIMIT", 0.2)
    assert main(*arguments, "--resume") == 0
    assert "skipped" in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "run" / "last.pt")["iteration"] == 6


@pytest.mark.slow
@linux
def test_a_killed_worker(config, run, tmp_path, start):
    process = start("train.py", config, "train.workers=2", "--output", tmp_path)
    wait_for_rows(process, tmp_path, 3)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1 and "Traceback" not in err
    error = err.strip().splitlines()[-1]
    assert (
        error.startswith("error: loading training data failed") and "killed" in error and "run out of memory" in error
    )
    assert "continue with --resume" in error
    assert main(config, tmp_path, "--resume") == 0
    same_runs(tmp_path, run)


@pytest.mark.slow
@linux
@pytest.mark.parametrize("ended", [False, True])
def test_a_stopped_worker(config, run, tmp_path, start, ended):
    """It keeps neither the run nor its end waiting. A run that was asked to end counts as stopped by the signal."""
    process = start("train.py", config, "train.workers=2", "train.worker_timeout=3", "--output", tmp_path)
    wait_for_rows(process, tmp_path, 3)
    worker = children(process.pid)[0]
    os.kill(worker, signal.SIGSTOP)
    if ended:
        process.terminate()
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == (128 + signal.SIGTERM if ended else 1), err
    assert "continue with --resume" in (out if ended else err) and "Traceback" not in err
    named = f"error: loading training data failed: DataLoader timed out after 3 seconds: worker process {worker} "
    assert ended or err.strip().splitlines()[-1].startswith(named)
    assert not os.path.exists(f"/proc/{worker}")
    assert main(config, tmp_path, "--resume") == 0
    same_runs(tmp_path, run)


def test_annotations_that_change_while_training(config, toy, tmp_path, monkeypatch):
    """They are read once."""
    folder = changed_toy(toy, tmp_path, lambda content, folder: None)
    spoil = {2: lambda: (folder / "annotations" / "instances_val.json").write_text("{}")}
    before_steps(monkeypatch, spoil)
    options = ["train.iterations=3", "train.lr_drops=[2]", "train.validate_every=1", "train.ap_every=1"]
    assert main(config, tmp_path / "run", f"data.root={folder}", *options) == 0
    assert {"val_loss", "val_AP"} <= read_rows(tmp_path / "run")[-1].keys() | read_rows(tmp_path / "run")[-2].keys()


@linux
def test_file_names_that_are_not_text(config, toy, tmp_path, capsys):
    """In pictures of TensorBoard, in messages, and in the resumed run."""
    name = os.fsdecode(b"na\xefve.jpg")

    def rename(content, folder):
        for image in content["images"][:2]:
            new = f"{image['id']}{name}"
            (folder / "train" / image["file_name"]).rename(folder / "train" / new)
            image["file_name"] = new
        (folder / "train" / new).write_bytes(b"no image")

    folder = changed_toy(toy, tmp_path, rename)
    val = ["data.val.images=[train]", "data.val.annotations=[annotations/instances_train.json]"]
    options = ["train.iterations=2", "train.lr_drops=[1]", "train.validate_every=1", "train.validate_images=2"]
    assert main(config, tmp_path / name, f"data.root={folder}", *val, *options) == 0
    assert (tmp_path / name / "last.pt").exists()
    assert main(config, tmp_path / "run", f"data.root={folder}", *val, *options) == 0
    assert "na\\udcefve.jpg: not an image" in capsys.readouterr().out


@pytest.mark.parametrize("stopped", [False, True])
def test_a_worker_that_dies_during_the_last_save(config, tmp_path, monkeypatch, capsys, stopped):
    """An error like any other, or, after a signal, part of the stop: clusters send it to the workers too."""

    def save(self, wait=True):
        at_end = wait and self.folder.snapshots.saved == 4
        original(self, wait)
        if at_end:
            raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")

    original = Trainer.save
    monkeypatch.setattr(Trainer, "save", save)
    before_steps(monkeypatch, {4: lambda: stopped and signal.raise_signal(signal.SIGTERM)})
    options = ["train.snapshot_every=4", f"train.iterations={40 if stopped else 4}"]
    assert main(config, tmp_path, *options) == (128 + signal.SIGTERM if stopped else 1)
    out, err = capsys.readouterr()
    if stopped:
        assert "stopped by signal 15 after iteration 4: the state after iteration 4 is saved" in out
    else:
        error = err.strip().splitlines()[-1]
        assert error.startswith("error: loading training data failed")
        assert error.endswith("the state after iteration 4 is saved: continue with --resume")


@pytest.fixture
def spoiled(monkeypatch):
    """Makes the pull loss of the nth micro-batches NaN."""

    def spoil(*numbers):
        def spoiled_loss(*arguments):
            terms = loss(*arguments)
            count[0] += 1
            bad = float("nan") if count[0] in numbers else 1.0
            return terms._replace(pull=terms.pull * bad, loss=terms.loss * bad)

        count = [0]
        monkeypatch.setattr(CornerNet, "loss", spoiled_loss)

    loss = CornerNet.loss
    return spoil


def test_nan_stops_the_run(config, run, tmp_path, spoiled, capsys):
    spoiled(14)  # the second micro-batch, of 3 images, of iteration 7
    assert main(config, tmp_path) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: iteration 7: pull not finite, on ") and error.count(".jpg") == 3
    assert "train.lr" in error and "the state after iteration 6 is saved" in error
    state = checkpoint.load(tmp_path / "last.pt")
    assert state["iteration"] == 6
    spoiled()
    assert main(config, tmp_path, "--resume") == 0
    same_runs(tmp_path, run)  # the step that was not made has left nothing behind, running statistics included


def test_nan_skips_the_step(config, run, tmp_path, spoiled, capsys):
    spoiled(14)
    arguments = [config, tmp_path / "run", "train.nan=skip", "train.iterations=8", "train.snapshot_every=1"]
    assert main(*arguments, "train.keep=9", "train.log_every=2") == 0
    assert "iteration 7: pull not finite" in capsys.readouterr().out
    same(*(checkpoint.load(tmp_path / "run" / f"0000000{i}.pt")["model"] for i in (6, 7)))
    rows = {row["iteration"]: row for row in read_rows(tmp_path / "run")}
    state = {k: v for k, v in checkpoint.load(tmp_path / "run" / "last.pt")["model"].items() if v.is_floating_point()}
    assert all(value.isfinite().all() for value in state.values())
    # The row of iterations 7 and 8 has the loss of the one step that was made.
    spoiled(14)
    arguments[1] = tmp_path / "each"
    assert main(*arguments) == 0
    each = {row["iteration"]: row for row in read_rows(tmp_path / "each")}
    assert 7 not in each or "loss" not in each[7]
    assert rows[8]["loss"] == pytest.approx(each[8]["loss"], rel=1e-6)
    assert rows[8]["gradient_norm"] == pytest.approx(each[8]["gradient_norm"], rel=1e-6)


def test_nan_without_end_stops_also_where_it_is_skipped(config, tmp_path, spoiled, capsys):
    spoiled(*range(5, 200))
    assert main(config, tmp_path, "train.nan=skip") == 1
    assert "iteration 12: pull not finite" in capsys.readouterr().err.strip().splitlines()[-1]


# Several processes


EVERY_STATE = ["train.snapshot_every=1", "train.keep=100"]


@pytest.fixture(scope="module")
def run_of_two(config, tmp_path_factory, repository):
    """A run of two processes that nothing disturbs, with a checkpoint of every iteration."""
    output = tmp_path_factory.mktemp("of_two")
    command = [sys.executable, *torchrun("train.py", config, *EVERY_STATE, "--output", str(output))]
    done = subprocess.run(command, cwd=repository, timeout=SECONDS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output


@pytest.mark.slow
@linux
@pytest.mark.parametrize("killed", [0, 1])
def test_torchrun_restarts_a_killed_process(config, run_of_two, tmp_path, start, killed):
    restarting = torchrun("--max_restarts=2", "train.py", config, "--output", tmp_path, "--resume")
    process = start(*restarting)
    wait_for_rows(process, tmp_path, 8)
    ranks = {rank_of(pid): pid for pid in children(process.pid)}
    os.kill(ranks[killed], signal.SIGKILL)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    assert "resumed from" in out
    same_runs(tmp_path, run_of_two)


@pytest.mark.slow
@linux
@pytest.mark.parametrize(
    "number, all_of_them", [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, True)]
)
def test_a_signal_to_torchrun(config, run_of_two, tmp_path, start, number, all_of_them):
    """To torchrun alone, which passes it on, or to all processes, as a cluster's scheduler does: some get it twice."""
    process = start(*torchrun("train.py", config, "--output", tmp_path))
    wait_for_rows(process, tmp_path, 3)
    for pid in [*(children(process.pid) if all_of_them else []), process.pid]:
        os.kill(pid, number)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert all_of_them or f"stopped by signal {number}" in out, err
    assert 'train.py", line' not in err  # torchrun's own traceback is the only one
    iteration = checkpoint.load(tmp_path / "last.pt")["iteration"]
    assert 3 <= iteration < 40
    same_states(tmp_path / "last.pt", run_of_two / f"{iteration:08d}.pt")
    assert comparable_rows(tmp_path) == comparable_rows(run_of_two)[:iteration]
    if not all_of_them:  # to resume from the same state once is enough
        for resumed in start_ranks(start, 2, "train.py", config, "--output", tmp_path, "--resume"):
            _, err = resumed.communicate(timeout=SECONDS)
            assert resumed.returncode == 0, err
        same_runs(tmp_path, run_of_two)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all(config, tmp_path, start):
    first, second = start_ranks(start, 2, "train.py", config, "--output", tmp_path)
    wait_for_rows(first, tmp_path, 3)
    second.send_signal(signal.SIGUSR1)
    for process in (first, second):
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode in (128 + signal.SIGUSR1, 128 + signal.SIGTERM), err
    assert checkpoint.load(tmp_path / "last.pt")["iteration"] >= 3


@pytest.mark.slow
@pytest.mark.parametrize("hung", [0, 1])
def test_a_process_that_hangs(config, tmp_path, start, hung):
    timeout = 8
    processes = start_ranks(start, 2, "train.py", config, f"runtime.collective_timeout={timeout}", "--output", tmp_path)
    wait_for_rows(processes[0], tmp_path, 8)
    processes[hung].send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    waiting = processes[1 - hung]
    _, err = waiting.communicate(timeout=SECONDS)
    assert waiting.returncode == 1
    error = err.strip().splitlines()[-1]
    assert error.startswith("error: another process of this run has ended") and "collective_timeout" in error
    assert time.monotonic() - begun < timeout + 30
    assert checkpoint.load(tmp_path / "last.pt")["iteration"] >= 5
    if hung == 1:
        assert "continue with --resume" in error


@pytest.mark.slow
@pytest.mark.parametrize("fault", [hang_in_validation_loss, hang_in_evaluation])
def test_a_first_process_that_hangs_while_the_other_waits_for_it(config, tmp_path, start, fault):
    options = ["runtime.collective_timeout=4", "train.validate_every=3", "train.ap_every=3", "data.val.limit=2"]
    _, second = start_ranks(start, 2, *disturbed(fault, "train.py"), config, *options, "--output", tmp_path / "r")
    _, err = second.communicate(timeout=SECONDS)
    assert second.returncode == 1, err
    error = err.strip().splitlines()[-1]
    assert error.startswith("error: another process of this run has ended or hangs: no progress of process 0")
    assert checkpoint.load(tmp_path / "r" / "last.pt")["iteration"] == 3


@pytest.mark.slow
def test_a_slow_save_is_waited_for(config, tmp_path, start):
    """Of more than twice the timeout, after which one that makes no progress would be given up."""
    timeout = 4
    assert SLOW_SAVE > 2 * timeout
    options = ["train.iterations=2", "train.lr_drops=[1]", f"runtime.collective_timeout={timeout}"]
    begun = time.monotonic()
    for process in start_ranks(
        start, 2, *disturbed(slow_save, "train.py"), config, *options, "--output", tmp_path / "r"
    ):
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
    assert time.monotonic() - begun > SLOW_SAVE
    assert checkpoint.load(tmp_path / "r" / "last.pt")["iteration"] == 2


@pytest.fixture(scope="module")
def waiting(config, run, tmp_path_factory, repository):
    """Programs whose second process never starts: {script: first process}. They wait at the same time."""
    output, checkpoint = tmp_path_factory.mktemp("waiting"), ["--checkpoint", run / "last.pt"]
    options = [config, "runtime.collective_timeout=3", "--output", output / "r"]
    with started_programs(repository) as start:
        yield {
            script: start(script, *options, *more, **rank_environment(0, 2, free_port()))
            for script, more in (("train.py", []), ("test.py", checkpoint))
        }


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py", "test.py"])
def test_a_process_that_never_joins(waiting, script):
    alone = waiting[script]
    _, err = alone.communicate(timeout=SECONDS)
    assert alone.returncode == 1 and "Traceback" not in err
    error = err.strip().splitlines()[-1]
    assert error.startswith("error: another process of this run has ended, never started")


@pytest.mark.slow
def test_a_process_that_dies_while_testing(config, run, tmp_path, start):
    options = ["--checkpoint", run / "last.pt", "--output", tmp_path / "r", "runtime.collective_timeout=4"]
    first, _ = start_ranks(start, 2, *disturbed(death_while_detecting, "test.py"), config, *options)
    _, err = first.communicate(timeout=SECONDS)
    assert first.returncode == 1 and "Traceback" not in err, err
    assert err.strip().splitlines()[-1].startswith("error: another process of this run has ended")


@pytest.mark.slow
def test_evaluation_by_two_processes_is_that_of_one(config, run, tmp_path, start):
    arguments = [config, "--checkpoint", str(run / "last.pt"), "--output"]
    assert test_script.main([*arguments, str(tmp_path / "one")]) == 0
    process = start(*torchrun("test.py", *arguments, tmp_path / "two"))
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    one, two = (tmp_path / name / "results.json" for name in ("one", "two"))
    assert json.loads(one.read_text()) and one.read_text() == two.read_text()
    figures = [json.loads((path.parent / "metrics.json").read_text()) for path in (one, two)]
    for found in figures:
        del found["seconds_per_image"], found["seconds_per_image_of"]
    assert figures[0] == figures[1]
