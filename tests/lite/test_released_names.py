"""Checkpoints of CornerNet-Lite are loaded by name, strictly."""

import json
import re

import pytest
import torch

from models.cornernet import CornerNetOptions, cornernet
from models.hourglass import HourglassOptions
from nnet.runtime import checkpoint
from nnet.runtime.released_names import rename

SMALL = {"stacks": 2, "stride": 8, "stem_width": 4, "widths": (8, 6, 6), "blocks": (1, 2, 1)}
# Names here -> names of CornerNet-Lite
HOURGLASS = {"skip": "up1", "down": "low1", "inner": "low2", "up": "low3", "upsample": "up2"}
BACKBONE = {"stem": "pre", "features": "cnvs", "from_input": "inters_", "from_features": "cnvs_", "merge": "inters"}
MODULE = {"first": "p1_conv1", "second": "p2_conv1", "conv": "p_conv1", "bn": "p_bn1", "out": "conv2"}
MODULE |= {"skip.0": "conv1", "skip.1": "bn1"}
HEADS = {"heatmap": "heats", "embedding": "tags", "offset": "offs"}
CONVS = {"0": "0.conv", "2": "1"}
CORNERS = {"top_left": "tl", "bottom_right": "br"}


def test_golden_cornernet_as_ported_to_lite(golden, golden_lite):
    port = json.loads(golden_lite("params_lite_cornernet_port.json").read_text())
    original = json.loads(golden("params_cornernet_hg104.json").read_text())
    renamed = {}
    for name in port["names"]:
        renamed[name] = name
        for old, new in port["renaming"]:
            renamed[name] = renamed[name].replace(old, new)
    assert set(renamed.values()) == original.keys()
    assert all(rename(lite) == rename(name) for lite, name in renamed.items())
    with torch.device("meta"):
        network = cornernet(80, CornerNetOptions())
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert {rename(lite): original[name] for lite, name in renamed.items()} == shapes


def lite_name(name):
    """The name that CornerNet-Lite has for a parameter or buffer of ours."""
    if m := re.fullmatch(r"backbone\.hourglasses\.(.+)", name):
        return "module.hg.hgs." + ".".join(HOURGLASS.get(part, part) for part in m[1].split("."))
    if m := re.fullmatch(r"backbone\.(\w+)\.(.+)", name):
        return f"module.hg.{BACKBONE[m[1]]}.{m[2]}"
    if m := re.fullmatch(r"branches\.(\w+)\.(\d)\.module\.(skip\.\d|\w+)\.(.+)", name):
        return f"module.{CORNERS[m[1]]}_modules.{m[2]}.{MODULE[m[3]]}.{m[4]}"
    m = re.fullmatch(r"branches\.(\w+)\.(\d)\.(\w+)\.(\d)\.(\w+)", name)
    return f"module.{CORNERS[m[1]]}_{HEADS[m[3]]}.{m[2]}.{CONVS[m[4]]}.{m[5]}"


@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
@pytest.mark.parametrize("block", ["residual", "fire"])
def test_a_checkpoint_of_lite_is_loaded_strictly(tmp_path, block, upsampling):
    backbone = HourglassOptions(**SMALL, block=block, upsampling=upsampling)
    options = CornerNetOptions(backbone=backbone, pool_width=4, head="conv1x1")
    trained, network = cornernet(3, options), cornernet(3, options)
    assert not torch.equal(next(trained.parameters()), next(network.parameters()))
    state = {lite_name(name): value for name, value in trained.state_dict().items()}
    path = tmp_path / "CornerNet_Squeeze_500000.pkl"
    torch.save(state, path)
    checkpoint.load_weights(network, checkpoint.load(path)["model"], path)
    for (name, value), loaded in zip(trained.state_dict().items(), network.state_dict().values(), strict=True):
        assert torch.equal(loaded, value), name
    first, *_ = state
    torch.save({name: value for name, value in state.items() if name != first}, path)
    with pytest.raises(checkpoint.CheckpointError, match="1 missing: backbone.stem.0.conv.weight"):
        checkpoint.load_weights(network, checkpoint.load(path)["model"], path)
    torch.save(state | {"module.hg.other.weight": state[first]}, path)
    with pytest.raises(checkpoint.CheckpointError, match="1 unexpected: hg.other.weight"):
        checkpoint.load_weights(network, checkpoint.load(path)["model"], path)
