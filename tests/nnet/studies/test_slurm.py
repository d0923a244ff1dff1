"""The array job, run by bash with programs of a few lines for Python and scontrol."""

import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from nnet.studies.slurm import array_script, ranges
from tests.processes import SECONDS

PYTHON = """#!/bin/bash
echo "$@" > arguments
trap 'echo saved > state; exit 138' USR1
trap 'echo saved > state; exit 143' TERM
touch started
for i in $(seq $STEPS); do sleep 0.05; done
"""
SCONTROL = "#!/bin/bash\necho $@ > requeued\n"


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A folder with the script of 5 runs of which 1, 2 and 4 are not done."""
    for name, text in (("python", PYTHON), ("scontrol", SCONTROL)):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.chdir(tmp_path)
    text = array_script("study", "out put", [1, 2, 4], 5, ["ablate.py", "a b.yaml", "--output", "out put"], 4)
    (tmp_path / "script").write_text(text)
    return tmp_path


def task(folder, steps):
    """The script as Slurm starts it, for task 2 of job 77."""
    of_slurm = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_JOB_ID": "77", "STEPS": str(steps)}
    environment = os.environ | of_slurm | {"PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.Popen(["bash", "script"], cwd=folder, env=environment)


def test_what_a_task_runs(script):
    assert task(script, 1).wait(SECONDS) == 0
    assert (script / "arguments").read_text() == "ablate.py a b.yaml --output out put --processes 4 --only 2\n"
    assert not (script / "requeued").exists()


@pytest.mark.parametrize("number, code", [(signal.SIGUSR1, 138), (signal.SIGTERM, 143)])
def test_a_task_that_is_stopped_saves_and_is_queued_again_before_its_time_limit(script, number, code):
    process = task(script, 2000)
    end = time.monotonic() + SECONDS
    while not (script / "started").exists() and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(SECONDS) == code
    assert (script / "state").read_text() == "saved\n"
    requeued = script / "requeued"
    assert (requeued.read_text() if requeued.exists() else "") == ("requeue 77_2\n" if code == 138 else "")


def test_options_of_sbatch(script):
    lines = (script / "script").read_text().splitlines()
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH"))
    assert options["array"] == "1-2,4" and options["gpus-per-node"] == "4" and options["signal"] == "B:USR1@180"
    assert "# 5 trainings, one task each" in lines[1]


@pytest.mark.parametrize("numbers, text", [([0], "0"), ([0, 1, 2, 3], "0-3"), ([0, 2, 3, 7], "0,2-3,7")])
def test_ranges(numbers, text):
    assert ranges(numbers) == text
