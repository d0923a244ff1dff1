"""Every ablation of the CornerNet paper through train.py and test.py, at a reduced size."""

import json

import pytest

import configs
import test as test_script
import train as train_script
from tests.processes import read_rows

TINY = """
augment: {border: 16}
data: {input_size: [63, 63]}
train: {batch: [2], iterations: 20, lr_drops: [], log_every: 10, validate_every: 20, validate_images: 2}
"""

CORNERS = [
    "cornernet_hg104",
    "cornernet_hg104_ablation",
    "cornernet_hg104_no_pooling",
    "cornernet_hg104_no_penalty_reduction",
    "cornernet_hg104_fixed_radius",
    "cornernet_hg104_multiscale",
    "cornernet_hg52",
]
TERMS = ("focal", "pull", "push", "offset")


@pytest.mark.parametrize("name", [*CORNERS, "fpn_corners", "hourglass_anchors"])
def test_trains_and_evaluates(name, config, repository, tmp_path):
    if name not in CORNERS:
        pytest.importorskip("torchvision", reason="feature pyramids and anchors are torchvision's")
    path = tmp_path / f"{name}.yaml"
    path.write_text(f"base: [{repository / 'configs' / name}.yaml, {config}]\n")
    # What tests/tiny.yaml says of the network would make them all one.
    overrides = [f"model.stacks={configs.load(repository / 'configs' / f'{name}.yaml').model.stacks}"]
    if name == "fpn_corners":
        overrides.append("model.backbone=resnet18_fpn")  # ResNet-101 takes too long
    assert train_script.main([str(path), *overrides, "--output", str(tmp_path / "run")]) == 0
    rows = read_rows(tmp_path / "run")
    terms = ("classification", "regression") if name == "hourglass_anchors" else TERMS
    assert [r["iteration"] for r in rows if {"loss", *terms} <= r.keys()] == [10, 20]
    assert [r["iteration"] for r in rows if {"val_loss", *(f"val_{t}" for t in terms)} <= r.keys()] == [20]

    arguments = [str(path), *overrides, "data.val.limit=1", "--checkpoint", str(tmp_path / "run" / "last.pt")]
    assert test_script.main([*arguments, "--output", str(tmp_path / "val"), "--draw", "1"]) == 0
    metrics = json.loads((tmp_path / "val" / "metrics.json").read_text())
    assert metrics["images"] == 1 and "AP" in metrics
    assert len(list((tmp_path / "val" / "pictures").iterdir())) == 1
