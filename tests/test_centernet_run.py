"""CenterNet through train.py and test.py, as a user runs them."""

import json

import cv2

import test as test_script
from tests.processes import read_rows

TINY = """
model: {detector: centernet, center_keypoints: true, center_pooling: true, cascade_corner_pooling: true}
penalty: {overlap: 0.7, rule: centernet}
train: {iterations: 4, log_every: 2, validate_every: 4, ap_every: 4, snapshot_every: 2}
test: {centers: 20, outside: 5, embedding_distance: 9}
"""


def test_trains(checkpoint):
    rows = read_rows(checkpoint.parent)
    assert [r["iteration"] for r in rows if "loss" in r] == [2, 4]
    assert [r["iteration"] for r in rows if "val_AP" in r] == [4]


def test_evaluates_and_draws(config, checkpoint, tmp_path):
    serial = "test.workers=0"  # without threads, the parts follow one another
    arguments = [config, serial, "--checkpoint", str(checkpoint), "--output", str(tmp_path), "--draw", "2"]
    assert test_script.main(arguments) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["truth"] == [] and "AP" in metrics
    parts = metrics["seconds_per_image_of"]
    assert parts.keys() == {"load", "network", "decode", "nms"}
    assert 0 < sum(parts.values()) <= metrics["seconds_per_image"] * 1.001
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert len(pictures) == 2
    for path in pictures:  # truth, detections, kept and removed, two kinds of corners, centers
        height, width = cv2.imread(str(path)).shape[:2]
        assert width > 4.9 * height  # but for the bar of titles


def test_with_annotated_centers(config, checkpoint, tmp_path, capsys, monkeypatch):
    run, detect = [], test_script.detect
    monkeypatch.setattr(test_script, "detect", lambda *arguments: run.append(arguments[0]) or detect(*arguments))
    arguments = [config, "--checkpoint", str(checkpoint)]
    assert test_script.main([*arguments, "--output", str(tmp_path / "predicted")]) == 0
    arguments += ["--truth", "centers"]
    assert test_script.main([*arguments, "--output", str(tmp_path)]) == 0
    assert [detector.truth for detector in run] == [frozenset(), {"centers"}]
    assert json.loads((tmp_path / "metrics.json").read_text())["truth"] == ["centers"]
    capsys.readouterr()
    parts = ["model.center_keypoints=false", "model.center_pooling=false"]
    assert test_script.main([*arguments, *parts, "--output", str(tmp_path / "other")]) == 2
    assert "another network" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
