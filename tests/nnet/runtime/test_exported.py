"""Exported networks with damaged metadata, and files of others: one clear line and exit code 2 from all readers."""

import json
import shutil
import zipfile

import numpy as np
import onnx
import pytest
import torch

import configs
import detect as detect_script
import test as test_script
from nnet.api import load_detector
from nnet.export.files import entries, write_pt2
from nnet.runtime.checkpoint import CheckpointError
from nnet.runtime.exported import open_exported

TINY = "model: {backbone: {widths: [8, 8], blocks: [1, 1]}}"
OUTPUTS = {"boxes": (6, 4), "scores": (6,), "labels": (6,), "corner_scores": (6, 2)}
LACKING = object()


class Empty(torch.nn.Module):
    """A network that finds nothing: images (B, 3, H, W) uint8 -> outputs of export.py."""

    def forward(self, images):
        return {
            name: images.new_full((images.shape[0], *shape), -1, dtype=torch.float32) for name, shape in OUTPUTS.items()
        }


@pytest.fixture(scope="module")
def metadata(config, toy):
    """What export.py writes, as far as detection reads it."""
    categories = json.loads((toy / "annotations" / "instances_val.json").read_text())["categories"]
    return {
        "format": 1,
        "outputs": list(OUTPUTS),
        "categories": [[c["id"] for c in categories], [c["name"] for c in categories]],
        "stride": 4,
        "divisor": 8,
        "largest_side": 4096,
        "device": "cpu",
        "config": configs.to_dict(configs.load(config)),
    }


@pytest.fixture(scope="module")
def program():
    shapes = ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    return torch.export.export(Empty(), (torch.zeros(2, 3, 15, 23, dtype=torch.uint8),), dynamic_shapes=shapes)


def write_onnx(metadata, path):
    """The network as ONNX, without PyTorch's exporter, which takes seconds."""
    make, kind = onnx.helper, onnx.TensorProto
    nodes, outputs = [], []
    for name, shape in OUTPUTS.items():
        fill = onnx.numpy_helper.from_array(np.full((1, *shape), -1, np.float32))
        nodes.append(make.make_node("Constant", [], [name], value=fill))
        outputs.append(make.make_tensor_value_info(name, kind.FLOAT, (1, *shape)))
    images = make.make_tensor_value_info("images", kind.UINT8, ("B", 3, "H", "W"))
    model = make.make_model(
        make.make_graph(nodes, "empty", [images], outputs), opset_imports=[make.make_opsetid("", 18)]
    )
    model.ir_version = 9
    make.set_model_props(model, entries(metadata))
    onnx.save(model, path)


@pytest.fixture
def write(program, tmp_path):
    """Writes the network with metadata; returns the file's path."""

    def write(suffix, metadata):
        path = tmp_path / f"x{suffix}"
        write_onnx(metadata, path) if suffix == ".onnx" else write_pt2(program, metadata, path)
        return path

    return write


def changed(metadata, name, value):
    """The metadata with another value, or without it. A dotted name is of the config."""
    if name.startswith("config."):
        return metadata | {"config": changed(metadata["config"], name.removeprefix("config."), value)}
    rest = {key: other for key, other in metadata.items() if key != name}
    return rest if value is LACKING else rest | {name: value}


def check_refused(path, config, toy, capfd, *words):
    """detect.py, test.py and load_detector refuse a file, each with one line that has the words."""
    output = str(path.parent / "out")
    with pytest.raises(ValueError) as raised:
        load_detector(path)
    scripts = (
        (detect_script, ["--checkpoint", str(path), str(toy / "val"), "--output", output]),
        (test_script, [config, "--checkpoint", str(path), "--output", output]),
    )
    lines = [str(raised.value)]
    for script, arguments in scripts:
        capfd.readouterr()
        assert script.main(arguments) == 2
        lines += capfd.readouterr().err.splitlines()
    assert len(lines) == 3 and not (path.parent / "out").exists()
    for line in lines:
        assert str(path) in line and all(word in line for word in words), line


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_whole_file_is_read(suffix, write, metadata, toy, tmp_path):
    path = write(suffix, metadata)
    arguments = ["--checkpoint", str(path), str(toy / "val"), "--output", str(tmp_path / "out")]
    assert detect_script.main(arguments) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == []


