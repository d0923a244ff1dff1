"""export.py as a user runs it: files that compute what the network computes, and every bad input with its message."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import configs
import detect as detect_script
import export as export_script
import test as test_script
from nnet.api import load_detector
from nnet.export import files
from nnet.export.parity import Compared
from tests.builders import save_detector

# Embeddings of random networks are far apart. Two of the three levels of tests/tiny.yaml are quicker to trace
TINY = """
model: {backbone: {widths: [8, 8], blocks: [1, 1]}}
test: {embedding_distance: 9, as_published: false, corners: 30, pairs: 200}
"""
ROOT = Path(__file__).resolve().parent.parent
FAMILIES = {"cornernet": [], "centernet": ["model.detector=centernet", "test.corners=100", "test.pairs=1000"]}


@pytest.fixture(scope="module")
def folder(config, toy, tmp_path_factory):
    """Folder with checkpoints of random networks for the toy data: NAME.pt for each of FAMILIES, and anchors.pt."""
    categories = json.loads((toy / "annotations" / "instances_val.json").read_text())["categories"]
    folder = tmp_path_factory.mktemp("exported")
    for name, options in (FAMILIES | {"anchors": ["model.detector=anchors"]}).items():
        chosen = configs.load(config, options)
        save_detector(folder / f"{name}.pt", chosen, [[c["id"] for c in categories], [c["name"] for c in categories]])
    return folder


def run(checkpoint, form, *arguments):
    """Run export.py without a config; returns its exit code."""
    return export_script.main(["--checkpoint", str(checkpoint), "--format", form, *map(str, arguments)])


@pytest.fixture(scope="module")
def onnx(folder):
    """Path of CenterNet as ONNX, exported once. The file's tensors are contiguous, whatever test.channels_last says."""
    assert run(folder / "centernet.pt", "onnx", "test.channels_last=true") == 0
    return folder / "centernet.onnx"


@pytest.fixture(scope="module")
def pt2(folder):
    """Path of CornerNet as .pt2, exported once."""
    assert run(folder / "cornernet.pt", "pt2") == 0
    return folder / "cornernet.pt2"


