"""ablate.py as a user runs it: two variants and two seeds on drawn data, killed, stopped, with failures."""

import json
import shutil
import signal

import pytest

import ablate
from configs.study import load_study
from nnet.runtime import checkpoint
from tests.processes import SECONDS, read_rows, wait_for_rows
from tests.runs import KILLS, disturbed

TINY = """
data: {val: {limit: 3}}
train: {iterations: 12, lr: 1e-2, lr_drops: [], log_every: 1, validate_every: 0, snapshot_every: 4}
test: {embedding_distance: 9}
"""
STUDY = """
base: {config}
seeds: [1, 2]
variants:
  pooling: {{}}
  none: {{model: {{corner_pooling: false}}}}
figures: [AP, FD, FDs, FDm]
"""


@pytest.fixture(scope="module")
def study(config, tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "tiny_study.yaml"
    path.write_text(STUDY.format(config=config))
    return path


@pytest.fixture(scope="module")
def finished(study, tmp_path_factory):
    """The folder of a study that goes through, two runs at a time."""
    output = tmp_path_factory.mktemp("through") / "study"
    assert run(study, output, "--jobs", "2") == 0
    return output


# A process that holds a lock
LOCKED = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(999)
"""


def run(study, output, *arguments):
    return ablate.main([str(study), "--output", str(output), *arguments])


def table(output):
    """The content of table.json without times."""
    found = json.loads((output / "table.json").read_text())
    for figures in found["variants"].values():
        for name in ("training_seconds", "seconds_per_image"):
            assert all(value > 0 for value in figures.pop(name)["values"].values())
    return found


def pairs(study, output):
    return load_study(study).pairs(output)


@pytest.mark.slow
def test_two_variants_and_two_seeds(study, finished):
    found = table(finished)
    assert found["runs"] == [["pooling", 1], ["none", 1], ["pooling", 2], ["none", 2]]
    for pair in pairs(study, finished):
        metrics = json.loads((pair.folder / "metrics.json").read_text())
        assert metrics["iteration"] == 12 and metrics["config"]["seed"] == pair.seed
        assert metrics["config"]["model"]["corner_pooling"] == (pair.variant.name == "pooling")
        values = found["variants"][pair.variant.name]["FD"]["values"]
        assert values[str(pair.seed)] == metrics["FD"]
        assert (pair.folder / "last.pt").exists() and (pair.folder / "study.json").exists()
    assert len(set(values.values())) == 2  # seeds differ
    assert "## Differences" in (finished / "table.md").read_text() and (finished / "curves.png").exists()


@pytest.mark.slow
def test_nothing_is_done_twice(study, finished, capsys):
    def times():
        return {path: path.stat().st_mtime_ns for path in finished.glob("*/*/*")}

    before, expected = times(), table(finished)
    assert run(study, finished) == 0
    assert run(study, finished, "--only", "2") == 0
    assert times() == before and table(finished) == expected
    assert run(study, finished, "--list") == 0 and capsys.readouterr().out.count(": done") == 4
    assert run(study, finished, "--slurm") == 0 and "all runs are done" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_at_five_points_and_started_again(study, finished, tmp_path, start):
    """With one of the two seeds. The training starts at its newest checkpoint; one that has ended is not repeated."""
    one_seed = tmp_path / "one_seed.yaml"
    one_seed.write_text(study.read_text().replace("[1, 2]", "[1]"))
    output, expected = tmp_path / "study", shutil.copytree(finished, tmp_path / "expected")
    assert run(one_seed, expected, "--table") == 0
    for kill in KILLS:
        process = start(*disturbed(kill, "ablate.py"), one_seed, "--output", output)
        printed = process.communicate(timeout=SECONDS)
        assert process.returncode == -signal.SIGKILL, (kill.__name__, printed)
        assert not (output / "table.md").exists()
    counts = []
    for pair in pairs(one_seed, output):
        log = (pair.folder / "log.txt").read_text()
        counts.append([log.count(f"$ python {name}.py") for name in ("train", "test")])
        assert len(read_rows(pair.folder)) == 12
    assert counts == [[4, 3], [2, 1]]  # two of them were logged and not started
    log = (output / "pooling" / "seed1" / "log.txt").read_text()
    assert log.count("resumed from") == 3 and log.count("after 12 of 12 iterations") == 2
    assert run(one_seed, output) == 0
    assert table(output) == table(expected)
    assert not list(output.rglob("*.partial"))


@pytest.mark.slow
def test_a_signal_ends_the_trainings_with_their_state_saved(study, tmp_path, start):
    process = start("ablate.py", study, "--output", tmp_path, "--jobs", 2)
    folders = [pair.folder for pair in pairs(study, tmp_path)]
    for folder in folders[:2]:
        wait_for_rows(process, folder, 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGINT and "the same command continues" in errors
    for folder in folders[:2]:
        assert checkpoint.load(folder / "last.pt")["iteration"] >= 2
    assert not folders[2].exists() and not (tmp_path / "table.md").exists() and not (tmp_path / ".lock").exists()


@pytest.mark.slow
def test_a_run_that_fails_is_reported_and_the_table_is_of_the_others(study, finished, tmp_path, capsys):
    output = shutil.copytree(finished, tmp_path / "study")
    broken = pairs(study, output)[1].folder
    (broken / "metrics.json").unlink()
    for path in broken.glob("*.pt"):
        path.write_bytes(b"damaged")
    assert run(study, output) == 1
    errors = capsys.readouterr().err
    assert "error: none, seed 1: checkpoint " in errors and f"(see {broken}/log.txt)" in errors
    assert "Not finished: none, seed 1." in (output / "table.md").read_text()


def refused(capsys, *arguments):
    """The one line with which ablate.py refuses to start."""
    assert run(*arguments) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_what_is_refused_before_work_starts(study, tmp_path, capsys, start):
    assert "--only 4: the study has the runs 0 to 3" in refused(capsys, study, tmp_path, "--only", "4")
    broken = tmp_path / "broken.yaml"
    broken.write_text(study.read_text().replace("corner_pooling", "corner_poling"))
    assert "broken.yaml:6: model.corner_poling: unknown option; did you mean" in refused(capsys, broken, tmp_path)
    process = start("-c", LOCKED, tmp_path / ".lock")
    assert process.stdout.readline() == "held\n"
    assert f"{tmp_path} is in use by" in refused(capsys, study, tmp_path)
    process.kill()
    process.wait()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert run(study, tmp_path, "--table") == 1 and "no run of" in capsys.readouterr().err
    for text in ("--jobs 0", "--table --jobs 2", "--list --processes 2", "--slurm --only 1"):
        with pytest.raises(SystemExit) as caught:
            run(study, tmp_path, *text.split())
        assert caught.value.code == 2


def test_slurm_writes_a_script_of_what_is_to_do(study, tmp_path, capsys):
    assert run(study, tmp_path, "--slurm", "--processes", "2") == 0
    printed = capsys.readouterr().out
    script = (tmp_path / "study.sbatch").read_text()
    assert f"submit: sbatch {tmp_path}/study.sbatch" in printed and "--table" in printed
    assert "#SBATCH --array=0-3\n" in script and "--processes 2 --only" in script
    assert [path.name for path in tmp_path.iterdir()] == ["study.sbatch"]
