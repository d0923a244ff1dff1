"""Options that are set without effect: their messages, and that the experiments have none."""

from pathlib import Path

import pytest

import configs
from configs import load, without_effect
from tests.configs.test_configs import EXPERIMENTS, FOLDER, write


def said(path, *overrides):
    return without_effect(load(path, overrides), path, overrides)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_experiments_set_nothing_without_effect(name):
    assert said(FOLDER / f"{name}.yaml") == []


@pytest.mark.parametrize(
    "config, override, reason",
    [
        ("toy", "test.score_threshold=0.3", "the network of model.detector=cornernet does not read it"),
        ("toy", "test.centers=7", "model.detector=cornernet does not read it"),
        ("toy", "penalty.center_divisor=7", "does not read it"),
        ("toy", "test.region_size=7", "does not read it"),
        ("toy_centernet", "test.score_threshold=0.3", "model.detector=centernet does not read it"),
        ("centernet_hg52_cascade", "test.centers=9", "model.detector=centernet does not read it without model.center"),
        ("hourglass_anchors", "loss.pull=2", "model.detector=anchors does not read it"),
        ("hourglass_anchors", "penalty.kind=none", "model.detector=anchors does not read it"),
        ("hourglass_anchors", "test.corners=9", "model.detector=anchors does not read it"),
        ("hourglass_anchors", "test.nms_sigma=9", "test.nms is hard"),
        ("toy", "test.saccade.crops=9", "model.detector=cornernet does not read it"),
        ("toy_centernet", "loss.attention=2", "model.detector=centernet does not read it"),
        ("toy_saccade", "test.centers=7", "model.detector=saccade does not read it"),
        ("toy_saccade", "augment.border=7", "augment.zoom is set"),
        ("toy", "test.stale_rows=false", "test.as_published is false"),
        ("toy", "test.nms_overlap=0.9", "test.nms is gaussian"),
        ("toy", "test.merge_exponent=2", "test.merge is false"),
        ("toy", "penalty.radius=2", "penalty.kind is object"),
        ("bccd", "augment.border=2", "augment.crop is false"),
        ("toy", "train.lr_drops=[9,2000]", "the run ends after train.iterations=2000, before the drop after 2000"),
        ("toy", "train.worker_timeout=2 train.workers=0", "train.workers is 0"),
        ("toy", "train.validate_images=2 train.validate_every=0", "train.validate_every is 0"),
        ("toy", "train.lr_factor=0.5 train.lr_drops=[]", "train.lr_drops is empty"),
        ("toy", "train.lr_drops=[1000] train.lr_schedule=cosine", "train.lr_schedule is cosine"),
        ("toy", "augment.fit_scales=[1,2]", "augment.crop is true"),
    ],
)
def test_options_of_the_command_line(config, override, reason):
    (line,) = said(FOLDER / f"{config}.yaml", *override.split())
    assert line.startswith(f"command line: {override.partition('=')[0]} has no effect: ") and reason in line


@pytest.mark.parametrize(
    "config, override",
    [
        ("hourglass_anchors", "test.score_threshold=0.3"),
        ("toy_centernet", "test.centers=7"),
        ("toy", "test.nms_sigma=0.3"),
        ("cornernet_hg104_multiscale", "test.merge_exponent=2"),
        ("toy", "augment.border=2"),
        ("toy_saccade", "test.saccade.crops=9"),
        ("toy_saccade", "loss.attention=2"),
        ("cornernet_hg104_fixed_radius", "penalty.radius=3"),
    ],
)
def test_options_with_effect(config, override):
    assert said(FOLDER / f"{config}.yaml", override) == []


def test_files(tmp_path):
    write(tmp_path / "base.yaml", f"base: {FOLDER / 'toy.yaml'}\ntest: {{centers: 7}}\n")
    path = write(tmp_path / "a.yaml", "base: base.yaml\ntest:\n  region_size: 7\n  center_match: first\n")
    (line,) = said(path)  # neither what the base sets, nor the default
    assert line.startswith(f"{path}:3: test.region_size has no effect: ")
    # An inherited drop that a shorter run does not reach
    (line,) = said(write(tmp_path / "short.yaml", f"base: {FOLDER / 'toy.yaml'}\ntrain: {{iterations: 300}}\n"))
    assert line.startswith(f"{FOLDER / 'toy.yaml'}:") and "train.lr_drops has no effect" in line
    # All options of a run, as it stores them
    assert said(write(tmp_path / "config.yaml", configs.dump(load(FOLDER / "toy.yaml")))) == []
    assert without_effect(load(None), None, ()) == []
    assert Path(configs.__file__).parent == FOLDER
