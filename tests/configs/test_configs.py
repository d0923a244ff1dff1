"""Configs: what loads, what it resolves to, and the messages of all errors."""

import copy
import dataclasses
import subprocess
import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml

import configs
from configs import Config, ConfigError, describe, dump, from_dict, load, split_overrides, to_dict
from configs.__main__ import main
from configs.declarations import options
from db.splits import Split
from models.anchors import AnchorOptions
from models.centernet import CenterNetOptions
from models.cornernet import CornerNetOptions
from models.fpn import FPNOptions
from models.hourglass import HourglassOptions

FOLDER = Path(configs.__file__).parent
# By name, since a user may keep other files in the folder.
EXPERIMENTS = """
    bccd coco2014 coco_tiny_ceiling coco_tiny_overfit small_data toy toy_centernet toy_squeeze toy_saccade
    toy_wide
    cornernet_hg104 cornernet_hg104_multiscale cornernet_hg52 cornernet_hg52_multiscale
    cornernet_2018_hg104 cornernet_2018_hg104_multiscale cornernet_2018_hg52 cornernet_2018_hg52_multiscale
    cornernet_hg104_ablation cornernet_hg104_fixed_radius cornernet_hg104_no_penalty_reduction
    cornernet_hg104_no_pooling fpn_corners hourglass_anchors cornernet_squeeze cornernet_saccade cornernet_saccade_hg104
    centernet_hg104 centernet_hg104_multiscale centernet_hg52 centernet_hg52_multiscale
    centernet_hg52_corners centernet_hg52_cascade centernet_hg52_regions centernet_hg52_regions_pooling
""".split()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def error_of(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_loads_and_survives_a_round_trip(name, tmp_path):
    config = load(FOLDER / f"{name}.yaml")
    assert (FOLDER / f"{name}.yaml").read_text().startswith("# ")
    assert from_dict(to_dict(config), "checkpoint") == config
    assert load(write(tmp_path / "saved.yaml", dump(config))) == config
    assert load(write(tmp_path / "described.yaml", describe(config))) == config


def test_experiments_differ_as_they_say():
    paper = load(FOLDER / "cornernet_hg104.yaml")
    assert paper == Config()
    assert sum(paper.train.batch) == 49
    assert load(FOLDER / "cornernet_hg52.yaml").model.backbone.stacks == 1
    multiscale = load(FOLDER / "cornernet_hg104_multiscale.yaml")
    assert multiscale.test.scales == (0.5, 0.75, 1.0, 1.25, 1.5) and multiscale.test.merge
    assert (multiscale.model, multiscale.train) == (paper.model, paper.train)
    assert load(FOLDER / "cornernet_hg52_multiscale.yaml") == load(
        FOLDER / "cornernet_hg104_multiscale.yaml", ["model.backbone.stacks=1"]
    )
    for name in ("hg104", "hg104_multiscale", "hg52", "hg52_multiscale"):  # the radius of CornerNet's first release
        first = load(FOLDER / f"cornernet_2018_{name}.yaml")
        assert first.penalty == load(FOLDER / "centernet_hg104.yaml").penalty
        assert first == load(FOLDER / f"cornernet_{name}.yaml", ["penalty.rule=centernet", "penalty.overlap=0.7"])
    toy, bccd = load(FOLDER / "toy.yaml"), load(FOLDER / "bccd.yaml")
    assert bccd.data.train == toy.data.train and bccd.data.root == "data/bccd" and toy.data.test is None


def test_centernets_differ_as_they_say():
    centernet = load(FOLDER / "centernet_hg104.yaml")
    assert sum(centernet.train.batch) == 48 and centernet.train.iterations == 480_000
    assert centernet.train.lr_drops == (450_000,)
    assert (centernet.penalty.rule, centernet.penalty.overlap, centernet.penalty.center_divisor) == (
        "centernet",
        0.7,
        5,
    )
    assert (centernet.test.corners, centernet.test.centers, centernet.test.outside) == (70, 70, 5)
    small = load(FOLDER / "centernet_hg52.yaml")
    assert small == load(FOLDER / "centernet_hg104.yaml", ["model.backbone.stacks=1"])
    for name, single in (("centernet_hg104", centernet), ("centernet_hg52", small)):
        multiscale = load(FOLDER / f"{name}_multiscale.yaml")
        assert multiscale.test.scales == (0.6, 1.0, 1.2, 1.5, 1.8) and multiscale.test.merge
        assert (multiscale.model, multiscale.train, multiscale.penalty) == (single.model, single.train, single.penalty)
    corners = load(FOLDER / "centernet_hg52_corners.yaml")  # without all three parts, the detector is CornerNet
    assert corners == load(FOLDER / "centernet_hg52.yaml", ["model.detector=cornernet"])
    assert corners.model == load(FOLDER / "cornernet_hg52.yaml").model
    rows = {"cascade": (0, 0, 1), "regions": (1, 0, 0), "regions_pooling": (1, 1, 0)}
    for name, row in rows.items():  # the rows of its Table 4 differ from the full network in these three values only
        values = zip(("center_keypoints", "center_pooling", "cascade_corner_pooling"), row, strict=True)
        overrides = [f"model.{key}={bool(value)}" for key, value in values]
        assert load(FOLDER / f"centernet_hg52_{name}.yaml") == load(FOLDER / "centernet_hg52.yaml", overrides)


@pytest.mark.parametrize(
    "override, message",
    [
        ("model.detector=centernet model.center_keypoints=false", "needs model.center_keypoints"),
        ("model.detector=centernet model.corner_pooling=false", "needs model.corner_pooling"),
        ("penalty.center_divisor=0", "must be above 0"),
        ("test.outside=-1", "must be 0 or more"),
        ("test.center_match=nearest", "first"),
    ],
)
def test_center_options_that_do_not_go_together(override, message):
    assert message in error_of(FOLDER / "cornernet_hg52.yaml", *override.split())


def test_ablations_differ_from_their_baseline_in_one_thing():
    baseline = load(FOLDER / "cornernet_hg104_ablation.yaml")
    assert baseline == load(FOLDER / "cornernet_hg104.yaml", ["train.iterations=250000", "train.lr_drops=[]"])
    rows = {
        "cornernet_hg104_no_pooling": ["model.corner_pooling=false"],
        "cornernet_hg104_no_penalty_reduction": ["penalty.kind=none"],
        "cornernet_hg104_fixed_radius": ["penalty.kind=fixed", "penalty.radius=2.5"],
        "fpn_corners": ["model.backbone.name=resnet_fpn", "model.backbone.depth=101"],
        "hourglass_anchors": [
            "model.detector=anchors",
            "test.nms=hard",
            "test.nms_overlap=0.5",
            "test.as_published=false",
        ],
    }
    for name, overrides in rows.items():
        assert load(FOLDER / f"{name}.yaml") == load(FOLDER / "cornernet_hg104_ablation.yaml", overrides) != baseline


@pytest.mark.parametrize(
    "overrides, message",
    [
        ("model.backbone.name=resnet_fpn model.backbone.stacks=1", "model.backbone.stacks: unknown option"),
        (
            "model.backbone.name=resnet_fpn model.detector=anchors",
            "model.backbone.name: expected one of hourglass with model.detector=anchors, got 'resnet_fpn' (text)",
        ),
        ("model.detector=anchors model.center_keypoints=true", "model.center_keypoints: unknown option"),
        ("model.backbone.name=vgg", "expected one of hourglass, resnet_fpn, got 'vgg' (text)"),
        ("test.score_threshold=2", "must be from 0 to 1"),
    ],
)
def test_backbones_and_detectors_that_do_not_go_together(overrides, message):
    assert message in error_of(FOLDER / "cornernet_hg104.yaml", *overrides.split())


def test_bases_merge_in_order_and_lists_are_replaced(tmp_path):
    write(tmp_path / "a.yaml", "seed: 1\ntrain: {lr: 0.1, batch: [1, 2]}\n")
    write(tmp_path / "sub" / "b.yaml", "base: ../a.yaml\nseed: 2\n")
    write(tmp_path / "c.yaml", "train: {iterations: 7, batch: [3]}\n")
    config = load(write(tmp_path / "d.yaml", "base: [sub/b.yaml, c.yaml]\ntrain: {workers: 0}\n"), ["train.lr=2.5e-4"])
    assert (config.seed, config.train.lr, config.train.batch) == (2, 2.5e-4, (3,))
    assert (config.train.iterations, config.train.workers) == (7, 0)

    layout = load(write(tmp_path / "e.yaml", f"base: [{FOLDER / 'cornernet_hg52.yaml'}, {FOLDER / 'coco2014.yaml'}]"))
    assert layout.model.backbone.stacks == 1
    assert layout.data.val == Split(("val2014",), ("annotations/instances_minival2014.json",))


def test_values_are_read_generously_where_the_meaning_is_plain(tmp_path):
    path = write(
        tmp_path / "a.yaml", "train: {lr: 1e-3, batch: 8}\ntest: {nms_floor: 0}\ndata: {train: {images: mine}}\n"
    )
    config = load(path, ["train.lr_drops=[]", "data.test=", "augment.scales=1"])
    assert (config.train.lr, config.train.batch, config.train.lr_drops) == (1e-3, (8,), ())
    assert isinstance(config.test.nms_floor, float) and config.augment.scales == (1.0,)
    assert config.data.train.images == ("mine",) and config.data.test is None
    assert load(path, ["data.test.images=x", "data.test.annotations=y"]).data.test == Split(("x",), ("y",))


def test_options_that_a_checkpoint_lacks_take_their_defaults():
    values = to_dict(Config())
    del values["train"]["keep"]
    assert from_dict(values, "snapshot.pt") == Config()
    values["train"]["momentum"] = 0.9
    with pytest.raises(ConfigError, match=r"^snapshot.pt: train.momentum: unknown option"):
        from_dict(values, "snapshot.pt")
    with pytest.raises(ConfigError, match="snapshot.pt: expected a mapping"):
        from_dict([], "snapshot.pt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian:\n  lr: 1\n", "a.yaml:2: trian.lr: unknown option; did you mean train.lr?"),
        ("train:\n  lrr: 1\n", "a.yaml:2: train.lrr: unknown option; did you mean train.lr?"),
        ("lr: 1\n", "a.yaml:1: lr: unknown option; did you mean train.lr?"),
        ("mirror: 1\n", "a.yaml:1: mirror: unknown option; did you mean augment.mirror or test.mirror?"),
        ("model:\n  pooling: 1\n", "a.yaml:2: model.pooling: unknown option; did you mean model.corner_pooling?"),
        (
            "data:\n  train: {zzzz: 1}\n",
            "a.yaml:2: data.train.zzzz: unknown option; options here are images, annotations",
        ),
        ("seed: 1\ntrain:\n  lr: fast\n", "a.yaml:3: train.lr: expected a number, got 'fast' (text)"),
        ("train: {iterations: 1.5}\n", "a.yaml:1: train.iterations: expected a whole number, got 1.5"),
        ("train: {iterations: true}\n", "train.iterations: expected a whole number, got true (true or false)"),
        ("train: {lr: true}\n", "train.lr: expected a number, got true (true or false)"),
        ("train: {lr: .nan}\n", "train.lr: expected a finite number, got nan"),
        ("train: {batch: [1, x]}\n", "train.batch[1]: expected a whole number, got 'x' (text)"),
        ("train: {batch: }\n", "train.batch: expected a list of whole numbers, got nothing"),
        ("test: {mirror: 1}\n", "test.mirror: expected true or false, got 1 (a whole number)"),
        ("test: {nms: soft}\n", "test.nms: expected one of hard, linear, gaussian, got 'soft' (text)"),
        ("penalty: {kind: [none]}\n", "penalty.kind: expected one of object, fixed, none, got ['none'] (a list)"),
        ("data: {root: 2017}\n", "data.root: expected text, got 2017 (a whole number)"),
        ("data: {test: 3}\n", "data.test: expected a section (options indented under it), got 3 (a whole number)"),
        ("train:\n#  lr: 1\n", "a.yaml:1: train: expected a section (options indented under it), got nothing"),
        ("", "a.yaml is empty"),
        ("# only a comment\n", "a.yaml is empty"),
        ("- 1\n", "a.yaml: expected a mapping of options (`seed: 0`), got [1] (a list)"),
        ("train:\n  batch: [1\nseed: 0\n", "a.yaml:3: not valid YAML: expected ',' or ']'"),
        ("seed: !!python/object/apply:os.getcwd []\n", "a.yaml:1: not valid YAML: could not determine a constructor"),
        ("a: \x01\n", "a.yaml: not valid YAML: special characters are not allowed"),
        ("seed: 2024-13-45\n", "a.yaml: not valid YAML: month must be in 1..12"),
        ("train:\n  lr: 1\n  lr: 2\n", "a.yaml:3: train.lr is given twice, first at"),
        ("a: &x\n  b: *x\n", "a.yaml:1: nested too deeply"),
        ("base: 3\n", "a.yaml:1: base: expected a file name or a list of them, got 3 (a whole number)"),
    ],
)
def test_messages_for_files(tmp_path, text, message):
    error = error_of(write(tmp_path / "a.yaml", text))
    assert error.startswith(str(tmp_path / "a.yaml")) and message in error


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trian.lr=1", "command line: trian.lr: unknown option; did you mean train.lr?"),
        ("lr=1", "command line: lr: unknown option; did you mean train.lr?"),
        ("train.iter=3", "command line: train.iter: unknown option; did you mean train.iterations?"),
        ("train.validate=3", "command line: train.validate: unknown option; did you mean train.validate_every or"),
        ("zz=1", "command line: zz: unknown option; options here are seed, model, data"),
        ("train.lr=fast", "command line: train.lr: expected a number, got 'fast' (text)"),
        ("train", "command line: expected key=value (such as train.lr=1e-4), got 'train'"),
        (".lr=1", "command line: expected key=value"),
        ("train.batch=[1", "command line: train.batch: '[1' is not a valid YAML value"),
        ("seed=2024-13-45", "command line: seed: '2024-13-45' is not a valid YAML value"),
        ("seed=&x {y: *x}", "command line:1: nested too deeply"),
        ("seed.x=1", "command line: seed: expected a whole number, got a section"),
        ("data.test.images=x", "command line: data.test.annotations: is missing"),
    ],
)
def test_messages_for_the_command_line(tmp_path, override, message):
    assert error_of(write(tmp_path / "a.yaml", "data: {test: null}\n"), override).startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=-1", "seed: must be from 0 to 4294967295, got -1"),
        ("train.batch=[]", "train.batch: expected at least one value, got []"),
        ("train.batch=[4, 0]", "train.batch: must be above 0, got [4, 0]"),
        ("train.iterations=0", "train.iterations: must be above 0, got 0"),
        ("train.lr=-1", "train.lr: must be above 0, got -1.0"),
        ("train.lr_drops=[5, 3]", "train.lr_drops: must be in rising order, got [5, 3]"),
        ("train.lr_factor=2", "train.lr_factor: must be above 0, at most 1, got 2.0"),
        ("train.workers=-1", "train.workers: must be 0 or more, got -1"),
        ("train.worker_timeout=0", "train.worker_timeout: must be above 0, got 0"),
        ("data.input_size=[8, 64]", "data.input_size: must be 16 or more, got [8, 64]"),
        ("data.input_size=255", "data.input_size: expected 2 values, got [255]"),
        ("data.val.images=[]", "data.val.images: expected at least one value, got []"),
        ("data.train.limit=-1", "data.train.limit: must be 0 or more, got -1"),
        ("augment.scales=[1, -1]", "augment.scales: must be above 0, got [1.0, -1.0]"),
        ("augment.mirror=1.5", "augment.mirror: must be from 0 to 1, got 1.5"),
        ("penalty.overlap=1", "penalty.overlap: must be above 0, below 1, got 1.0"),
        ("test.scales=[]", "test.scales: expected at least one value, got []"),
        ("test.nms_kernel=2", "test.nms_kernel: must be odd and positive, got 2"),
        ("test.corners=0", "test.corners: must be above 0, got 0"),
        ("loss.pull=-0.1", "loss.pull: must be 0 or more, got -0.1"),
        ("model.backbone.widths=[8]", "model.backbone.widths: expected at least 2 values, got [8]"),
        (
            "model.backbone.blocks=[1, 1]",
            "model.backbone.blocks: needs one number per level of model.backbone.widths: "
            "model.backbone.widths has 6, this 2",
        ),
        ("model.backbone.stacks=0", "model.backbone.stacks: must be above 0, got 0"),
        ("model.backbone.stride=5", "model.backbone.stride: expected one of 4, 8, got 5 (a whole number)"),
        ("train.lr=1e999", "train.lr: expected a finite number, got inf"),
        ("augment.extra=[x]", "augment.extra: there is no augmentation x; there are none"),
    ],
)
def test_messages_for_values_out_of_range(override, message):
    assert error_of(FOLDER / "cornernet_hg104.yaml", override) == f"command line: {message}"


