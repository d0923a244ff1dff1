"""python -m nnet.training.cost."""

import json
import re
from dataclasses import replace

import pytest

from configs import load
from models.anchors import AnchorOptions
from models.layers import MissingPackage, torchvision
from nnet.training import cost

TINY = ""


def figures(capsys, *arguments):
    assert cost.main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_prints_parts_and_total(config, capsys):
    assert cost.main([config]) == 0
    text = capsys.readouterr().out
    assert "images of 95x95, 6 classes (of data.train)" in text
    assert all(name in text for name in ("backbone.hourglasses", "branches.top_left", "total", "Peak memory"))
    assert "backbone.merge" not in text  # a network of one stack has none
    values = figures(capsys, config)
    assert f"{values['parameters']:,}" in text
    for column in ("parameters", "testing", "training"):
        assert sum(part[column] for part in values["parts"]) == values[column]
    assert values["images"] == 3 and values["classes"] == 6  # the largest micro-batch of train.batch


def test_follows_the_config(config, capsys):
    plain = figures(capsys, config)
    assert figures(capsys, config, "--classes", 80)["parameters"] > plain["parameters"]
    assert figures(capsys, config, "data.input_size=[191,191]")["testing"] > 3.5 * plain["testing"]
    assert len(figures(capsys, config, "--depth", 1)["parts"]) == 2
    recomputed = figures(capsys, config, "train.checkpointing=true")
    assert recomputed["training_memory"] < plain["training_memory"] and recomputed["step"] > plain["step"]


def test_without_data(config, capsys):
    assert cost.main([config, "data.root=elsewhere"]) == 0
    assert "80 classes (as COCO" in capsys.readouterr().out


def test_anchors(config):
    try:
        torchvision("ops")
    except MissingPackage as error:
        pytest.skip(str(error))
    options = load(config)
    options = replace(options, model=AnchorOptions(backbone=options.model.backbone))
    figures = cost.network_cost(options, 6)
    assert 0 < figures.testing == figures.training < figures.step  # one stack
    assert {"heads.0", "features.0"} <= {part.name for part in figures.parts}


def test_several_configs_make_a_table(config, capsys):
    assert cost.main([config, config]) == 0
    rows = capsys.readouterr().out.splitlines()
    values, again = figures(capsys, config, config)
    assert f"| {cost.gflop(values['testing'])} | {cost.gflop(values['step'])} |" in rows[2]
    assert rows[2:] == [rows[2]] * 2 and again == values


@pytest.mark.slow
def test_the_list_of_configs_states_the_cost(repository):
    """The column of docs/configs.md, and the table of docs/tools.md."""
    listed = re.findall(r"^\| \[(\w+)\.yaml\].*\| ([^|]+) \|$", (repository / "docs/configs.md").read_text(), re.M)
    assert len(listed) == len(list((repository / "configs").glob("*.yaml")))
    table = (repository / "docs/tools.md").read_text()
    known = {}
    for name, stated in listed:
        options = load(repository / "configs" / f"{name}.yaml")
        key = repr((options.model, options.data.input_size, options.train.checkpointing))
        try:
            known[key] = known.get(key) or cost.network_cost(options, cost.COCO_CLASSES)
        except MissingPackage:
            continue
        assert stated == f"{cost.gflop(known[key].testing)} / {cost.gflop(known[key].step)}", name
        for row in re.findall(rf"^\| {name}\b.*", table, re.M):
            assert f"| {cost.gflop(known[key].testing)} | {cost.gflop(known[key].step)} |" in row


def test_bad_input(config, capsys):
    assert cost.main(["no.yaml"]) == 2
    assert "no.yaml" in capsys.readouterr().err
    assert cost.main([config, "train.batch=[1]", "data.input_size=[16,16]"]) == 2
    assert "BatchNorm" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cost.main([config, "--classes", "0"])
