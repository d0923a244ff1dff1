"""Every ablation of the CornerNet paper through train.py and test.py, at a reduced size."""

import json
from pathlib import Path

import pytest
import yaml

import test as test_script
import train as train_script
from configs.reading import read
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
# Small networks of other kinds than that of tests/tiny.yaml
SMALL = {
    "fpn_corners": {"backbone": {"depth": 18, "width": 8}, "pool_width": 4, "bn_init": "ones"},
    "hourglass_anchors": {"backbone": {"stem_width": 4, "widths": [8, 8, 8], "blocks": [1, 1, 1]}, "bn_init": "ones"},
}
TERMS = ("focal", "pull", "push", "offset")


@pytest.mark.parametrize("name", [*CORNERS, pytest.param("fpn_corners", marks=pytest.mark.slow), "hourglass_anchors"])
def test_trains_and_evaluates(name, config, repository, tmp_path):
    if name not in CORNERS:
        pytest.importorskip("torchvision", reason="feature pyramids and anchors are torchvision's")
    tiny, _ = read(Path(config))
    del tiny["model"]["backbone"]["stacks"]  # the experiment's own
    small = tiny | {"model": SMALL.get(name, tiny["model"])}
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"base": str(repository / "configs" / f"{name}.yaml"), **small}))
    assert train_script.main([str(path), "--output", str(tmp_path / "run")]) == 0
    rows = read_rows(tmp_path / "run")
    terms = ("classification", "regression") if name == "hourglass_anchors" else TERMS
    assert [r["iteration"] for r in rows if {"loss", *terms} <= r.keys()] == [10, 20]
    assert [r["iteration"] for r in rows if {"val_loss", *(f"val_{t}" for t in terms)} <= r.keys()] == [20]

    arguments = [str(path), "data.val.limit=1", "--checkpoint", str(tmp_path / "run" / "last.pt")]
    assert test_script.main([*arguments, "--output", str(tmp_path / "val"), "--draw", "1"]) == 0
    metrics = json.loads((tmp_path / "val" / "metrics.json").read_text())
    assert metrics["images"] == 1 and "AP" in metrics
    assert len(list((tmp_path / "val" / "pictures").iterdir())) == 1
