"""Checkpoints: what is saved comes back; what cannot be used is refused with its reason."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

import configs
from configs.schema import Config
from nnet.runtime import checkpoint
from nnet.runtime.checkpoint import CheckpointError
from tests.builders import CommandWhenUnpickled, run_state, small_network, small_options

DEEP = {"widths": (4, 6, 8), "blocks": (1, 1, 1)}


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


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_lack_of_memory_does_not_make_a_checkpoint_damaged(tmp_path, monkeypatch, error):
    def without_memory(*args, **kwargs):
        raise error

    path = tmp_path / "x.pt"
    checkpoint.save(path, {"model": {"w": torch.zeros(3)}})
    monkeypatch.setattr(torch, "load", without_memory)
    with pytest.raises(type(error)) as raised:
        checkpoint.load(path)
    assert raised.value is error


@pytest.mark.parametrize(
    "content",
    [b"not a checkpoint", b"\x80\x02", np.random.default_rng(0).bytes(2000)],
    ids=["text", "pickle", "random"],
)
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


DENSE = torch.zeros(2, 2)
REPEATED = [1]
for _ in range(40):
    REPEATED = [REPEATED, REPEATED]


@pytest.mark.parametrize(
    "part, value, message",
    [
        ("model", None, "model: "),
        ("model", {1: DENSE}, "model"),
        ("model", {"w": 3}, r"model\['w'\]: expected a tensor, got int"),
        ("model", {"w": DENSE.to_sparse()}, "expected a dense tensor"),
        ("model", {"w": DENSE.to("meta")}, "expected a dense tensor"),
        ("model", {"w": torch.zeros(1).expand(10**9)}, "larger than what is stored"),
        ("iteration", True, "iteration"),
        ("iteration", 2**70, "iteration"),
        ("optimizer", {"state": {0: {"step": 3}}, "param_groups": [{}]}, "optimizer"),
        ("scaler", {"scale": "x"}, "scaler"),
        ("window", {"steps": -1, "terms": DENSE, "norm": DENSE}, "window"),
        ("random", {"cpu": [1]}, "random"),
        ("config", {"a": REPEATED}, "config: nested too deeply"),
        ("config", {"model": {"backbone": "resnet101_fpn", "widths": 3}}, "config cannot be used"),
        ("categories", [[1, 1], ["a", "b"]], "categories: expected as many names as ids"),
        ("format", DENSE, "is of format"),
    ],
)
def test_parts_of_another_shape_are_refused(tmp_path, part, value, message):
    path = tmp_path / "x.pt"
    good = run_state(3, {"w": DENSE})
    checkpoint.save(path, good)
    assert checkpoint.load(path)["iteration"] == 3
    checkpoint.save(path, good | {part: value})
    with pytest.raises(CheckpointError, match=f"x.pt.* {message}") as e:
        checkpoint.load(path)
    assert len(str(e.value).splitlines()) == 1 and len(str(e.value)) < 500 + len(str(path))


def test_every_flipped_bit_of_the_contents_is_found(tmp_path):
    path = tmp_path / "x.pt"
    weights = torch.arange(4096.0)
    checkpoint.save(path, run_state(3, {"w": weights}))
    data = path.read_bytes()
    first = data.index(weights.numpy().tobytes())
    for n in range(100):
        at = first + 163 * n
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << n % 8]) + data[at + 1 :])
        with pytest.raises(CheckpointError, match=r"x\.pt .* is damaged.*CRC-32"):
            checkpoint.load(path)


def test_a_compressed_checkpoint_is_refused(tmp_path):
    """4 MB could take any amount of memory."""
    path, packed = tmp_path / "x.pt", tmp_path / "packed.pt"
    checkpoint.save(path, run_state(3, {"w": torch.zeros(1000, 1000)}))
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    with pytest.raises(CheckpointError, match="packed.pt .*compressed"):
        checkpoint.load(packed)


def test_two_savers_of_one_file_leave_a_whole_one(tmp_path):
    path = tmp_path / "x.pt"
    checkpoint.save(path, run_state(1, {}), lambda: path.exists() or checkpoint.save(path, run_state(2, {})))
    assert checkpoint.load(path)["iteration"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


def test_another_network_is_listed(tmp_path):
    own, other = small_network(), small_network(classes=5, backbone=DEEP)
    before = {k: v.clone() for k, v in own.state_dict().items()}
    with pytest.raises(CheckpointError) as e:
        checkpoint.load_weights(own, other.state_dict(), tmp_path / "x.pt")
    text = str(e.value)
    assert "unexpected: backbone.hourglasses.0.inner" in text and "missing: backbone.hourglasses.0.inner" in text
    assert "of another shape: branches.top_left.0.heatmap.2.weight is [5, 4, 1, 1], the network's [3, 4, 1, 1]" in text
    assert all(torch.equal(v, before[k]) for k, v in own.state_dict().items())


def test_load_what_fits(tmp_path):
    own, other = small_network(seed=1), small_network(classes=5, seed=2)
    before = {k: v.clone() for k, v in own.state_dict().items()}
    weights = other.state_dict() | {"extra": torch.zeros(2)}
    weights.pop("branches.top_left.0.offset.2.bias")
    left_out = checkpoint.load_what_fits(own, weights, tmp_path / "x.pt")
    heatmaps = [f"branches.{kind}.0.heatmap.2" for kind in ("top_left", "bottom_right")]
    assert left_out == [
        "extra (the network has no such parameter)",
        f"{heatmaps[0]}.weight (is [5, 4, 1, 1], the network's [3, 4, 1, 1])",
        f"{heatmaps[0]}.bias (is [5], the network's [3])",
        f"{heatmaps[1]}.weight (is [5, 4, 1, 1], the network's [3, 4, 1, 1])",
        f"{heatmaps[1]}.bias (is [5], the network's [3])",
        "branches.top_left.0.offset.2.bias (is not in the checkpoint)",
    ]
    others = {text.split(" ")[0] for text in left_out}
    for name, value in own.state_dict().items():
        assert torch.equal(value, before[name] if name in others else weights[name]), name
    name = "backbone.stem.0.conv.weight"
    with pytest.raises(CheckpointError, match=f"diverged: 1 of its tensors .*{name}"):
        checkpoint.load_what_fits(own, {name: torch.full_like(weights[name], torch.nan)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="none of its weights fits"):
        checkpoint.load_what_fits(own, {"extra": torch.zeros(2)}, tmp_path / "x.pt")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    own, weights = small_network(), small_network(seed=1).state_dict()
    weights["branches.top_left.0.offset.2.bias"][0] = float("nan")
    with pytest.raises(CheckpointError, match=r"diverged: 1 of its tensors .*top_left\.0\.offset\.2\.bias"):
        checkpoint.load_weights(own, weights, tmp_path / "x.pt")


def test_progress_is_reported_while_writing(tmp_path):
    reports = []
    checkpoint.save(tmp_path / "c.pt", {"model": {"w": torch.zeros(1000)}}, lambda: reports.append(1))
    assert reports


def test_tensors_of_a_gpu_are_read_without_one(tmp_path, monkeypatch):
    """torch.load maps every tensor to the CPU, whatever device it was saved from."""
    checkpoint.save(tmp_path / "best.pt", {"model": {"w": torch.zeros(3)}})
    seen, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: seen.append(options) or load(*args, **options))
    checkpoint.load(tmp_path / "best.pt")
    assert [(options["map_location"], options["weights_only"]) for options in seen] == [("cpu", True)]


# Configs of older versions

OLD_MODEL = {"backbone": "hourglass", "head": "keypoints", "stacks": 1, "stem_width": 4, "widths": [4, 6]}
OLD_MODEL |= {"blocks": [1, 1], "pool_width": 2, "corner_pooling": True, "bn_init": "uniform"}
OLD_MODEL |= {"center_keypoints": False, "center_pooling": False, "cascade_corner_pooling": False}
OLD = {"seed": 3, "model": OLD_MODEL, "train": {"lr": 0.1, "device": "cpu", "threads": 1, "tf32": False}}


def test_an_old_config_is_upgraded(tmp_path):
    checkpoint.save(tmp_path / "old.pt", {"model": {}, "config": OLD})
    config = checkpoint.load(tmp_path / "old.pt")["config"]
    assert config == {
        "seed": 3,
        "model": {
            "detector": "cornernet",
            "backbone": {"name": "hourglass", "stacks": 1, "stem_width": 4, "widths": [4, 6], "blocks": [1, 1]},
            "pool_width": 2,
            "corner_pooling": True,
            "bn_init": "uniform",
        },
        "train": {"lr": 0.1},
        "runtime": {"device": "cpu", "threads": 1, "tf32": False},
    }
    checkpoint.save(tmp_path / "new.pt", {"model": {}, "config": config})
    assert checkpoint.load(tmp_path / "new.pt")["config"] == config


def test_a_run_of_an_older_version_goes_on(tmp_path):
    """Its config is that of the same network in today's names, and its weights fit."""
    network = small_network()
    config = configs.to_dict(Config(seed=3, model=small_options()))
    config["train"] |= {"lr": 0.1}
    checkpoint.save(tmp_path / "old.pt", {"model": network.state_dict(), "config": OLD})
    state = checkpoint.load(tmp_path / "old.pt")
    assert checkpoint.changed_options(state, config, tmp_path / "old.pt") == [
        "runtime.device: cpu -> auto",
        "runtime.threads: 1 -> 0",
    ]
    checkpoint.load_weights(small_network(seed=1), state["model"], tmp_path / "old.pt")
    config["model"]["backbone"]["stacks"] = 2
    with pytest.raises(CheckpointError, match=r"model\.backbone\.stacks: 1 -> 2"):
        checkpoint.changed_options(state, config, tmp_path / "old.pt")