def test_messages_for_missing_files(tmp_path):
    write(tmp_path / "small.yaml", "seed: 0\n")
    missing = tmp_path / "smal.yaml"
    assert error_of(missing) == f"config {missing} does not exist; did you mean small.yaml?"
    assert error_of(tmp_path / "zzz.yaml").endswith(f"; configs in {tmp_path}: small.yaml")
    assert error_of(tmp_path / "no" / "a.yaml").endswith(f"; there is no folder {tmp_path / 'no'}")
    assert "is a folder, expected a YAML file" in error_of(tmp_path)
    (tmp_path / "empty").mkdir()
    assert error_of(tmp_path / "empty" / "a.yaml").endswith(f"; there is no YAML file in {tmp_path / 'empty'}")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not a text file" in error_of(tmp_path / "binary.yaml")
    assert "small.yaml" in error_of(tmp_path / "small.yaml" / "a.yaml", "seed=1")


def test_messages_for_bases(tmp_path):
    outer, inner = write(tmp_path / "outer.yaml", "base: inner.yaml"), write(tmp_path / "inner.yaml", "base: iner.yaml")
    gone = tmp_path / "iner.yaml"
    assert error_of(outer).startswith(f"base file {gone} does not exist (base files: {outer} -> {inner} -> {gone})")
    assert error_of(outer).endswith("did you mean inner.yaml?")
    write(inner, "base: [outer.yaml]")
    assert error_of(outer) == f"{outer}: base files form a cycle: {outer} -> {inner} -> {outer}"
    write(inner, "seed: x\n")  # the file that wrote the value is named, not the one that was asked for
    assert error_of(outer) == f"{inner}:1: seed: expected a whole number, got 'x' (text)"


