"""detect.py as a user runs it: what it writes, the same boxes as test.py, and every bad input with its message."""

import json
import shutil
import signal
from collections import defaultdict

import cv2
import numpy as np
import pytest

import configs
import detect as detect_script
import test as test_script
from nnet.api import load_detector
from nnet.detection import sources as sources_module
from tests.builders import save_detector
from tests.nnet.detection.videos import write_video

TINY = "test: {embedding_distance: 9}\n"


@pytest.fixture(scope="module")
def saved(config, toy, tmp_path_factory):
    """Path of a checkpoint of random weights for the toy data."""
    categories = json.loads((toy / "annotations" / "instances_val.json").read_text())["categories"]
    path = tmp_path_factory.mktemp("saved") / "last.pt"
    save_detector(path, configs.load(config), [[c["id"] for c in categories], [c["name"] for c in categories]])
    return path


def run(saved, output, *arguments, threshold=0):
    """Run detect.py without a config; returns its exit code."""
    fixed = ["--checkpoint", saved, "--output", output, "--threshold", threshold]
    return detect_script.main([str(argument) for argument in (*arguments, *fixed)])


def read_results(folder):
    """The lines of detections.jsonl and the entries of results.json."""
    lines = [json.loads(line) for line in (folder / "detections.jsonl").read_text().splitlines()]
    return lines, json.loads((folder / "results.json").read_text())


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def refused(capfd, saved, output, *arguments, code=2):
    """Run detect.py, which has to end with one clear line; returns that line."""
    capfd.readouterr()
    assert run(saved, output, *arguments) == code
    lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_boxes_are_those_of_test_py(config, saved, toy, tmp_path, batch):
    assert test_script.main([config, "--checkpoint", str(saved), "--output", str(tmp_path / "test")]) == 0
    assert run(saved, tmp_path / "found", toy / "val", "--batch", batch, "--no-pictures") == 0
    names = {i["id"]: i["file_name"] for i in json.loads(next(toy.glob("annotations/*val*")).read_text())["images"]}
    ours, theirs = defaultdict(list), defaultdict(list)
    for found in read_results(tmp_path / "found")[1]:
        ours[found["file_name"].rpartition("/")[2]].append([found["category_id"], found["score"], *found["bbox"]])
    for found in json.loads((tmp_path / "test" / "results.json").read_text()):
        theirs[names[found["image_id"]]].append([found["category_id"], found["score"], *found["bbox"]])
    assert ours.keys() == theirs.keys() and sum(map(len, ours.values())) > 20
    for name, rows in theirs.items():
        if batch == 1:
            assert sorted(ours[name]) == sorted(rows)
        else:  # rounded to two decimals
            np.testing.assert_allclose(sorted(ours[name]), sorted(rows), rtol=0, atol=0.011)


def test_what_is_written_of_pictures(saved, toy, tmp_path, capsys):
    source = tmp_path / "pictures"
    (source / "sub").mkdir(parents=True)
    image = cv2.imread(str(next((toy / "val").iterdir())))
    grey, turned = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), image[:60]
    cv2.imwrite(str(source / "a.png"), image)
    cv2.imwrite(str(source / "sub" / "a.jpg"), turned)
    cv2.imwrite(str(source / "sub" / "16.tiff"), grey.astype(np.uint16) * 257)
    cv2.imwrite(str(source / "alpha.png"), np.dstack([image, grey]))
    assert run(saved, tmp_path / "out", source, "--heatmaps", "--crops") == 0
    names = ["a.png", "alpha.png", "sub/16.tiff", "sub/a.jpg"]
    folders = ["heatmaps/bottom_right", "heatmaps/top_left", "pictures"]
    written = files(tmp_path / "out")
    assert [name for name in written if not name.startswith("crops/")] == sorted(
        ["detections.jsonl", "results.json", *(f"{folder}/{name}" for folder in folders for name in names)]
    )
    for folder in folders:
        for name in names:
            picture, original = (cv2.imread(str(root / name)) for root in (tmp_path / "out" / folder, source))
            assert picture.shape == original.shape and (picture != original).any()
    lines, results = read_results(tmp_path / "out")
    assert {line["file_name"] for line in lines} == {str(source / name) for name in names}
    expected = load_detector(saved)(source / "a.png", 0)
    own = [line for line in lines if line["file_name"] == str(source / "a.png")]
    assert own == [
        {"file_name": str(source / "a.png"), "class": name, "category_id": row["category_id"], "score": row["score"]}
        | dict(zip(("x", "y", "width", "height"), row["bbox"], strict=True))
        for name, row in zip(expected.names, expected.to_coco(), strict=True)
    ]
    assert [(r["category_name"], r["score"], r["bbox"][0]) for r in results] == [
        (line["class"], line["score"], line["x"]) for line in lines
    ]
    assert {r["image_id"] for r in results} == {1, 2, 3, 4}
    crops = [name for name in written if name.startswith("crops/")]
    assert len(crops) == len(lines)
    best = cv2.imread(str(tmp_path / "out" / "crops" / expected.names[0] / "a_1.png"))
    np.testing.assert_array_equal(best, expected.crops()[0])
    printed = capsys.readouterr().out
    assert f"{len(lines):,} objects in 4 images" in printed and "of the time in the network" in printed


