"""CornerNet-Saccade through train.py, test.py and detect.py, as a user runs them."""

import json

import detect as detect_script
import test as test_script
from tests.processes import read_rows

TINY = """
model: {detector: saccade, backbone: {stacks: 2, widths: [8, 8, 8, 8], blocks: [1, 1, 1, 1]}}
data: {input_size: [63, 63]}
augment: {zoom: {full: false}}
penalty: {overlap: 0.5}
train: {iterations: 4, log_every: 2, validate_every: 4, ap_every: 4, snapshot_every: 2, workers: 1}
test: {mirror: false, corners: 12, pairs: 12, embedding_distance: 9, edge_pairs: false, stale_rows: false,
  saccade: {attention_threshold: 0, crops: 4}}
"""


def test_trains(checkpoint):
    rows = read_rows(checkpoint.parent)
    terms = {"loss", "focal", "pull", "push", "offset", "attention"}
    assert [r["iteration"] for r in rows if terms <= r.keys()] == [2, 4]
    assert [r["iteration"] for r in rows if {"val_loss", "val_attention"} <= r.keys()] == [4]
    assert [r["iteration"] for r in rows if "val_AP" in r] == [4]


def test_evaluates_and_draws(config, checkpoint, tmp_path):
    arguments = [config, "--checkpoint", str(checkpoint), "--output", str(tmp_path)]
    arguments += ["--analyses", *test_script.ANALYSES, "--draw", "1", "--pictures", *test_script.PICTURES]
    assert test_script.main(arguments) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert "AP" in metrics and metrics.keys() >= {analysis.key for analysis in test_script.ANALYSES.values()}
    assert len(list((tmp_path / "pictures").iterdir())) == len(test_script.PICTURES)


def test_finds_objects_in_pictures(config, checkpoint, toy, tmp_path):
    arguments = [str(toy / "val"), "--checkpoint", str(checkpoint), "--output", str(tmp_path), "--heatmaps"]
    assert detect_script.main([*arguments, "--threshold", "0", "--batch", "3"]) == 0
    assert json.loads((tmp_path / "results.json").read_text())
    kinds = {"top_left", "bottom_right", "attention_large", "attention_medium", "attention_small"}
    assert {path.name for path in (tmp_path / "heatmaps").iterdir()} == kinds


def test_the_annotation_replaces_nothing(config, checkpoint, tmp_path, capsys):
    arguments = [config, "--checkpoint", str(checkpoint), "--output", str(tmp_path), "--truth", "heatmaps"]
    assert test_script.main(arguments) == 2
    assert "--truth heatmaps: the network of" in capsys.readouterr().err