KINDS = """
model:
  backbone: {stacks: 1, stride: 8}
  bn_init: ones
"""


def test_an_inherited_option_that_the_new_kind_does_not_have_is_dropped(tmp_path):
    write(tmp_path / "base.yaml", KINDS)
    fpn = load(write(tmp_path / "fpn.yaml", "base: base.yaml\nmodel: {backbone: {name: resnet_fpn, depth: 18}}\n"))
    assert fpn.model == CornerNetOptions(backbone=FPNOptions(depth=18), bn_init="ones")
    assert load(tmp_path / "base.yaml", ["model.backbone.name=resnet_fpn", "model.backbone.depth=18"]) == fpn
    # A kind has its own defaults again when it returns.
    hourglass = load(tmp_path / "fpn.yaml", ["model.backbone.name=hourglass"]).model.backbone
    assert hourglass == HourglassOptions()
    # The same kind again changes nothing.
    assert load(tmp_path / "base.yaml", ["model.backbone.name=hourglass"]) == load(tmp_path / "base.yaml")

    anchors = load(FOLDER / "centernet_hg52.yaml", ["model.detector=anchors"]).model
    assert anchors == AnchorOptions(backbone=HourglassOptions(stacks=1))
    centernet = load(tmp_path / "base.yaml", ["model.detector=centernet", "model.center_pooling=false"]).model
    assert centernet == CenterNetOptions(
        backbone=HourglassOptions(stacks=1, stride=8), bn_init="ones", center_pooling=False
    )
    # The kind that the base chose stays where a file does not choose.
    write(tmp_path / "a.yaml", "base: fpn.yaml\nmodel: {backbone: {width: 64}}\n")
    assert load(tmp_path / "a.yaml").model.backbone == FPNOptions(depth=18, width=64)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            "model.backbone.name=resnet_fpn model.backbone.stacks=1",
            "model.backbone.stacks: unknown option; it is an option of model.backbone.name=hourglass, not of "
            "resnet_fpn",
        ),
        (  # in any order
            "model.backbone.stacks=1 model.backbone.name=resnet_fpn",
            "model.backbone.stacks: unknown option; it is an option of model.backbone.name=hourglass, not of "
            "resnet_fpn",
        ),
        (
            "model.center_keypoints=true",
            "model.center_keypoints: unknown option; it is an option of model.detector=centernet, not of cornernet",
        ),
        (
            "model.detector=anchors model.pool_width=8",
            "model.pool_width: unknown option; it is an option of model.detector=cornernet or centernet or saccade, "
            "not of anchors",
        ),
        (
            "model.detector=anchors model.backbone.depth=18",
            "model.backbone.depth: unknown option of this kind of section; options here are name, stacks, stride",
        ),
        (
            "model.detector=centernt",
            "model.detector: expected one of cornernet, centernet, anchors, saccade, got 'centernt' (text); did you "
            "mean",
        ),
        ("model.detector=", "model.detector: expected one of cornernet, centernet, anchors, saccade, got nothing"),
        ("model.backbone.name=[x]", "model.backbone.name: expected one of hourglass, resnet_fpn, got ['x'] (a list)"),
        (
            "model.backbone=hourglas",
            "model.backbone: expected a section (options indented under it), got 'hourglas' (text); "
            "its kind is model.backbone.name",
        ),
        (
            "model.backbone.name=resnet_fpn model.backbone.depth=20",
            "model.backbone.depth: expected one of 18, 34, 50, 101, 152, got 20 (a whole number)",
        ),
        (
            "model.extra_keypoints=[center,cnter]",
            "model.extra_keypoints[1]: expected one of top_left, bottom_right, center, got 'cnter' (text); did you "
            "mean center?",
        ),
    ],
)
def test_messages_for_kinds(overrides, message):
    assert error_of(FOLDER / "cornernet_hg104.yaml", *overrides.split()).startswith(f"command line: {message}")


