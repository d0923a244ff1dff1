"""A run that is stopped and resumed is the run that goes through, bit for bit; which checkpoints stay; --init."""

import functools
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from nnet.runtime import checkpoint
from nnet.training.validation import Validation
from tests.processes import read_rows
from tests.runs import before_steps, main, same, same_runs, without_curves, without_pictures

# 15 images in updates of 5: an epoch has 3 iterations.
TINY = """
data: {train: {limit: 15}, val: {limit: 2}}
train: {iterations: 9, lr_drops: [5], warmup: 2, log_every: 1, validate_every: 3, snapshot_every: 0}
"""
# Options that the version before `model.detector` had in these sections
OLD_MODEL = {"backbone", "head", "stacks", "stem_width", "widths", "blocks", "pool_width", "corner_pooling", "bn_init"}
OLD_MODEL |= {"center_keypoints", "center_pooling", "cascade_corner_pooling"}
OLD_RUNTIME = {"device", "threads", "tf32", "collective_timeout"}
STOPS = [1, 3, 4, 6, 8]  # 3 and 6 end an epoch, and are validated


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A run that goes through."""
    output = tmp_path_factory.mktemp("through") / "run"
    assert main(config, output) == 0
    return output


@pytest.fixture(autouse=True)
def quick(run, monkeypatch):
    """All runs but `run` do without pictures."""
    without_pictures(monkeypatch)
    without_curves(monkeypatch)


@pytest.fixture(scope="module")
def stopped_at(config, tmp_path_factory):
    """Gives the folder of a run that SIGTERM stopped in the given iteration, not to be changed."""

    @functools.cache
    def run(iteration, workers):
        output = tmp_path_factory.mktemp("stopped")
        with pytest.MonkeyPatch.context() as patch:
            before_steps(patch, {iteration: lambda: signal.raise_signal(signal.SIGTERM)})
            assert main(config, output, f"train.workers={workers}") == 128 + signal.SIGTERM
        assert checkpoint.load(output / "last.pt")["iteration"] == iteration
        return output

    return run


@pytest.fixture
def stopped(monkeypatch):
    """Runs train.py with a signal that arrives in the given iteration; returns its exit code."""

    def run(number, iteration, *arguments):
        with monkeypatch.context() as patch:
            before_steps(patch, {iteration: lambda: signal.raise_signal(number)})
            return main(*arguments)

    return run


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("*.pt"))


@pytest.mark.parametrize("before, after", [(0, 0), (2, 2), (0, 2)])
@pytest.mark.parametrize("stop", STOPS)
def test_stopped_and_resumed(config, run, tmp_path, stopped_at, stop, before, after):
    output = shutil.copytree(stopped_at(stop, before), tmp_path / "run")
    assert main(config, output, f"train.workers={after}", "--resume") == 0
    same_runs(output, run)


def test_stopped_at_every_point_in_turn(config, run, tmp_path, stopped):
    for i, stop in enumerate(STOPS):
        assert stopped(signal.SIGUSR1, stop, config, tmp_path, f"train.workers={i % 2}", "--resume") == 138
    assert main(config, tmp_path, "--resume") == 0
    same_runs(tmp_path, run)


@pytest.mark.parametrize(
    "options", [["train.ema=0.9"], ["train.weight_decay=0.1", "train.lr_schedule=cosine"]], ids=str
)
def test_the_options_of_small_data_go_on_bit_for_bit(config, tmp_path, stopped, options):
    assert main(config, tmp_path / "one", *options) == 0
    assert stopped(signal.SIGTERM, 4, config, tmp_path / "other", *options) == 128 + signal.SIGTERM
    assert main(config, tmp_path / "other", *options, "--resume") == 0
    same_runs(tmp_path / "one", tmp_path / "other")
    assert ("average" in checkpoint.load(tmp_path / "one" / "last.pt")) == ("train.ema=0.9" in options)


def test_rows_of_several_iterations_are_those_of_the_run_that_goes_through(config, tmp_path, stopped):
    """A row is the mean over the iterations since the row before, those before the stop included."""
    every = ["train.log_every=4", "train.validate_every=0"]
    assert main(config, tmp_path / "one", *every) == 0
    assert stopped(signal.SIGTERM, 6, config, tmp_path / "other", *every) == 128 + signal.SIGTERM
    assert main(config, tmp_path / "other", *every, "--resume") == 0
    same_runs(tmp_path / "one", tmp_path / "other")
    assert [row["iteration"] for row in read_rows(tmp_path / "one")] == [4, 8, 9]


def test_ended_and_prolonged(config, run, tmp_path):
    assert main(config, tmp_path, "train.iterations=4", "train.validate_every=0") == 0
    assert main(config, tmp_path, "train.validate_every=0", "--resume") == 0
    state, expected = checkpoint.load(tmp_path / "last.pt"), checkpoint.load(run / "last.pt")
    same(state["model"], expected["model"])
    same(state["optimizer"], expected["optimizer"])


def test_rows_past_the_checkpoint_are_made_again(config, run, tmp_path, stopped):
    """As after a kill: the log has gone on since the last snapshot, and its last line is cut short."""
    assert stopped(signal.SIGINT, 4, config, tmp_path) == 128 + signal.SIGINT
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 5, "loss": 1.0}\n{"iteration": 6, "lo')
    assert main(config, tmp_path, "--resume") == 0
    same_runs(tmp_path, run)


@pytest.mark.slow
def test_float16_keeps_the_scale_of_the_loss(config, tmp_path, stopped):
    arguments = [config, tmp_path / "one", "train.precision=float16", "train.iterations=5", "train.validate_every=0"]
    assert main(*arguments) == 0
    arguments[1] = tmp_path / "other"
    assert stopped(signal.SIGTERM, 3, *arguments) == 128 + signal.SIGTERM
    scaler = checkpoint.load(tmp_path / "other" / "last.pt")["scaler"]
    assert scaler["scale"] > 0 and "_growth_tracker" in scaler
    assert main(*arguments, "--resume") == 0
    same_runs(tmp_path / "one", tmp_path / "other")


@pytest.fixture
def precisions(monkeypatch):
    """Gives the runs validation APs of one's own choice, by iteration."""

    def give(values):
        def precision(self):
            value = next(values)
            return {"AP": value, "AP50": value}

        values = iter(values)
        monkeypatch.setattr(Validation, "precision", precision)

    return give


