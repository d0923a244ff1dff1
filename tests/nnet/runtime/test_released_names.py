"""Released checkpoints: every parameter has its name here."""

import pytest
import torch

from nnet.runtime import checkpoint
from nnet.runtime.released_names import rename
from tests.builders import small_network


def released_names(network):
    """Pairs of the name here and the released name of each parameter. The goldens check the renaming as a whole."""
    table = {
        "backbone.stem": "pre", "backbone.features": "cnvs", "backbone.from_input": "inters_",
        "backbone.from_features": "cnvs_", "backbone.merge": "inters",
    }  # fmt: skip
    parts = {"first": "p1_conv1", "second": "p2_conv1", "conv": "p_conv1", "bn": "p_bn1", "out": "conv2"}
    heads = {"heatmap": "heats", "embedding": "tags", "offset": "regrs"}
    levels = {"skip": "up1", "down": "low1", "inner": "low2", "up": "low3"}
    for name in network.state_dict():
        words = name.split(".")
        if words[1] == "hourglasses":
            body = [levels[w] if not seen else w for w, seen in with_seen(words[3:])]
            yield name, ".".join(["module", "kps", words[2], *body])
        elif words[0] == "branches":
            short, stack, part = {"top_left": "tl", "bottom_right": "br"}[words[1]], words[2], words[3]
            if part in heads:
                yield name, f"module.{short}_{heads[part]}.{stack}.{'0.conv' if words[4] == '0' else '1'}.{words[5]}"
            elif words[4] == "skip":
                yield name, f"module.{short}_cnvs.{stack}.{'conv1' if words[5] == '0' else 'bn1'}.{words[6]}"
            else:
                yield name, f"module.{short}_cnvs.{stack}.{parts[words[4]]}.{'.'.join(words[5:])}"
        else:
            yield name, ".".join(["module", table[".".join(words[:2])], *words[2:]])


def with_seen(words):
    """Words of a path, and whether a block's number has come before them."""
    seen = False
    for word in words:
        seen = seen or word.isdigit()
        yield word, seen


@pytest.mark.parametrize("stacks", [1, 2])
def test_released_checkpoint(tmp_path, stacks):
    backbone = {"stacks": stacks, "widths": (4, 6, 8), "blocks": (2, 2, 3)}
    source = small_network(backbone=backbone)
    names = dict(released_names(source))
    assert all(rename(theirs) == ours for ours, theirs in names.items())
    path = tmp_path / "CornerNet_500000.pkl"
    state = {names[k]: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, path, _use_new_zipfile_serialization=False)  # as PyTorch of 2018 wrote it
    found = checkpoint.load(path)
    target = small_network(backbone=backbone, seed=1)
    checkpoint.load_weights(target, found["model"], path)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_other_names_are_unchanged():
    assert rename("backbone.stem.0.conv.weight") == "backbone.stem.0.conv.weight"
    assert rename("module.something") == "something"