def test_a_file_that_gives_an_option_of_another_kind_is_named(tmp_path):
    path = write(tmp_path / "a.yaml", "model:\n  detector: anchors\n  corner_pooling: true\n")
    assert error_of(path).startswith(f"{path}:3: model.corner_pooling: unknown option; it is an option of")
    path = write(tmp_path / "b.yaml", "train:\n  batch:\n  - 1\n  - x\n")
    assert error_of(path).startswith(f"{path}:2: train.batch[1]: expected a whole number")


@pytest.mark.parametrize(
    "override, message",
    [
        ("train.device=cpu", "train.device: unknown option; it is now runtime.device"),
        ("train.threads=1", "train.threads: unknown option; it is now runtime.threads"),
        ("train.tf32=true", "train.tf32: unknown option; it is now runtime.tf32"),
        (
            "train.collective_timeout=9",
            "train.collective_timeout: unknown option; it is now runtime.collective_timeout",
        ),
        ("model.stacks=1", "model.stacks: unknown option; it is now model.backbone.stacks"),
        ("model.stem_width=1", "model.stem_width: unknown option; it is now model.backbone.stem_width"),
        ("model.widths=[1, 1]", "model.widths: unknown option; it is now model.backbone.widths"),
        ("model.blocks=[1, 1]", "model.blocks: unknown option; it is now model.backbone.blocks"),
        (
            "model.head=anchors",
            "model.head: expected one of conv3x3, conv1x1, got 'anchors' (text); write model.detector: anchors",
        ),
        (
            "model.backbone=resnet101_fpn",
            "model.backbone: expected a section (options indented under it), got 'resnet101_fpn' (text); "
            "write model.backbone.name: resnet_fpn, with model.backbone.depth: 101",
        ),
    ],
)
def test_messages_for_options_that_were_renamed(override, message):
    assert error_of(FOLDER / "cornernet_hg104.yaml", override) == f"command line: {message}"