def test_which_checkpoints_stay(config, tmp_path, precisions):
    precisions([0.1, 0.5, 0.3, 0.2, 0.1, 0.5, 0.2, 0.4])
    kept = ["train.keep=2", "train.keep_every=3", "train.snapshot_every=1", "train.ap_every=1", "train.iterations=8"]
    assert main(config, tmp_path, *kept) == 0
    assert checkpoints(tmp_path) == ["00000003.pt", "00000006.pt", "00000007.pt", "00000008.pt", "best.pt", "last.pt"]
    assert checkpoint.load(tmp_path / "last.pt")["iteration"] == 8
    assert checkpoint.load(tmp_path / "best.pt")["iteration"] == 2  # the 6th is as good, not better
    assert [checkpoint.load(tmp_path / f"0000000{i}.pt")["iteration"] for i in (3, 6, 7, 8)] == [3, 6, 7, 8]
    assert not list(tmp_path.glob(".*"))


def test_the_best_is_remembered(config, tmp_path, precisions, stopped):
    precisions([0.2, 0.5, 0.4, 0.3, 0.6])
    often = ["train.ap_every=1", "train.iterations=5"]
    assert stopped(signal.SIGTERM, 4, config, tmp_path, *often) == 128 + signal.SIGTERM  # before its AP
    assert checkpoint.load(tmp_path / "best.pt")["iteration"] == 2
    assert main(config, tmp_path, *often, "--resume") == 0
    assert checkpoint.load(tmp_path / "best.pt")["iteration"] == 5
    found = [row["val_AP"] for row in read_rows(tmp_path) if "val_AP" in row]
    assert found == [0.2, 0.5, 0.4, 0.3, 0.6]


def test_what_a_killed_save_has_left_is_removed(config, run, tmp_path):
    shutil.copy(run / "last.pt", tmp_path)
    for name in (".00000009.pt.partial", ".last.pt.partial"):
        (tmp_path / name).write_bytes(b"cut short")
    assert main(config, tmp_path, "train.iterations=10", "--resume") == 0
    assert not list(tmp_path.glob(".*"))


STILL = ["train.iterations=1", "train.lr=1e-30", "train.validate_every=0"]  # a step that changes no weight


def parameters(path):
    """Weights without running statistics."""
    model = checkpoint.load(path)["model"]
    return {k: v for k, v in model.items() if "running" not in k and "tracked" not in k}


def test_init_takes_the_weights_alone(config, run, tmp_path, capsys):
    assert main(config, tmp_path, *STILL, "--init", str(run / "last.pt")) == 0
    assert "left out" not in capsys.readouterr().out
    found, expected = parameters(tmp_path / "last.pt"), parameters(run / "last.pt")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-20, msg=name)
    state = checkpoint.load(tmp_path / "last.pt")
    assert state["iteration"] == 1
    assert {float(s["step"]) for s in state["optimizer"]["state"].values()} == {1.0}


def test_init_with_another_number_of_classes(config, run, toy, tmp_path, capsys):
    folder = tmp_path / "toy"
    shutil.copytree(toy, folder)
    for path in (folder / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        content["categories"] = content["categories"][:2]
        kept = {c["id"] for c in content["categories"]}
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] in kept]
        path.write_text(json.dumps(content))
    output = tmp_path / "run"
    assert main(config, output, *STILL, f"data.root={folder}", "--init", str(run / "last.pt")) == 0
    found, expected = parameters(output / "last.pt"), parameters(run / "last.pt")
    other = {name for name, value in expected.items() if value.shape != found[name].shape}
    assert len(other) == 4  # weight and bias of the two heatmaps' last convolution
    for name in expected.keys() - other:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-20, msg=name)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("left out of"))
    for name in other:
        assert f"{name} (is {list(expected[name].shape)}, the network's {list(found[name].shape)})" in line
    assert line.count(" (is ") == 4