DAMAGES = [
    *((name, LACKING) for name in ("format", "outputs", "config", "stride", "divisor", "categories", "largest_side")),
    *(("stride", value) for value in (0, -4, "4", 4.0, True, None, 2**40)),
    ("format", 2),
    ("outputs", "boxes"),
    ("outputs", ["boxes", 3]),
    ("outputs", []),
    ("outputs", ["boxes", "scores"]),
    ("outputs", [*OUTPUTS, "pair_scores", "center_labels", "outputs"]),
    ("categories", [[1, 2], ["one"]]),
    ("categories", {"1": "one"}),
    ("device", "a toaster"),
    ("config", []),
    ("config", {}),
    ("config.test", None),
]


@pytest.mark.parametrize("name, value", DAMAGES)
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_damaged_metadata(suffix, name, value, write, metadata, config, toy, capfd):
    path = write(suffix, changed(metadata, name, value))
    check_refused(path, config, toy, capfd, name.removeprefix("config."))


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_truncated_files(suffix, kept, write, metadata, config, toy, capfd):
    path = write(suffix, metadata)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    check_refused(path, config, toy, capfd)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "nul", "[" * 100_000, '"\\ud800'])
def test_broken_json(text, write, metadata, config, toy, capfd):
    """Of a .pt2, the whole; of an ONNX file, an entry."""
    whole, path = write(".pt2", metadata), write(".onnx", metadata)
    broken = whole.with_name("broken.pt2")
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(broken, "w") as target:
        for member in source.infolist():
            content = text if member.filename.endswith("metadata.json") else source.read(member)
            target.writestr(member, content)
    check_refused(broken, config, toy, capfd)
    model = onnx.load(path)
    next(entry for entry in model.metadata_props if entry.key == "config").value = text
    onnx.save(model, path)
    check_refused(path, config, toy, capfd, "config")


def test_files_of_others(write, config, toy, capfd, tmp_path):
    for path in (write(".onnx", {}), write(".pt2", {})):
        check_refused(path, config, toy, capfd, "is not a network of export.py")
    with zipfile.ZipFile(tmp_path / "pictures.pt2", "w") as archive:
        archive.writestr("a.txt", "nothing")
    check_refused(tmp_path / "pictures.pt2", config, toy, capfd, "cannot be read as an exported network")
    shutil.copy(tmp_path / "x.onnx", tmp_path / "other.pt2")
    check_refused(tmp_path / "other.pt2", config, toy, capfd, "cannot be read as an exported network")


def test_a_flipped_bit_in_the_weights(tmp_path, metadata):
    """PyTorch does not check the CRC-32 of its files."""
    path = tmp_path / "x.pt2"
    write_pt2(torch.export.export(torch.nn.Linear(64, 64), (torch.zeros(2, 64),)), metadata, path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    data[largest.header_offset + largest.file_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="CRC-32"):
        open_exported(path)


def test_an_older_config_is_read_in_todays_structure(write, metadata, config):
    """As those of checkpoints: see test_checkpoint.py."""
    old = {
        "model": {"backbone": "hourglass", "stacks": 1, "center_keypoints": True},
        "test": metadata["config"]["test"],
    }
    read = open_exported(write(".onnx", metadata | {"config": old})).state["config"]
    assert read["model"]["detector"] == "centernet" and read["model"]["backbone"] == {"name": "hourglass", "stacks": 1}
    broken = old | {"model": {"backbone": "resnet18_fpn", "widths": 3}}
    with pytest.raises(CheckpointError, match="its config cannot be used"):
        open_exported(write(".onnx", metadata | {"config": broken}))