def before_detectors(**model) -> dict:
    """The default config of versions before model.detector, with these options of its model."""
    values = yaml.safe_load((Path(__file__).parent / "before_detectors.yaml").read_text())
    values["model"] |= model
    return values


CENTERS = {"center_keypoints": True, "center_pooling": False, "cascade_corner_pooling": True}


@pytest.mark.parametrize(
    "old, model",
    [
        ({}, CornerNetOptions()),
        ({"stacks": 1, "stem_width": 4}, CornerNetOptions(backbone=HourglassOptions(stacks=1, stem_width=4))),
        ({"corner_pooling": False, "pool_width": 8}, CornerNetOptions(corner_pooling=False, pool_width=8)),
        (CENTERS, CenterNetOptions(center_pooling=False)),
        ({"cascade_corner_pooling": True}, CenterNetOptions(center_keypoints=False, center_pooling=False)),
        ({"head": "anchors", "stacks": 1}, AnchorOptions(backbone=HourglassOptions(stacks=1))),
        ({"backbone": "resnet101_fpn", "stacks": 1}, CornerNetOptions(backbone=FPNOptions(depth=101))),
        (
            {"backbone": "resnet18_fpn", "stacks": 1, "widths": [64, 64], "bn_init": "ones", **CENTERS},
            CenterNetOptions(backbone=FPNOptions(depth=18, width=64), bn_init="ones", center_pooling=False),
        ),
    ],
)
def test_a_stored_config_of_an_older_version_is_upgraded(old, model):
    values = before_detectors(**old)
    values["train"] |= {"device": "cpu", "threads": 3, "tf32": True, "collective_timeout": 7, "lr": 1.0}
    stored = copy.deepcopy(values)
    config = from_dict(values)
    assert values == stored  # left as it was
    assert type(config.model) is type(model)
    assert config.model == model
    assert asdict(config.runtime) == {"device": "cpu", "threads": 3, "tf32": True, "collective_timeout": 7}
    assert config.train == dataclasses.replace(Config().train, lr=1.0)
    assert from_dict(configs.upgrade(values)) == config
    assert configs.upgrade(to_dict(config)) == to_dict(config)


