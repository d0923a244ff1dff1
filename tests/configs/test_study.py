"""Studies: what loads, what the scripts are given, and the messages of all errors."""

from pathlib import Path

import pytest

import configs
from configs import ConfigError, load, to_dict
from configs.study import load_study

FOLDER = Path(configs.__file__).parent
STUDIES = """
    cornernet_pooling cornernet_penalty cornernet_backbone cornernet_statements centernet_parts centernet_baselines
    toy_cornernet_parts toy_pooling toy_centernet_parts
""".split()


def study(text, path):
    path.write_text(text)
    return load_study(path)


@pytest.fixture
def path(tmp_path):
    """A study's file beside a config a.yaml, and a b.yaml over it."""
    (tmp_path / "a.yaml").write_text(f"base: {FOLDER / 'toy.yaml'}\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\nmodel: {corner_pooling: false}\n")
    return tmp_path / "study.yaml"


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_loads(name):
    path = FOLDER / "studies" / f"{name}.yaml"
    assert path.read_text().startswith("# ")
    found = load_study(path)
    assert len(found.variants) > 1 and not found.warnings
    if name.startswith("toy"):
        assert found.options.seeds == (1, 2, 3)


def test_every_study_of_the_repository_is_tested(shipped):
    own = [name for name in shipped if name.startswith("configs/studies/")]
    assert sorted(own) == sorted(f"configs/studies/{name}.yaml" for name in STUDIES)


@pytest.mark.parametrize(
    "name, variants",
    {
        "cornernet_pooling": "ablation no_pooling",
        "cornernet_penalty": "ablation fixed_radius no_penalty_reduction",
    }.items(),
)
def test_studies_of_coco_are_the_configs_of_the_papers(name, variants):
    found = load_study(FOLDER / "studies" / f"{name}.yaml")
    expected = [to_dict(load(FOLDER / f"cornernet_hg104_{variant}.yaml")) for variant in variants.split()]
    assert [variant.training for variant in found.variants] == expected


OVER = """
base: a.yaml
options: {train: {iterations: 1000, lr: 2.5e-5, lr_drops: [800]}, penalty: {kind: fixed, radius: 1e-3}}
variants:
  plain:
  other:
    base: b.yaml
    model: {backbone: {stacks: 2}, bn_init: "ones"}
    data: {root: "no", train: {limit: 4}}
    train: {lr: 1e-3}
  anchors: {model: {detector: anchors}, penalty: {kind: none}, test: {nms: hard}}
test: {options: {test: {scales: [0.5, 1], nms: linear}}, analyses: corners}
"""


def test_what_the_scripts_are_given_makes_the_checked_configs(path):
    """The overrides of the command line give the options that were checked; later ones win."""
    found = study(OVER, path)
    names = [Path(variant.config).name for variant in found.variants]
    assert names == ["a.yaml", "b.yaml", "a.yaml"]
    for variant in found.variants:
        assert to_dict(load(variant.config, variant.overrides)) == variant.training
        assert to_dict(load(variant.config, (*variant.overrides, *variant.test_overrides))) == variant.testing
    plain, other, anchors = (variant.training for variant in found.variants)
    assert (plain["train"]["lr"], other["train"]["lr"]) == (2.5e-5, 1e-3)
    assert other["data"]["root"] == "no" and not other["model"]["corner_pooling"]
    assert anchors["test"]["nms"] == "hard" and found.variants[2].testing["test"]["nms"] == "linear"
    assert found.options.test.analyses == ("corners",)


VARIANTS = "base: a.yaml\nvariants:\n  one: {}\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("base: a.yaml\n", "study.yaml: variants: is missing"),
        ("variants: {one: {}}\n", "study.yaml: base: is missing"),
        ("base: a.yaml\nvariant:\n  one: {}\n", ":2: variant: unknown option; did you mean variants?"),
        ("base: c.yaml\nvariants: {one: {}}\n", "c.yaml does not exist; configs in"),
        ("base: a.yaml\nvariants: [one]\n", ":2: variants: expected a section, got ['one'] (a list)"),
        ("base: a.yaml\nvariants: {one: 3}\n", ":2: variants.one: expected a section, got 3 (a whole number)"),
        ("base: a.yaml\nvariants: {2: {}}\n", ":2: variants: names must be text: write '2' in quotes"),
        ("base: a.yaml\nvariants: {one/two: {}}\n", ":2: variants: 'one/two' cannot be a folder"),
        (VARIANTS + "  one: {}\n", ":4: variants.one is given twice"),
        (VARIANTS + "  two: {base: 3}\n", ":4: variants.two.base: expected a file name"),
        (VARIANTS + "  two: {seed: 3}\n", ":4: seed: the study's `seeds` take its place"),
        (VARIANTS + "  two:\n    model:\n      corner_poling: 1\n", ":6: model.corner_poling: unknown option; did you"),
        (VARIANTS + "  two:\n    train: {lr: fast}\n", ":5: train.lr: expected a number, got 'fast' (text)"),
        (VARIANTS + "options: {train: {lr: fast}}\n", ":4: train.lr: expected a number"),
        (
            VARIANTS + "test: {options: {test: {nms: hrad}}}\n",
            "test.nms: expected one of hard, linear, gaussian",
        ),
        (VARIANTS + "  two: {}\n", ":4: variants: one and two are the same experiment"),
        (VARIANTS + "  two: {penalty: {radius: 3}}\n", "same experiment (penalty.radius has no effect: penalty.kind"),
        (VARIANTS + "seeds: []\n", ":4: seeds: expected at least one value, got []"),
        (VARIANTS + "seeds: [1, 1]\n", ":4: seeds: each only once"),
        (VARIANTS + "seeds: [-1]\n", ":4: seeds: must be from 0 to 4294967295"),
        (VARIANTS + "figures: [AP40]\n", ":4: figures: there is no figure AP40; did you mean"),
        (VARIANTS + "figures: [corner_AP.top_left.image]\n", "not compute corner_AP: name corners in test.analyses"),
        (VARIANTS + "test: {split: test}\n", ":4: test.split: expected one of val, train"),
        (VARIANTS + "test:\n  analyses: [corner]\n", ":5: test.analyses: expected any of confusion, corners"),
    ],
)
def test_errors_name_place_and_remedy(text, message, path):
    with pytest.raises(ConfigError) as caught:
        study(text, path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_study_is_no_config():
    path = FOLDER / "studies" / "toy_pooling.yaml"
    with pytest.raises(ConfigError, match=f"{path} is a study, not a config: python ablate.py {path}"):
        load(path)


@pytest.mark.parametrize(
    "more, message",
    [
        ("  two: {test: {nms_sigma: 0.3}}\n", ":4: variants: one and two differ in testing alone"),
        ("  two: {penalty: {kind: none, radius: 3}}\n", ":4: penalty.radius has no effect: penalty.kind is none"),
        ("options: {train: {iterations: 100}}\n", "train.lr_drops has no effect: the run ends after"),
    ],
)
def test_what_a_user_may_not_have_meant_is_said(more, message, path):
    (warning,) = study(VARIANTS + more, path).warnings
    assert message in warning
