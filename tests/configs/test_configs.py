"""Configs: what loads, what it comes to, and the message of everything that is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

import configs
from configs import Config, ConfigError, Split, dump, from_dict, load, to_dict

FOLDER = Path(configs.__file__).parent
EXPERIMENTS = sorted(path.name for path in FOLDER.glob("*.yaml"))


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
    config = load(FOLDER / name)
    assert (FOLDER / name).read_text().startswith("# ")
    assert from_dict(to_dict(config), "checkpoint") == config
    assert load(write(tmp_path / "saved.yaml", dump(config))) == config


def test_experiments_differ_as_they_say():
    paper = load(FOLDER / "cornernet_hg104.yaml")
    assert paper == Config()
    assert sum(paper.train.batch) == 49
    assert load(FOLDER / "cornernet_hg52.yaml").model.stacks == 1
    multiscale = load(FOLDER / "cornernet_hg104_multiscale.yaml")
    assert multiscale.test.scales == [0.5, 0.75, 1.0, 1.25, 1.5] and multiscale.test.merge
    assert (multiscale.model, multiscale.train) == (paper.model, paper.train)
    assert load(FOLDER / "cornernet_hg52_multiscale.yaml") == load(
        FOLDER / "cornernet_hg104_multiscale.yaml", ["model.stacks=1"]
    )
    toy, bccd = load(FOLDER / "toy.yaml"), load(FOLDER / "bccd.yaml")
    assert bccd.data.train == toy.data.train and bccd.data.root == "data/bccd" and toy.data.test is None


def test_centernets_differ_as_they_say():
    centernet = load(FOLDER / "centernet_hg104.yaml")
    assert sum(centernet.train.batch) == 48 and centernet.train.iterations == 480_000
    assert centernet.train.lr_drops == [450_000]
    assert (centernet.penalty.rule, centernet.penalty.overlap, centernet.penalty.center_divisor) == (
        "centernet",
        0.7,
        5,
    )
    assert (centernet.test.corners, centernet.test.centers, centernet.test.outside) == (70, 70, 5)
    small = load(FOLDER / "centernet_hg52.yaml")
    assert small == load(FOLDER / "centernet_hg104.yaml", ["model.stacks=1"])
    for name, single in (("centernet_hg104", centernet), ("centernet_hg52", small)):
        multiscale = load(FOLDER / f"{name}_multiscale.yaml")
        assert multiscale.test.scales == [0.6, 1.0, 1.2, 1.5, 1.8] and multiscale.test.merge
        assert (multiscale.model, multiscale.train, multiscale.penalty) == (single.model, single.train, single.penalty)
    rows = {"corners": (0, 0, 0), "cascade": (0, 0, 1), "regions": (1, 0, 0), "regions_pooling": (1, 1, 0)}
    for name, row in rows.items():  # those of its table 4 differ from the whole in these three values alone
        values = zip(("center_keypoints", "center_pooling", "cascade_corner_pooling"), row, strict=True)
        overrides = [f"model.{key}={bool(value)}" for key, value in values]
        assert load(FOLDER / f"centernet_hg52_{name}.yaml") == load(FOLDER / "centernet_hg52.yaml", overrides)


@pytest.mark.parametrize(
    "override, message",
    [
        ("model.center_pooling=true", "needs model.center_keypoints"),
        ("model.cascade_corner_pooling=true model.corner_pooling=false", "needs model.corner_pooling"),
        ("penalty.center_divisor=0", "must be above 0"),
        ("test.outside=-1", "must be 0 (no limit) or more"),
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
        "fpn_corners": ["model.backbone=resnet101_fpn", "model.stacks=1"],
        "hourglass_anchors": ["model.head=anchors", "test.nms=hard", "test.nms_overlap=0.5", "test.as_published=false"],
    }
    for name, overrides in rows.items():
        assert load(FOLDER / f"{name}.yaml") == load(FOLDER / "cornernet_hg104_ablation.yaml", overrides) != baseline


@pytest.mark.parametrize(
    "overrides, message",
    [
        ("model.backbone=resnet101_fpn", "model.stacks: model.backbone resnet101_fpn has one stack, got 2"),
        ("model.backbone=resnet18_fpn model.stacks=1 model.head=anchors", "model.head: anchors need"),
        ("model.head=anchors model.center_keypoints=true", "model.head: anchors go with neither"),
        ("model.backbone=vgg", "hourglass"),
        ("test.score_threshold=2", "must be from 0 to 1"),
    ],
)
def test_backbones_and_heads_that_do_not_go_together(overrides, message):
    assert message in error_of(FOLDER / "cornernet_hg104.yaml", *overrides.split())


def test_bases_merge_in_order_and_lists_are_replaced(tmp_path):
    write(tmp_path / "a.yaml", "seed: 1\ntrain: {lr: 0.1, batch: [1, 2]}\n")
    write(tmp_path / "sub" / "b.yaml", "base: ../a.yaml\nseed: 2\n")
    write(tmp_path / "c.yaml", "train: {iterations: 7, batch: [3]}\n")
    config = load(write(tmp_path / "d.yaml", "base: [sub/b.yaml, c.yaml]\ntrain: {workers: 0}\n"), ["train.lr=2.5e-4"])
    assert (config.seed, config.train.lr, config.train.batch) == (2, 2.5e-4, [3])
    assert (config.train.iterations, config.train.workers) == (7, 0)

    layout = load(write(tmp_path / "e.yaml", f"base: [{FOLDER / 'cornernet_hg52.yaml'}, {FOLDER / 'coco2014.yaml'}]"))
    assert layout.model.stacks == 1
    assert layout.data.val == Split(["val2014"], ["annotations/instances_minival2014.json"])


def test_values_are_read_generously_where_the_meaning_is_plain(tmp_path):
    path = write(
        tmp_path / "a.yaml", "train: {lr: 1e-3, batch: 8}\ntest: {nms_floor: 0}\ndata: {train: {images: mine}}\n"
    )
    config = load(path, ["train.lr_drops=[]", "data.test=", "augment.scales=1"])
    assert (config.train.lr, config.train.batch, config.train.lr_drops) == (1e-3, [8], [])
    assert isinstance(config.test.nms_floor, float) and config.augment.scales == [1.0]
    assert config.data.train.images == ["mine"] and config.data.test is None
    assert load(path, ["data.test.images=x", "data.test.annotations=y"]).data.test == Split(["x"], ["y"])


def test_options_a_checkpoint_lacks_take_their_defaults():
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
        ("seed=-1", "seed: must be from 0 to 2^32 - 1, got -1"),
        ("train.batch=[]", "train.batch: expected at least one value, got []"),
        ("train.batch=[4, 0]", "train.batch: must be above 0, got [4, 0]"),
        ("train.iterations=0", "train.iterations: must be above 0, got 0"),
        ("train.lr=-1", "train.lr: must be above 0, got -1.0"),
        ("train.lr_drops=[5, 3]", "train.lr_drops: must be in rising order, got [5, 3]"),
        ("train.lr_factor=2", "train.lr_factor: must be above 0, at most 1, got 2.0"),
        ("train.workers=-1", "train.workers: must be 0 or more, got -1"),
        ("train.worker_timeout=0", "train.worker_timeout: must be above 0, got 0"),
        ("data.input_size=[8, 64]", "data.input_size: must be at least 16 pixels, got [8, 64]"),
        ("data.input_size=255", "data.input_size: expected two values, [height, width], got [255]"),
        ("data.val.images=[]", "data.val.images: expected at least one value, got []"),
        ("data.train.limit=-1", "data.train.limit: must be 0 (all images) or more, got -1"),
        ("augment.scales=[1, -1]", "augment.scales: must be above 0, got [1.0, -1.0]"),
        ("augment.mirror=1.5", "augment.mirror: must be from 0 to 1, got 1.5"),
        ("penalty.overlap=1", "penalty.overlap: must lie between 0 and 1, got 1.0"),
        ("test.scales=[]", "test.scales: expected at least one value, got []"),
        ("test.nms_kernel=2", "test.nms_kernel: must be odd and positive, got 2"),
        ("test.corners=0", "test.corners: must be above 0, got 0"),
        ("loss.pull=-0.1", "loss.pull: must be 0 or more, got -0.1"),
        ("model.widths=[8]", "model.widths: an hourglass has at least 2 levels, got [8]"),
        ("model.blocks=[1, 1]", "model.blocks: needs one number per level of model.widths: model.widths has 6, this 2"),
        ("model.stacks=0", "model.stacks: must be above 0, got 0"),
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


def test_command_line_prints_the_resolved_config(tmp_path, repository):
    def run(*arguments):
        command = [sys.executable, "-m", "configs", *arguments]
        return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=60)

    done = run("configs/toy.yaml", "train.lr=1e-4")
    assert done.returncode == 0 and "  lr: 0.0001\n" in done.stdout
    bad = run("configs/toy.yaml", "trian.lr=1")
    assert (
        bad.returncode == 2 and bad.stderr == "error: command line: trian.lr: unknown option; did you mean train.lr?\n"
    )