def test_the_old_defaults_are_todays():
    assert from_dict(before_detectors()) == Config()
    old = before_detectors()
    for name in ("backbone", "head", "center_keypoints", "center_pooling", "cascade_corner_pooling"):
        del old["model"][name]  # these came later
    assert from_dict(old) == Config()
    for damaged in ({"model": 3}, {"model": {"backbone": 3}}, {"train": None}):
        with pytest.raises(ConfigError):
            from_dict(damaged)


def test_a_checkpoint_can_store_a_config(tmp_path):
    torch.save(to_dict(Config()), tmp_path / "a.pt")
    assert from_dict(torch.load(tmp_path / "a.pt", weights_only=True)) == Config()
    assert load(None) == Config() and load(None, ["seed=3"]).seed == 3


def test_overrides_may_stand_anywhere_on_the_command_line():
    arguments = ["a.yaml", "--resume", "train.lr=1", "--analyses", "corners", "seed=2", "--output=lr=1", "runs/a=b"]
    overrides, rest = split_overrides(arguments)
    assert overrides == ["train.lr=1", "seed=2"]
    assert rest == ["a.yaml", "--resume", "--analyses", "corners", "--output=lr=1", "runs/a=b"]
    assert split_overrides(["data.test=", "a.b.c_1=x=y\nz"]) == (["data.test=", "a.b.c_1=x=y\nz"], [])
    others = ["-x=1", "1=2", "a..b=1", ".lr=1", "lr.=1", "a b=1", "=1", "./lr=1", "a-b=1", "seed"]
    assert split_overrides(others) == ([], others)