def refused(capfd, checkpoint, form, *arguments, code=2):
    """Run export.py, which has to end with one clear line; returns that line."""
    capfd.readouterr()
    assert run(checkpoint, form, *arguments) == code
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def evaluated(config, checkpoint, output, *options):
    """The results and metrics of test.py."""
    assert test_script.main([config, "--checkpoint", str(checkpoint), "--output", str(output), *options]) == 0
    return tuple(json.loads((output / name).read_text()) for name in ("results.json", "metrics.json"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_finds_what_the_network_finds(name, request, config, folder, toy, tmp_path):
    """detect.py, test.py and load_detector; several scales; images of odd sizes, of one row, and without a peak."""
    exported = request.getfixturevalue({"cornernet": "pt2", "centernet": "onnx"}[name])
    options = [*FAMILIES[name], "test.scales=[0.6,1]", "test.center_match=best"]
    checkpoint = folder / f"{name}.pt"
    wanted, metrics = evaluated(config, checkpoint, tmp_path / "network", *options)
    found, exported_metrics = evaluated(config, exported, tmp_path / "file", *options)
    assert len(found) == len(wanted) > 50
    found, wanted = (sorted(rows, key=lambda row: (row["image_id"], -row["score"])) for rows in (found, wanted))
    for one, other in zip(found, wanted, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    assert exported_metrics["AP"] == pytest.approx(metrics["AP"], abs=5e-4)

    network, file = load_detector(checkpoint), load_detector(exported)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((1, 50), (37, 90), (63, 63), (130, 40))]
    for image in (*images, np.full((40, 40, 3), 90, np.uint8)):
        one, other = file(image, threshold=0), network(image, threshold=0)
        assert len(one) == len(other)
        np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-4)
    together = file(images[:2] * 2, threshold=0)  # in batches
    np.testing.assert_allclose(together[3].scores, file(images[1], threshold=0).scores, rtol=0, atol=1e-5)
    assert detect_script.main(["--checkpoint", str(exported), "--output", str(tmp_path / "d"), str(toy / "val")]) == 0


@pytest.mark.slow
def test_onnx_holds_standard_operators_and_metadata(onnx):
    import onnx as library

    model = library.load(onnx)
    library.checker.check_model(model)
    assert {opset.domain for opset in model.opset_import if opset.version} <= {"", "ai.onnx"}
    operators = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in operators and {"Conv", "TopK", "Max", "Pad", "Slice"} <= operators
    about = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert about["stride"] == 4 and about["divisor"] == 8 and about["mirror"] is True
    assert about["thresholds"] == {"embedding_distance": 9, "nms_kernel": 3, "corners": 100, "pairs": 1000}
    assert len(about["class_names"]) == len(about["category_ids"]) > 1 and "divisor" in about["padding"]


# Begins a program that can import the installed packages, but neither this repository nor the packages BLOCKED
ELSEWHERE = """
import runpy, sys
sys.path.append({packages!r})
sys.modules.update(dict.fromkeys({blocked!r}))
for name in ("external", "models", "nnet"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit("the repository can be imported")
"""


def elsewhere(folder, program, *arguments, blocked=()):
    """Run a program in a bare interpreter, without the .pth files of site-packages; returns its output."""
    packages = str(Path(torch.__file__).parent.parent)
    program = ELSEWHERE.format(packages=packages, blocked=blocked) + program
    command = [sys.executable, "-I", "-S", "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_example_without_pytorch_finds_the_same(onnx, toy, tmp_path):
    """CenterNet's boxes are tested before they are clipped there, so boxes at the edge of the image may differ."""
    example, picture = ROOT / "examples" / "onnx_detect.py", next((toy / "val").iterdir())
    assert len(example.read_text().splitlines()) < 80
    program = "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    output = elsewhere(tmp_path, program, example, onnx, picture, "--threshold", 0.001, blocked=("torch",))
    found = load_detector(onnx)(picture, threshold=0.001)
    height, width = found.image.shape[:2]

    def inside(objects):
        """(name, x1, y1, x2, y2) of the objects that do not touch the edge."""
        for name, *box in objects:
            x1, y1, x2, y2 = map(float, box)
            if min(x1, y1) > 0 and x2 < width and y2 < height:
                yield name, *(f"{v:.1f}" for v in (x1, y1, x2, y2))

    rows = set(inside((line.split()[1], *line.split()[3:]) for line in output.splitlines()))
    wanted = set(inside((name, *box) for name, box in zip(found.names, found.boxes, strict=True)))
    assert len(wanted) > 5 and len(rows & wanted) >= 0.9 * len(wanted), (rows, wanted)


@pytest.mark.slow
def test_pt2_needs_pytorch_alone(pt2, tmp_path):
    """It takes any number of images of any size, also those whose smallest features are a single cell."""
    others = ("numpy", "cv2", "pydantic", "onnx", "onnxscript", "torchvision")
    program = """
import torch
network = torch.export.load(sys.argv[1]).module()
for size in ((1, 1, 9), (3, 5, 8), (1, 200, 64)):
    found = network(torch.randint(0, 256, (size[0], 3, *size[1:]), dtype=torch.uint8))
    print({name: list(value.shape) for name, value in found.items()})
"""
    shapes = [f"'boxes': [{count}, 400, 4], 'scores': [{count}, 400]" for count in (1, 3, 1)]
    lines = elsewhere(tmp_path, program, pt2, blocked=others).splitlines()
    assert all(shape in line for shape, line in zip(shapes, lines, strict=True))


def test_a_file_that_differs_is_not_written(folder, tmp_path, capfd, monkeypatch):
    """Nor does it replace another file. tests/nnet/export/test_parity.py has what differs."""
    different = Compared("1 image of 8x8", 3, "boxes", {"boxes": 9.0}, ["the file lacks 3 boxes", "scores differ"])
    monkeypatch.setattr(export_script, "trace", lambda *_: None)
    monkeypatch.setattr(export_script, "writer", lambda *_: lambda program, metadata, path: path.touch())
    monkeypatch.setattr(export_script, "open_exported", lambda path: None)
    monkeypatch.setattr(export_script, "compare", lambda *_: iter([different]))
    path = tmp_path / "x.pt2"
    path.write_text("before")
    message = refused(capfd, folder / "cornernet.pt", "pt2", "--output", path, "--overwrite", code=1)
    assert "the file lacks 3 boxes (and 1 other differences)" in message and "was not written" in message
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt2"] and path.read_text() == "before"


@pytest.mark.parametrize(
    "name, form, arguments, message",
    [
        ("anchors.pt", "onnx", [], "model.detector anchors cannot be exported"),
        ("none.pt", "onnx", [], "does not exist"),
        ("cornernet.pt", "pt2", ["--output", "/proc/x/y.pt2"], "cannot write to the folder /proc/x"),
        ("cornernet.pt", "pt2", ["--output", "taken.pt2"], "taken.pt2 exists: name another file"),
        ("cornernet.pt", "onnx", ["test.precision=bfloat16"], "ONNX files hold float32"),
        ("cornernet.pt", "onnx", ["model.backbone.stacks=2"], "of another network"),
        ("taken.pt2", "onnx", [], "exported already"),
    ],
)
def test_bad_input(name, form, arguments, message, folder, capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("taken.pt2").touch()
    assert message in refused(capfd, folder / name if name.endswith(".pt") else name, form, *arguments)


@pytest.mark.parametrize(
    "arguments", [["onnx", "--compile"], ["onnx", "--precision", "float16"], ["pt2", "--output", "a.onnx"], ["tflite"]]
)
def test_arguments_that_do_not_go_together(arguments, folder, capsys):
    with pytest.raises(SystemExit) as end:
        run(folder / "cornernet.pt", *arguments)
    assert end.value.code == 2 and "error: " in capsys.readouterr().err


def test_without_the_packages(folder, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    message = refused(capfd, folder / "cornernet.pt", "onnx")
    assert "needs onnxscript" in message and "pip install onnx onnxscript onnxruntime" in message


def test_without_a_compiler(folder, capfd, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "needs a C++ compiler" in refused(capfd, folder / "cornernet.pt", "pt2", "--compile")


@pytest.mark.parametrize("name", ["x.onnx", "x.pt2"])
def test_files_that_are_no_exported_network(name, tmp_path, capfd, toy):
    path = tmp_path / name
    path.write_bytes(b"nothing")
    assert detect_script.main(["--checkpoint", str(path), str(toy / "val"), "--output", str(tmp_path / "out")]) == 2
    assert f"{path} cannot be read as an exported network" in capfd.readouterr().err


@pytest.mark.slow
def test_options_that_the_export_has_fixed(config, onnx, capfd, toy, tmp_path):
    for arguments in ([str(toy / "val"), "test.corners=40"], ["--heatmaps", str(toy / "val")]):
        command = ["--checkpoint", str(onnx), "--output", str(tmp_path), *arguments]
        assert detect_script.main(command) == 2
    errors = capfd.readouterr().err
    assert "was exported with test.corners=100" in errors and "--heatmaps" in errors
    assert test_script.main([config, "--checkpoint", str(onnx), *FAMILIES["centernet"], "model.pool_width=8"]) == 2
    assert "of another network" in capfd.readouterr().err


def test_large_weights_go_to_a_second_file(monkeypatch, tmp_path):
    """The limit is that of protobuf files, here a small one."""
    module = torch.nn.Linear(64, 64)
    program = torch.export.export(module, (torch.zeros(2, 64),)).run_decompositions()
    monkeypatch.setattr(files, "IN_ONE_FILE", 1000)
    files.write_onnx(program, {"outputs": ["y"]}, tmp_path / "x.onnx")
    assert (tmp_path / "x.onnx.data").stat().st_size >= 64 * 64 * 4
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    assert [output.name for output in session.get_outputs()] == ["y"]
