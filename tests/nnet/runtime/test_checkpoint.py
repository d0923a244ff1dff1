"""Checkpoints: what is saved comes back; what cannot be used is refused with its reason."""

import os
import pickle

import pytest
import torch

from models.cornernet import cornernet
from nnet import checkpoint
from nnet.checkpoint import CheckpointError
from nnet.released import rename
from tests.builders import CommandWhenUnpickled

SMALL = {"stacks": 1, "stem_width": 4, "widths": [4, 6], "blocks": [1, 1], "pool_width": 2}


def test_save_and_load(tmp_path):
    state = {"model": {"w": torch.arange(3.0)}, "iteration": 7, "categories": [[1, 2], ["a", "b"]]}
    path = tmp_path / "run" / "last.pt"
    checkpoint.save(path, state)
    found = checkpoint.load(path)
    assert found["iteration"] == 7 and found["categories"] == state["categories"]
    assert torch.equal(found["model"]["w"], state["model"]["w"])
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"model": {}, "iteration": 1})

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"model": {}, "iteration": 2})
    monkeypatch.undo()
    assert checkpoint.load(path)["iteration"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match="none.pt does not exist"):
        checkpoint.load(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a folder"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9])
def test_truncated(tmp_path, share, legacy):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.zeros(5000)}, path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match="x.pt .* is refused: it is damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize("content", [b"not a checkpoint", b"\x80\x02", os.urandom(2000)])
def test_no_checkpoint_at_all(tmp_path, content):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="x.pt"):
        checkpoint.load(path)


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle"])
def test_code_is_refused_and_not_run(tmp_path, how):
    path, harm = tmp_path / "x.pkl", {"w": torch.zeros(1), "x": CommandWhenUnpickled(tmp_path)}
    if how == "pickle":
        path.write_bytes(pickle.dumps({"x": CommandWhenUnpickled(tmp_path)}))
    else:
        torch.save(harm, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(CheckpointError, match="x.pkl .*is refused: .*(run code|more than tensors)"):
        checkpoint.load(path)
    assert not (tmp_path / "ran").exists()


def test_not_a_state(tmp_path):
    path = tmp_path / "x.pt"
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds list"):
        checkpoint.load(path)
    torch.save({"w": 3}, path)
    with pytest.raises(CheckpointError, match="neither one of train.py nor a released"):
        checkpoint.load(path)
    torch.save({"format": 99, "model": {}}, path)
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.load(path)


def released_names(network):
    """Pairs of our name and the released name of a network's parameters; the goldens check the renaming as a whole."""
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
    torch.manual_seed(0)
    source = cornernet(3, **SMALL | {"stacks": stacks, "widths": [4, 6, 8], "blocks": [2, 2, 3]})
    names = dict(released_names(source))
    assert all(rename(theirs) == ours for ours, theirs in names.items())
    path = tmp_path / "CornerNet_500000.pkl"
    state = {names[k]: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, path, _use_new_zipfile_serialization=False)  # as PyTorch of 2018 wrote it
    found = checkpoint.load(path)
    target = cornernet(3, **SMALL | {"stacks": stacks, "widths": [4, 6, 8], "blocks": [2, 2, 3]})
    checkpoint.load_weights(target, found["model"], path)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_another_network_is_listed(tmp_path):
    own, other = cornernet(3, **SMALL), cornernet(5, **SMALL | {"widths": [4, 6, 8], "blocks": [1, 1, 1]})
    before = {k: v.clone() for k, v in own.state_dict().items()}
    with pytest.raises(CheckpointError) as e:
        checkpoint.load_weights(own, other.state_dict(), tmp_path / "x.pt")
    text = str(e.value)
    assert "unexpected: backbone.hourglasses.0.inner" in text and "missing: backbone.hourglasses.0.inner" in text
    assert "of another shape: branches.top_left.0.heatmap.2.weight is [5, 4, 1, 1], the network's [3, 4, 1, 1]" in text
    assert all(torch.equal(v, before[k]) for k, v in own.state_dict().items())