def option_classes(section: type) -> set[type]:
    """The option class and those of all sections and kinds in it."""
    inner = [kind for option in options(section).values() for kind in option.sections]
    return {section}.union(*map(option_classes, inner))


@pytest.mark.parametrize("section", sorted(option_classes(Config), key=lambda c: c.__name__))
def test_every_option_is_explained(section):
    assert section.__doc__
    for option in options(section).values():
        assert option.explanation.endswith("."), option.name


def test_a_description_gives_explanation_type_range_and_default():
    config = load(FOLDER / "centernet_hg52.yaml", ["data.test=", "augment.scales=[1]"])
    text = describe(config)
    assert all(len(line) <= 100 for line in text.splitlines())
    for part in (
        "# (a whole number, from 0 to 4294967295)\nseed: 0\n",
        "  # (one of cornernet, centernet, anchors, saccade)\n  detector: centernet\n",
        "    # Number of hourglasses, one after the other.\n"
        "    # (a whole number, above 0; default: 2)\n    stacks: 1\n",
        "  # (a list of whole numbers, each 16 or more, 2 values)\n  input_size: [511, 511]\n",
        "  # (a section or null)\n  test: null\n",
        "  # (a number, above 0, below 1; default: 0.3)\n  overlap: 0.7\n",
        "  # (true or false)\n  crop: true\n",
    ):
        assert part in text, part