def test_the_threshold(saved, toy, tmp_path):
    assert run(saved, tmp_path, toy / "val", "--no-pictures") == 0
    scores = [line["score"] for line in read_results(tmp_path)[0]]
    middle = sorted(scores)[len(scores) // 2]
    assert run(saved, tmp_path, toy / "val", "--no-pictures", threshold=middle) == 0
    assert all(line["score"] >= round(middle, 2) for line in read_results(tmp_path)[0])
    assert 0 < len(read_results(tmp_path)[0]) < len(scores)
    assert run(saved, tmp_path / "none", toy / "val", threshold=1) == 0  # pictures without boxes, results without lines
    assert read_results(tmp_path / "none") == ([], []) and len(files(tmp_path / "none" / "pictures")) == 4


@pytest.mark.parametrize("batch", [1, 4])
def test_a_video(saved, tmp_path, batch):
    """Frame rate and size are kept; every kind of picture becomes a video."""
    write_video(tmp_path / "v.mp4", count=10, rate=12.5, size=(48, 64))
    assert run(saved, tmp_path / "out", tmp_path / "v.mp4", "--heatmaps", "--batch", batch) == 0
    assert files(tmp_path / "out") == [
        "detections.jsonl",
        "heatmaps/bottom_right/v.mp4",
        "heatmaps/top_left/v.mp4",
        "pictures/v.mp4",
        "results.json",
    ]
    original, drawn = cv2.VideoCapture(str(tmp_path / "v.mp4")), cv2.VideoCapture(str(tmp_path / "out/pictures/v.mp4"))
    assert drawn.get(cv2.CAP_PROP_FPS) == 12.5 and drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 10
    lines, results = read_results(tmp_path / "out")
    assert {line["frame"] for line in lines} == {result["frame"] for result in results} == set(range(10))
    assert {result["image_id"] for result in results} == set(range(1, 11))
    detector = load_detector(saved)
    for i in range(10):
        frame, picture = original.read()[1], drawn.read()[1]
        assert picture.shape == (48, 64, 3)
        expected = detector(frame, 0)
        assert len([line for line in lines if line["frame"] == i]) == len(expected)
        drawing, plain = (np.abs(picture.astype(float) - image).mean() for image in (expected.draw(), frame))
        assert drawing < plain / 3  # not 0: videos are compressed with loss
    assert not drawn.read()[0]


def test_a_video_that_ends_early_and_pictures_beside_it(saved, toy, tmp_path, capfd):
    source = tmp_path / "in"
    shutil.copytree(toy / "val", source)
    write_video(source / "v.avi", count=60)
    data = (source / "v.avi").read_bytes()
    (source / "v.avi").write_bytes(data[: len(data) * 6 // 10])
    (source / "text.jpg").write_text("no picture")
    (source / "w.mp4").write_bytes(b"no video" * 99)
    assert run(saved, tmp_path / "out", source, "--crops") == 1
    drawn = cv2.VideoCapture(str(tmp_path / "out" / "pictures" / "v.avi"))
    count = int(drawn.get(cv2.CAP_PROP_FRAME_COUNT))
    assert 10 < count < 60
    assert len(files(tmp_path / "out" / "pictures")) == 5
    skipped = [line for line in capfd.readouterr().err.splitlines() if "skipped" in line]
    assert [line.partition("skipped ")[2].replace(f"{source}/", "") for line in skipped] == [
        "text.jpg: not an image that OpenCV can decode",
        f"the end of v.avi: only {count} of 60 frames can be decoded",
        "w.mp4: not a video that OpenCV can decode",
    ]
    assert any((tmp_path / "out" / "crops").rglob("v_000003_1.jpg"))


def raise_interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("press, least", [(raise_interrupt, 5), (lambda: signal.raise_signal(signal.SIGINT), 1)])
def test_ctrl_c_ends_a_camera(saved, tmp_path, monkeypatch, press, least):
    """The frames that the network was given before are in the video."""

    class Camera:
        def __init__(self, number):
            self.count = 0

        def isOpened(self):
            return True

        def get(self, name):
            return {cv2.CAP_PROP_FPS: 5.0}.get(name, 0.0)

        def read(self):
            self.count += 1
            if self.count == 6:
                press()
            return True, np.full((48, 64, 3), 20 * self.count, np.uint8)

        def release(self):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(sources_module.cv2, "VideoCapture", Camera)
        assert run(saved, tmp_path, "0") == 0
    video = cv2.VideoCapture(str(tmp_path / "pictures" / "camera0.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == 5 and video.get(cv2.CAP_PROP_FRAME_COUNT) >= least
    assert {line["file_name"] for line in read_results(tmp_path)[0]} <= {"0"}


def test_the_config_and_options(config, saved, toy, tmp_path):
    """A config may stand before the sources; options go anywhere."""
    assert run(saved, tmp_path / "a", config, "test.detections=2", toy / "val", "--no-pictures") == 0
    assert run(saved, tmp_path / "b", toy / "val", "--no-pictures", "test.detections=2") == 0
    a, b = read_results(tmp_path / "a")[0], read_results(tmp_path / "b")[0]
    assert a == b and 0 < len(a) <= 2 * 4 + 4  # and ties


def test_bad_input_is_refused(config, saved, toy, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    other = tmp_path / "other.pt"
    save_detector(other, configs.load(config, ["model.detector=centernet"]), [[1], ["cat"]])
    out = tmp_path / "out"
    assert "none.jpg: no such picture" in refused(capfd, saved, out, tmp_path / "none.jpg")
    assert "no pictures or videos" in refused(capfd, saved, out, tmp_path / "empty")
    assert "none.pt does not exist" in refused(capfd, tmp_path / "none.pt", out, toy / "val")
    assert "damaged" in refused(capfd, tmp_path / "file", out, toy / "val")
    assert "of another network than the config's" in refused(capfd, other, out, config, toy / "val")
    assert "none.yaml does not exist" in refused(capfd, saved, out, tmp_path / "none.yaml", toy / "val")
    assert "did you mean test.scales" in refused(capfd, saved, out, toy / "val", "test.scale=1")
    assert not out.exists()
    assert "cannot write to the folder" in refused(capfd, saved, tmp_path / "file" / "out", toy / "val")
    save_detector(other, configs.load(config, ["model.detector=anchors"]), [[1], ["cat"]])
    assert "--heatmaps: the network" in refused(capfd, other, out, toy / "val", "--heatmaps")


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "required"),
        (["a.yaml"], "name a SOURCE"),
        (["a.yaml", "b.yaml", "x.jpg"], "one CONFIG at most"),
        (["x.jpg", "--threshold", "30"], "--threshold takes a score"),
        (["x.jpg", "--batch", "0"], "--batch takes a number"),
    ],
)
def test_bad_arguments(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        detect_script.main([*arguments, "--checkpoint", "x.pt"])
    assert stopped.value.code == 2 and words in capsys.readouterr().err


def test_a_full_disk_ends_the_run(saved, toy, tmp_path, capfd, monkeypatch):
    def full(*_):
        raise OSError("cannot write a.jpg: No space left on device")

    monkeypatch.setattr("nnet.drawing.output.write_image", full)
    assert run(saved, tmp_path, toy / "val") == 1
    errors = capfd.readouterr().err
    assert "error: cannot write a.jpg: No space left on device" in errors and "Traceback" not in errors