def test_a_checkpoint_of_another_version(config, run, tmp_path, capsys):
    state = checkpoint.load(run / "last.pt")
    del state["window"]
    torch.save(state, tmp_path / "old.pt")
    assert main(config, tmp_path / "run", "--resume", str(tmp_path / "old.pt")) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "old.pt is of another version, which stored no window" in line and "--init" in line
    assert main(config, tmp_path / "run", *STILL, "--init", str(tmp_path / "old.pt")) == 0


def in_the_structure_before_detectors(config):
    """A CornerNet's config as the version before `model.detector` stored it in checkpoints."""
    model, backbone = config["model"], config["model"]["backbone"]
    old = backbone | model | {"backbone": backbone["name"], "head": "keypoints"}
    old |= dict.fromkeys(["center_keypoints", "center_pooling", "cascade_corner_pooling"], False)
    config = config | {"model": {name: old[name] for name in OLD_MODEL}, "train": config["train"] | config["runtime"]}
    return {name: section for name, section in config.items() if name != "runtime"}


def test_a_checkpoint_of_the_version_before_detectors(config, run, tmp_path, stopped_at, capsys):
    output = shutil.copytree(stopped_at(4, 0), tmp_path / "run")
    state = torch.load(output / "last.pt", weights_only=True)
    state["config"] = in_the_structure_before_detectors(state["config"])
    assert OLD_RUNTIME <= state["config"]["train"].keys() and "runtime" not in state["config"]
    for name in ("00000004.pt", "last.pt"):
        torch.save(state, output / name)
    assert main(config, tmp_path / "other", "model.corner_pooling=false", "--resume", output / "last.pt") == 2
    assert "of another network" in (error := capsys.readouterr().err)
    assert "(model.corner_pooling: True -> False)" in error
    assert main(config, output, "--resume") == 0
    printed = capsys.readouterr().out
    assert "after 4 of 9 iterations" in printed and "with other options" not in printed
    same_runs(output, run)


def test_init_where_nothing_fits(config, tmp_path, capsys):
    path = Path(tmp_path / "other.pt")
    torch.save({"format": checkpoint.FORMAT, "model": {"somewhere.weight": torch.zeros(3)}}, path)
    assert main(config, tmp_path / "run", "--init", str(path)) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and "other.pt" in line and "none of its weights fits" in line
    assert not (tmp_path / "run").exists()


def test_profile_writes_a_trace(config, tmp_path):
    assert main(config, tmp_path, "--profile", "train.validate_every=0") == 0
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert any("conv" in event.get("name", "") for event in events)


def test_resume_from_the_best_leaves_nothing_of_the_later_run(config, tmp_path, monkeypatch):
    """Neither last.pt nor best.pt are of iterations that the run goes on without."""
    aps = iter([0.2, 0.5, 0.1])
    measure = Validation.precision
    monkeypatch.setattr(Validation, "precision", lambda self: measure(self) | {"AP": next(aps)})
    output = tmp_path / "r"
    every = ["train.snapshot_every=3", "train.ap_every=3", "train.keep=9"]
    assert main(config, output, *every) == 0
    assert checkpoint.load(output / "best.pt")["iteration"] == 6
    assert main(config, output, *every, "train.iterations=3", "--resume", str(output / "00000003.pt")) == 0
    assert checkpoint.load(output / "last.pt")["iteration"] == 3
    assert sorted(p.name for p in output.glob("*.pt")) == ["00000003.pt", "last.pt"]


def test_a_validation_due_at_the_end_is_made_up_for(config, run, tmp_path):
    """A run that was killed between its last snapshot and the validation."""
    output = tmp_path / "r"
    shutil.copytree(run, output)
    rows = read_rows(output)
    last = rows[-1]
    assert last["iteration"] == 9 and "val_loss" in last
    (output / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    assert main(config, output, "--resume") == 0
    assert read_rows(output) == rows


def test_another_layout_of_the_weights_on_resume(config, run, tmp_path):
    """The optimiser's moments follow, also for the fused Adam, which takes their layout for granted."""
    found = []
    for fused in ("true", "false"):
        output = tmp_path / fused
        start = ["--resume", str(tmp_path / "first" / "last.pt")]
        if not (tmp_path / "first").exists():
            assert main(config, tmp_path / "first", "train.iterations=3") == 0
        assert main(config, output, "train.channels_last=true", f"train.fused_adam={fused}", *start) == 0
        found.append(checkpoint.load(output / "last.pt")["model"])
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-3, atol=1e-5)