def test_command_line_prints_the_resolved_config(capsys):
    assert main([str(FOLDER / "toy.yaml"), "train.lr=1e-4", "--brief"]) == 0
    printed = capsys.readouterr().out
    assert printed == dump(load(FOLDER / "toy.yaml", ["train.lr=1e-4"])) and "  lr: 0.0001\n" in printed
    assert main(["seed=3"]) == 0
    assert capsys.readouterr().out == describe(load(None, ["seed=3"]))


def test_command_line_reports_an_error_on_one_line(repository):
    command = [sys.executable, "-m", "configs", "trian.lr=1", "configs/toy.yaml"]
    bad = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
    assert bad.returncode == 2 and bad.stdout == ""
    assert bad.stderr == "error: command line: trian.lr: unknown option; did you mean train.lr?\n"


# Hostile texts: one line of limited length, at once

LEVELS = [chr(ord("a") + i) for i in range(20)]
HOSTILE = {
    "empty int": "seed: !!int ''\n",
    "timestamp": "seed: !!timestamp x\n",
    "long number": f"seed: {'9' * 300}\n",
    "longer number": f"train: {{lr: {'9' * 5000}}}\n",
    "brackets": f"seed: {'[' * 2000}",
    "list of aliases": "a: &a [1]\n" + "".join(f"{b}: &{b} [{f'*{a}, ' * 9}]\n" for a, b in pairwise(LEVELS)),
    "merged aliases": "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [*{a}, *{a}]}}\n" for a, b in pairwise(LEVELS)),
    "many options": f"train: {{{', '.join(f'k{i}: 1' for i in range(9000))}}}\n",
    "bases": "base: [bases.yaml, bases.yaml]\n",
    "NUL": 'base: "a\\0b"\n',
    "long name": f"base: {'a' * 5000}\n",
    "symlinks": "base: loop.yaml\n",
    "comment": "#" * 2**21,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_end_in_one_line(tmp_path, text):
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for i in range(20):
        write(tmp_path / f"{i}.yaml", f"base: [{i + 1}.yaml, {i + 1}.yaml]\n")
    write(tmp_path / "bases.yaml", "base: [0.yaml, 0.yaml]\n")
    write(tmp_path / "20.yaml", "seed: 1\n")
    error = error_of(write(tmp_path / "a.yaml", text))
    assert len(error.splitlines()) == 1 and len(error) < 1100 + 2 * len(str(tmp_path))


@pytest.mark.parametrize(
    "override, message",
    [
        ("train.workers=1000", "train.workers: must be at most 256, got 1000"),
        ("runtime.threads=100000", "runtime.threads: must be at most 1024"),
        ("train.batch=[1, 99999]", "train.batch: must be at most 10000, got 99999"),
        ("test.workers=1000", "test.workers: must be at most 256, got 1000"),
        ("test.batch=99999", "test.batch: must be at most 10000, got 99999"),
        ("model.pool_width=99999", "model.pool_width: must be at most 16384, got 99999"),
        ("test.saccade.first=[192, 1e9]", "test.saccade.first: must be at most 16384, got 1000000000.0"),
        ("test.nms_sigma=1e-50", "test.nms_sigma: must be at least 1e-06, got 1e-50"),
        (f"seed={10**30}", "seed: expected a number below 2**53"),
    ],
)
def test_mistaken_numbers(tmp_path, override, message):
    assert message in error_of(write(tmp_path / "a.yaml", "seed: 0\n"), override)
