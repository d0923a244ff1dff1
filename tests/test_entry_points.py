"""train.py and test.py as a user runs them: end to end on drawn data, and every bad input with its message."""

import ast
import inspect
import json
import pickle
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

import ablate as ablate_script
import test as test_script
import train as train_script
from configs import Config, load, to_dict
from models.cornernet import CornerNetOptions
from models.hourglass import HourglassOptions
from models.keypoints import keypoint_network
from models.losses import LossOptions
from nnet.detection.detector import Detector
from nnet.detection.loading import build_detector
from nnet.families.options import DetectionOptions
from nnet.runtime import checkpoint
from nnet.runtime.files import LOCK
from nnet.runtime.options import RuntimeOptions
from nnet.training.options import TrainOptions
from sample.augment import AugmentOptions
from sample.targets import PenaltyOptions
from tests.builders import CommandWhenUnpickled, changed_toy
from tests.processes import read_rows
from tests.runs import before_steps, same

TINY = """
train: {iterations: 6, lr_drops: [4], log_every: 2, validate_every: 3, ap_every: 6, snapshot_every: 3}
"""


def test_defaults_of_the_schema_are_those_of_the_parts():
    """A part used without a config does what the paper's config has it do."""
    config = Config()
    assert config.augment == AugmentOptions()
    assert config.penalty == PenaltyOptions()
    assert config.loss == LossOptions()
    assert config.test == DetectionOptions()
    assert config.train == TrainOptions()
    assert config.runtime == RuntimeOptions()
    assert config.model == CornerNetOptions(backbone=HourglassOptions())
    parameters = inspect.signature(keypoint_network).parameters
    assert [parameters[name].default for name in ("head", "bn_init")] == [config.model.head, config.model.bn_init]


