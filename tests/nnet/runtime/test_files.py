"""Folders for output."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from db import DataError
from nnet.runtime.files import LOCK, FolderLock, make_folder, refuse_other_results


def test_a_folder_is_made_with_its_parents_and_may_exist(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
        assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(DataError, match=r"cannot write to the folder .*file.*: name another with --output"):
            make_folder(path)


HOLD = """
import sys
from pathlib import Path
from nnet.runtime.files import FolderLock

lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path, repository):
    """A process that holds the lock of tmp_path."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_is_locked_until_its_process_ends(tmp_path, holder):
    with pytest.raises(DataError, match=rf"^{tmp_path} is in use by process {holder.pid} on .*: wait for it, stop it"):
        FolderLock(tmp_path)
    holder.kill()
    holder.wait()
    FolderLock(tmp_path).release()
    assert not (tmp_path / LOCK).exists()


def test_children_do_not_inherit_the_lock(tmp_path, repository):
    lock = FolderLock(tmp_path)
    child = os.fork()
    if not child:  # a worker that survives its trainer
        os.read(0, 0)
        os.execvp("sleep", ["sleep", "60"])
    try:
        lock.file.close()  # as the end of the process does
        command = [sys.executable, "-c", HOLD, str(tmp_path)]
        done = subprocess.run(command, cwd=repository, input="", capture_output=True, text=True)
        assert done.stdout == "held\n", done.stderr
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


@pytest.mark.parametrize(
    "content, refused",
    [
        ({"checkpoint": "a/last.pt", "iteration": 5}, False),
        ({"checkpoint": str(Path("a/last.pt").absolute()), "iteration": 5}, False),
        ({"checkpoint": "a/last.pt", "iteration": 4}, True),
        ({"checkpoint": "b/last.pt", "iteration": 5}, True),
        ({"checkpoint": "a.pkl", "iteration": None}, True),
        ({"AP": 0.5}, False),
        ([], False),
    ],
)
def test_results_of_another_checkpoint_are_kept(tmp_path, content, refused):
    path = tmp_path / "metrics.json"
    refuse_other_results(path, Path("a/last.pt"), 5)  # no results
    path.write_text(json.dumps(content))
    if not refused:
        refuse_other_results(path, Path("a/last.pt"), 5)
        return
    with pytest.raises(DataError, match=r"holds the results of .*, not of a/last.pt after 5 iterations: .*--overwrite"):
        refuse_other_results(path, Path("a/last.pt"), 5)