@pytest.mark.parametrize("script", [train_script, test_script, ablate_script], ids=lambda script: script.__name__)
def test_functions_of_the_scripts_fit_on_a_screen(script):
    functions = [n for n in ast.walk(ast.parse(inspect.getsource(script))) if isinstance(n, ast.FunctionDef)]
    assert {script.__name__, "parse", "main"} <= {function.name for function in functions}
    lengths = {function.name: function.end_lineno - function.lineno + 1 for function in functions}
    assert max(lengths.values()) <= 60, lengths


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A finished run of 6 iterations."""
    output = tmp_path_factory.mktemp("finished") / "run"
    assert train_script.main([config, "--output", str(output)]) == 0
    return output


def refused(capsys, main, *arguments, code=2):
    """Run a script that has to end with one clear line; returns that line."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ") and "Traceback" not in "".join(lines)
    return lines[-1]


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def test_train_writes_everything(run, config):
    names = {p.name for p in run.iterdir()}
    assert {"last.pt", "00000003.pt", "00000006.pt", "metrics.jsonl", "config.yaml", "curves.png"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert to_dict(load(run / "config.yaml")) == to_dict(load(config))
    rows = read_rows(run)
    assert [r["iteration"] for r in rows if "loss" in r] == [2, 4, 6]
    assert [r["iteration"] for r in rows if "val_loss" in r] == [3, 6]
    assert [r["iteration"] for r in rows if "val_AP" in r] == [6]
    assert all(np.isfinite(v) for r in rows for v in r.values() if v is not None)
    assert {"focal", "pull", "push", "offset", "lr", "images_per_second", "data_wait"} <= rows[0].keys()
    assert [r["lr"] for r in rows if "lr" in r] == pytest.approx([2.5e-4, 2.5e-4, 2.5e-5])


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_is_bit_exact_and_logs_have_no_double_rows(config, run, tmp_path, workers):
    output = tmp_path / "run"
    output.mkdir()
    shutil.copy(run / "00000003.pt", output / "last.pt")
    rows = [r for r in read_rows(run) if r["iteration"] <= 4]  # one row past the snapshot
    (output / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert train_script.main([config, f"train.workers={workers}", "--output", str(output), "--resume"]) == 0
    same(weights(output / "last.pt"), weights(run / "last.pt"))
    found = read_rows(output)
    assert [r["iteration"] for r in found if "loss" in r] == [2, 4, 6]
    expected = [r["loss"] for r in read_rows(run) if "loss" in r]
    assert [r["loss"] for r in found if "loss" in r][-1] == expected[-1]


def test_resume_from_a_path_and_of_a_finished_run(config, run, tmp_path, capsys):
    arguments = [config, "--output", str(tmp_path / "a"), "--resume", str(run / "00000003.pt")]
    assert train_script.main(arguments) == 0
    same(weights(tmp_path / "a" / "last.pt"), weights(run / "last.pt"))
    assert train_script.main([config, "--output", str(run), "--resume"]) == 0
    assert "after 6 of 6 iterations" in capsys.readouterr().out


def test_resume_without_a_checkpoint_begins_anew(config, tmp_path):
    assert train_script.main([config, "train.iterations=1", "--output", str(tmp_path / "new"), "--resume"]) == 0
    assert checkpoint.load(tmp_path / "new" / "last.pt")["iteration"] == 1


def test_old_snapshots_are_removed(config, tmp_path):
    overrides = ["train.snapshot_every=1", "train.keep=2", "train.validate_every=0", "train.ap_every=0"]
    assert train_script.main([config, *overrides, "--output", str(tmp_path / "r")]) == 0
    assert sorted(p.name for p in (tmp_path / "r").glob("*.pt")) == ["00000005.pt", "00000006.pt", "last.pt"]


def test_evaluate(config, run, toy, tmp_path, capsys):
    output = tmp_path / "val"
    # Hardly trained: no pair of corners scores, so let all of them through.
    arguments = ["--checkpoint", str(run / "last.pt"), "--output", str(output), "--draw", "2"]
    assert test_script.main([config, "test.embedding_distance=9", *arguments]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Average Precision") == 6 and printed.count("Average Recall") == 6
    metrics = json.loads((output / "metrics.json").read_text())
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"} <= metrics.keys()
    assert metrics["images"] == 4 and metrics["iteration"] == 6 and metrics["unreadable"] == 0
    results = json.loads((output / "results.json").read_text())
    assert len(results) == metrics["detections"] > 0
    assert {"image_id", "category_id", "bbox", "score"} == results[0].keys()
    assert len(list((output / "pictures").iterdir())) == 2


def test_analyses_and_pictures(config, run, tmp_path, monkeypatch):
    """Every analysis of the paper in metrics.json, every picture in its file."""
    made = []
    monkeypatch.setattr(test_script, "build_detector", lambda *a: made.append(build_detector(*a)) or made[-1])
    options = ["test.embedding_distance=9", "test.workers=0"]  # without threads, the parts follow one another
    arguments = [config, *options, "--checkpoint", str(run / "last.pt"), "--output", str(tmp_path)]
    analyses = ["--analyses", "corners", "objects", "errors"]
    pictures = ["--draw", "1", "--pictures", "row", "targets", "heatmaps", "errors"]
    beside = ["beside.test.corners=5", "--beside", config, str(run / "last.pt"), "beside.test.pairs=25"]
    assert test_script.main([*arguments, *analyses, *pictures, *beside]) == 0
    assert [(detector.options.corners, detector.options.pairs) for detector in made] == [(20, 50), (5, 25)]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["AP50"] >= metrics["AP60"] >= metrics["AP70"] >= metrics["AP80"] >= metrics["AP90"] >= 0
    quadrants = {"image", "top_left_quadrant", "bottom_right_quadrant"}
    assert metrics["corner_AP"].keys() == {"top_left", "bottom_right"}
    assert all(found.keys() == quadrants for found in metrics["corner_AP"].values())
    assert sum(group["images"] for group in metrics["AP_by_objects"].values()) == 4
    errors = metrics["errors"]
    assert errors["false"] == errors["wrong_pairing"] + errors["wrong_corner"] + errors["imprecise"]
    parts = metrics["seconds_per_image_of"]
    assert parts.keys() == {"load", "network", "decode", "nms"} and all(v > 0 for v in parts.values())
    assert sum(parts.values()) <= metrics["seconds_per_image"]
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert [name[12:] for name in names] == [".jpg", "_beside.jpg", "_errors.jpg", "_heatmaps.jpg", "_targets.jpg"]


def test_overrides_may_stand_anywhere(config, run, tmp_path):
    options = ["--truth", "heatmaps", "test.corners=5", "--analyses", "errors", "data.val.limit=2"]
    arguments = ["--checkpoint", str(run / "last.pt"), "--output", str(tmp_path)]
    assert test_script.main(["test.pairs=25", config, *options, *arguments]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["truth"] == ["heatmaps"] and metrics["images"] == 2 and "errors" in metrics
    assert metrics["config"]["test"]["corners"] == 5 and metrics["config"]["test"]["pairs"] == 25


def test_annotation_in_place_of_every_map(config, run, tmp_path):
    checkpoint = shutil.copy(run / "last.pt", tmp_path)
    arguments = [config, "--checkpoint", str(checkpoint), "--truth", "embeddings", "heatmaps", "offsets"]
    assert test_script.main([*arguments, "--analyses", "corners", "errors"]) == 0
    metrics = json.loads((tmp_path / "tiny/val_truth_heatmaps_offsets_embeddings/metrics.json").read_text())
    assert metrics["truth"] == ["heatmaps", "offsets", "embeddings"]
    assert metrics["AP"] > 0.95 and metrics["AP90"] > 0.95
    assert metrics["corner_AP"]["top_left"]["image"] > 0.95
    assert metrics["errors"]["false"] == 0


def test_options_that_the_network_or_the_data_have_nothing_for(config, run, toy, capsys, tmp_path):
    info = json.loads((toy / "annotations" / "instances_val.json").read_text())
    info.pop("annotations")
    (tmp_path / "info.json").write_text(json.dumps(info))
    arguments = ["--checkpoint", run / "last.pt", "--output", tmp_path / "o"]
    line = refused(capsys, test_script.main, config, *arguments, "--truth", "centers")
    assert "--truth centers" in line and "does not predict" in line
    unlabelled = [f"data.test={{images: [val], annotations: [{tmp_path / 'info.json'}]}}", "--split", "test"]
    drawn = ["--draw", "1", "--pictures", "targets"]
    for options in (["--truth", "heatmaps"], ["--analyses", "objects"], drawn, ["--report", "test.corners=9"]):
        line = refused(capsys, test_script.main, config, *unlabelled, *arguments, *options)
        assert "no annotated boxes" in line and options[-2] in line
    assert not (tmp_path / "o").exists()
    for options, message in (
        (["--beside", config, "x.pt"], "--beside draws"),
        (["--pictures", "errors"], "--pictures draws"),
        (["--draw", "1", "--beside", config], "--beside: expected 2 arguments"),
        (["--truth", "maps"], "--truth takes any of heatmaps"),
        (["--draw", "1", "--beside", config, "x.pt", "beside.data.root=y"], "options, not data.root=y"),
        (["--draw", "1", "beside.test.corners=5"], "name it with --beside"),
    ):
        with pytest.raises(SystemExit) as stopped:
            test_script.main([config, "--checkpoint", "x.pt", *options])
        assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_test_dev_file_name_and_how_to_submit(config, run, toy, tmp_path, capsys):
    info = json.loads((toy / "annotations" / "instances_val.json").read_text())
    info.pop("annotations")
    annotations = tmp_path / "image_info_test-dev2017.json"
    annotations.write_text(json.dumps(info))
    split = f"data.test={{images: [val], annotations: [{annotations}]}}"
    arguments = [config, split, "--checkpoint", run / "last.pt", "--split", "test", "--output", tmp_path / "dev"]
    assert test_script.main([str(a) for a in arguments]) == 0
    assert (tmp_path / "dev" / "detections_test-dev2017_tiny-last_results.json").is_file()
    assert "to submit: zip" in capsys.readouterr().out


def test_train_split_multi_scale_without_mirror(config, run, tmp_path):
    overrides = ["test.scales=[0.5,1,1.5]", "test.merge=true", "test.mirror=false", "test.as_published=false"]
    arguments = ["--checkpoint", str(run / "last.pt"), "--split", "train", "--output", str(tmp_path / "t")]
    assert test_script.main([config, *overrides, *arguments]) == 0
    assert json.loads((tmp_path / "t" / "metrics.json").read_text())["images"] == 16


# What is wrong with the command line: arguments of train.py, and what the message has to say.
BAD_CONFIGS = [
    (["trian.lr=1"], ["trian.lr", "did you mean train.lr"]),
    (["train.learning_rate=1"], ["train.learning_rate", "options here are", "lr_drops"]),
    (["train.iterations=soon"], ["train.iterations", "whole number", "soon"]),
    (["train.batch=[4,0]"], ["train.batch", "above 0"]),
    (["train.batch=[17]"], ["more images in a micro-batch (17)", "(16)"]),
    (["train.batch=" + str([1] * 17).replace(" ", "")], ["more micro-batches (17)", "(16)"]),
    (["data.root=/nowhere"], ["/nowhere", "no such annotation file"]),
    (["data.train.images=[nowhere]"], ["nowhere", "image folder"]),
    (["train.batch=[1]", "data.input_size=[16,16]"], ["data.input_size", "one cell at the bottom"]),
    (["train.sync_batch_norm=true"], ["train.sync_batch_norm needs CUDA"]),
]


@pytest.mark.parametrize("overrides, texts", BAD_CONFIGS, ids=lambda v: v[0][:30])
def test_bad_options(config, capsys, tmp_path, overrides, texts):
    line = refused(capsys, train_script.main, config, *overrides, "--output", tmp_path / "r")
    assert all(text in line for text in texts), line
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "content, texts",
    [
        (None, ["none.yaml", "does not exist"]),
        ("base: lost.yaml\n", ["lost.yaml"]),
        ("base: none.yaml\n", ["none.yaml", "base"]),
        ("train: {lr: [}\n", ["none.yaml"]),
        ("train: {itertions: 5}\n", ["none.yaml", "train.itertions", "train.iterations"]),
        ("train: {lr: fast}\n", ["none.yaml", "train.lr"]),
    ],
)
def test_bad_config_files(capsys, tmp_path, content, texts):
    path = tmp_path / "none.yaml"
    if content is not None:
        path.write_text(content)
    for main, more in ((train_script.main, []), (test_script.main, ["--checkpoint", tmp_path / "x.pt"])):
        line = refused(capsys, main, path, *more)
        assert all(text in line for text in texts), line


BAD_DATA = {
    "not JSON": (lambda c, f: "{'images': [", ["instances_train.json", "not JSON"]),
    "not COCO": (lambda c, f: c.pop("categories") and None, ["instances_train.json", "`categories` is missing"]),
    "no bbox": (
        lambda c, f: [c["annotations"][3].pop(k) for k in ("bbox", "segmentation")] and None,
        ["annotations[3]", "bbox"],
    ),
    "same image twice": (lambda c, f: c["images"].append(c["images"][0]), ["image id", "1"]),
    "NaN": (lambda c, f: c["annotations"][2].update(bbox=[1, float("nan"), 3, 4]), ["annotations[2]", "nan"]),
    "negative size": (lambda c, f: c["annotations"][2].update(bbox=[1, 2, -3, 4]), ["annotations[2]", "-3"]),
    "unknown image": (lambda c, f: c["annotations"][2].update(image_id=999), ["annotations[2]", "999"]),
    "unknown category": (lambda c, f: c["annotations"][2].update(category_id=99), ["annotations[2]", "99"]),
    "no folder": (lambda c, f: shutil.rmtree(f / "train"), ["train", "image folder"]),
    "lost image": (lambda c, f: (f / "train" / "000003.jpg").unlink(), ["1 of ", "000003.jpg"]),
    "other classes": (lambda c, f: c["categories"][0].update(name="ball"), ["data.val", "ball", "ring"]),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data(config, toy, capsys, tmp_path, kind):
    change, texts = BAD_DATA[kind]
    folder = changed_toy(toy, tmp_path, change)
    line = refused(capsys, train_script.main, config, f"data.root={folder}", "--output", tmp_path / "r")
    assert all(text in line for text in texts), line
    assert not (tmp_path / "r").exists()


def test_category_ids_with_gaps_and_out_of_order_are_fine(config, toy, tmp_path):
    def change(content, _):
        new = {c["id"]: 100 - 7 * c["id"] for c in content["categories"]}
        for entry in content["categories"]:
            entry["id"] = new[entry["id"]]
        for entry in content["annotations"]:
            entry["category_id"] = new[entry["category_id"]]

    folder = changed_toy(toy, tmp_path, change)
    overrides = ["train.validate_every=0", "train.ap_every=0", "train.iterations=1", f"data.root={folder}"]
    assert train_script.main([config, *overrides, "--output", str(tmp_path / "r")]) == 0


def test_bad_checkpoints(config, run, capsys, tmp_path):
    def message(path, *overrides):
        return refused(capsys, test_script.main, config, *overrides, "--checkpoint", path, "--output", tmp_path / "o")

    assert "does not exist" in message(tmp_path / "none.pt")
    short = tmp_path / "short.pt"
    short.write_bytes((run / "last.pt").read_bytes()[:5000])
    assert "short.pt" in message(short) and "damaged" in message(short)
    assert "of another network" in message(run / "last.pt", "model.backbone.widths=[8,8,12]")
    evil = tmp_path / "evil.pkl"
    evil.write_bytes(pickle.dumps({"a": CommandWhenUnpickled(tmp_path)}, protocol=2))
    assert "run code" in message(evil) and not (tmp_path / "ran").exists()
    line = refused(capsys, train_script.main, config, "--output", tmp_path / "r", "--resume", tmp_path / "none.pt")
    assert "none.pt does not exist" in line
    bare = tmp_path / "bare.pkl"
    torch.save(weights(run / "last.pt"), bare)
    line = refused(capsys, train_script.main, config, "--output", tmp_path / "r", "--resume", bare)
    assert "weights alone" in line


def test_checkpoint_of_other_classes(config, run, toy, capsys, tmp_path):
    folder = changed_toy(toy, tmp_path, lambda c, f: None)
    path = folder / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"star"', '"comet"'))
    line = refused(capsys, test_script.main, config, f"data.root={folder}", "--checkpoint", run / "last.pt")
    assert "comet" in line and "star" in line


def test_another_network_of_the_same_shape(config, run, capsys, tmp_path):
    other = "model.corner_pooling=false"
    for main, *more in ((test_script.main, "--checkpoint"), (train_script.main, "--resume")):
        line = refused(capsys, main, config, other, *more, run / "last.pt", "--output", tmp_path / "o")
        assert "of another network" in line and "model.corner_pooling: True -> False" in line


def test_resume_with_other_options_says_so(config, run, tmp_path, capsys):
    arguments = ["--resume", str(run / "00000003.pt"), "--output", str(tmp_path / "r")]
    assert train_script.main([config, "train.lr=1e-3", "train.iterations=4", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "train.lr: 0.00025 -> 0.001" in printed and "train.iterations: 6 -> 4" in printed


def test_resume_takes_no_override_for_its_path(config, tmp_path):
    arguments = ["--output", str(tmp_path / "r"), "--resume", "train.iterations=1"]
    assert train_script.main([config, *arguments]) == 0
    assert checkpoint.load(tmp_path / "r" / "last.pt")["iteration"] == 1


def test_resume_from_an_older_snapshot_leaves_none_of_the_later(config, run, tmp_path):
    output = tmp_path / "r"
    shutil.copytree(run, output)
    arguments = ["--output", str(output), "--resume", str(output / "00000003.pt")]
    assert train_script.main([config, "train.keep=1", "train.snapshot_every=1", "train.iterations=5", *arguments]) == 0
    assert sorted(p.name for p in output.glob("0*.pt")) == ["00000005.pt"]
    assert checkpoint.load(output / "last.pt")["iteration"] == 5


def test_resume_without_last_takes_the_newest_snapshot(config, run, tmp_path, capsys):
    """A run killed between writing its first snapshot and naming it."""
    output = tmp_path / "r"
    output.mkdir()
    shutil.copy(run / "00000003.pt", output)
    assert "holds a run already" in refused(capsys, train_script.main, config, "--output", output)
    assert train_script.main([config, "--output", str(output), "--resume"]) == 0
    assert "after 3 of 6" in capsys.readouterr().out


def test_resume_from_elsewhere_into_a_used_folder(config, run, tmp_path, capsys):
    output = tmp_path / "r"
    shutil.copytree(run, output)
    line = refused(capsys, train_script.main, config, "--output", output, "--resume", run / "00000003.pt")
    assert "holds another run" in line


def test_a_run_is_not_overwritten(config, run, capsys):
    line = refused(capsys, train_script.main, config, "--output", run)
    assert "holds a run already" in line and "--resume" in line


def test_a_folder_in_use_is_left_alone(config, capsys, tmp_path, repository):
    hold = "import sys, pathlib, nnet.runtime.files as f\nl = f.FolderLock(pathlib.Path(sys.argv[1]))\ninput('held\\n')"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    holder = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], cwd=repository, **pipes)
    try:
        assert holder.stdout.readline() == b"held\n"
        assert train_script.main([config, "--output", str(tmp_path)]) == 2
        assert f"{tmp_path} is in use by process {holder.pid} on " in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize(
    "arguments, folder",
    [
        ("configs/toy.yaml --checkpoint runs/toy/last.pt", "runs/toy/val"),
        ("runs/toy/config.yaml --checkpoint runs/toy/last.pt --split train", "runs/toy/train"),
        (
            "configs/toy.yaml --checkpoint runs/a/last.pt --truth heatmaps offsets",
            "runs/a/toy/val_truth_heatmaps_offsets",
        ),
        ("configs/a_multiscale.yaml --checkpoint runs/a/00000100.pt", "runs/a/a_multiscale/val"),
        ("configs/a.yaml --checkpoint A.pkl", "a/val"),
    ],
)
def test_results_go_beside_the_checkpoint(arguments, folder):
    assert test_script.default_output(test_script.parse(arguments.split())).as_posix() == folder


def test_results_of_another_checkpoint_are_not_overwritten_unasked(config, run, tmp_path, capsys):
    arguments = [config, "data.val.limit=1", "--output", str(tmp_path), "--checkpoint"]
    assert test_script.main([*arguments, str(run / "last.pt")]) == 0
    before = (tmp_path / "metrics.json").read_text()
    capsys.readouterr()
    assert test_script.main([*arguments, str(run / "00000003.pt")]) == 2
    assert "holds the results of" in capsys.readouterr().err and (tmp_path / "metrics.json").read_text() == before
    assert test_script.main([*arguments, str(run / "00000003.pt"), "--overwrite"]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["iteration"] == 3


def test_output_that_cannot_be_made(config, run, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    line = refused(capsys, train_script.main, config, "--output", tmp_path / "file" / "r")
    assert "cannot write to the folder" in line and "--output" in line
    line = refused(capsys, test_script.main, config, "--checkpoint", run / "last.pt", "--output", tmp_path / "file")
    assert "cannot write to the folder" in line


def test_validation_without_objects(config, toy, capsys, tmp_path):
    folder = changed_toy(toy, tmp_path, lambda c, f: None)
    path = folder / "annotations" / "instances_val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    arguments = [config, f"data.root={folder}", "--output", str(tmp_path / "r")]
    line = refused(capsys, train_script.main, *arguments)
    assert "data.val has no objects" in line and "train.ap_every=0" in line
    assert train_script.main([*arguments, "train.ap_every=0"]) == 0
    evaluated = ["--checkpoint", str(tmp_path / "r" / "last.pt"), "--output", str(tmp_path / "e")]
    assert test_script.main([config, f"data.root={folder}", *evaluated]) == 0
    assert "has no boxes" in capsys.readouterr().out


def test_a_signal_during_validation_is_heeded_at_once(config, tmp_path, monkeypatch):
    """What was saved before the validation stays, the validation is cut short, and the run ends."""
    looked_at = []
    detect = Detector.run_network

    def slow(self, *arguments):
        looked_at.append(1)
        signal.raise_signal(signal.SIGTERM)
        return detect(self, *arguments)

    monkeypatch.setattr(Detector, "run_network", slow)
    overrides = ["train.ap_every=3", "train.iterations=20", "train.validate_every=0"]
    assert train_script.main([config, *overrides, "--output", str(tmp_path / "r")]) == 128 + signal.SIGTERM
    assert len(looked_at) == 1
    assert checkpoint.load(tmp_path / "r" / "last.pt")["iteration"] == 3
    assert not any("val_AP" in row for row in read_rows(tmp_path / "r"))


def test_what_a_measured_ap_will_lack_is_said_before_training(config, tmp_path, capsys):
    overrides = ["train.iterations=1", "train.lr_drops=[]", "test.detections=1"]
    for every, said in ((1, True), (0, False)):
        validate = [f"train.ap_every={every}", f"train.validate_every={1 - every}"]
        assert train_script.main([config, *overrides, *validate, "--output", str(tmp_path / str(every))]) == 0
        assert ("images have more objects" in capsys.readouterr().out) == said


def test_a_fault_of_the_program_keeps_what_was_computed(config, tmp_path, monkeypatch):
    def fail():
        raise ZeroDivisionError("a fault")

    before_steps(monkeypatch, {3: fail})
    with pytest.raises(ZeroDivisionError):
        train_script.main([config, "train.snapshot_every=0", "--output", str(tmp_path / "r")])
    assert checkpoint.load(tmp_path / "r" / "last.pt")["iteration"] == 2


def test_out_of_gpu_memory_says_what_to_do(config, tmp_path, monkeypatch, capsys):
    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    before_steps(monkeypatch, {1: fail})
    line = refused(capsys, train_script.main, config, "--output", tmp_path / "r", code=1)
    assert "out of GPU memory" in line and "train.batch" in line


def test_unreadable_images_in_an_evaluation(config, run, toy, capsys, tmp_path):
    folder = changed_toy(toy, tmp_path, lambda c, f: (f / "val" / "000018.jpg").write_bytes(b"no image") and None)
    arguments = ["--checkpoint", run / "last.pt", "--output", tmp_path / "e", "--draw", "9"]
    line = refused(capsys, test_script.main, config, f"data.root={folder}", *arguments, code=1)
    assert "1 of 4 images could not be read" in line
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["unreadable"] == 1
    assert len(list((tmp_path / "e" / "pictures").iterdir())) == 3


def test_weights_that_are_not_finite(config, run, capsys, tmp_path):
    state = torch.load(run / "last.pt", weights_only=True)
    next(iter(state["model"].values())).fill_(float("nan"))
    torch.save(state, tmp_path / "nan.pt")
    line = refused(capsys, test_script.main, config, "--checkpoint", tmp_path / "nan.pt")
    assert "diverged" in line


def test_no_split(config, run, capsys):
    line = refused(
        capsys, test_script.main, config, "data.test=null", "--checkpoint", run / "last.pt", "--split", "test"
    )
    assert "data.test is null" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_asked_for_in_vain(config, capsys, tmp_path):
    line = refused(capsys, train_script.main, config, "runtime.device=cuda", "--output", tmp_path / "r")
    assert "runtime.device is cuda" in line


def test_a_diverged_run_ends_and_keeps_the_last_good_state(config, capsys, tmp_path):
    overrides = ["train.lr=1e30", "train.snapshot_every=1", "train.log_every=1", "train.validate_every=0"]
    line = refused(capsys, train_script.main, config, *overrides, "--output", tmp_path / "r", code=1)
    assert "focal, pull, push, offset not finite, on" in line and "train.lr" in line and ".jpg" in line


def test_a_picture_that_cannot_be_drawn_leaves_the_others(config, run, tmp_path, monkeypatch, capsys):
    """Nor the figures. Too wide an image, for example, cannot be written as JPEG."""
    write, calls = test_script.write_image, []

    def fail_once(path, image):
        calls.append(path)
        write(path, np.zeros((1, 70_000, 3), np.uint8) if len(calls) == 1 else image)

    monkeypatch.setattr(test_script, "write_image", fail_once)
    arguments = ["--checkpoint", run / "last.pt", "--output", tmp_path / "e", "--draw", "3"]
    line = refused(capsys, test_script.main, config, *arguments, code=1)
    assert "1 images could not be drawn" in line and "results and figures are complete" in line
    assert len(calls) == 3 and len(list((tmp_path / "e" / "pictures").iterdir())) == 2
    assert (tmp_path / "e" / "metrics.json").exists()
