"""What the sources of detect.py name, and their frames."""

import os
import sys

import cv2
import numpy as np
import pytest

from db import DataError
from nnet.detection import sources as module
from nnet.detection.sources import count_frames, find_sources, read_sources
from tests.nnet.detection.videos import write_video


@pytest.fixture
def folder(tmp_path):
    """Pictures a.png, sub/a.png, sub/b.JPG, and files that are none."""
    root = tmp_path / "pictures"
    (root / "sub").mkdir(parents=True)
    (root / ".hidden").mkdir()
    for name, grey in (("a.png", 10), ("sub/a.png", 20), ("sub/b.JPG", 30), (".hidden/c.png", 0), (".d.png", 0)):
        cv2.imwrite(str(root / name), np.full((4, 6, 3), grey, np.uint8))
    (root / "notes.md").write_text("no picture")
    return root


def names(found):
    return [source.name.as_posix() for source in found]


def test_a_folder_recursively(folder):
    assert names(find_sources([str(folder)])) == ["a.png", "sub/a.png", "sub/b.JPG"]
    assert names(find_sources([str(folder)], leave_out=folder / "sub")) == ["a.png"]


def test_a_pattern(folder):
    assert names(find_sources([f"{folder}/*.png"])) == ["a.png"]
    assert names(find_sources([f"{folder}/**/*.*"])) == ["a.png", "sub/a.png", "sub/b.JPG"]
    assert len(find_sources([f"{folder}/*"])) == 3  # a.png, and the folder sub


def test_a_list(folder):
    (folder / "list.txt").write_text(f"# comment\na.png\n\nsub/b.JPG\n{folder}/sub/a.png\n")
    found = find_sources([str(folder / "list.txt")])
    assert names(found) == ["a.png", "sub/b.JPG", "sub/a.png"]


def test_each_file_once_and_unique_names(folder):
    found = find_sources([str(folder / "sub" / "a.png"), str(folder / "a.png"), str(folder / "a.png")])
    assert names(found) == ["sub/a.png", "a.png"]


def test_kinds(folder, tmp_path):
    (tmp_path / "v.MP4").write_bytes(b"x")
    (tmp_path / "picture").write_bytes(b"x")
    found = find_sources([str(tmp_path / "v.MP4"), "0", str(tmp_path / "picture")])
    assert [source.kind for source in found] == ["video", "camera", "image"]
    assert names(found)[1] == "camera0.mp4"


def bad_sources(folder):
    (folder / "empty").mkdir()
    (folder / "empty.txt").write_text("# nothing\n")
    (folder / "wrong.txt").write_text("a.png\nnone.png\n")
    (folder / "binary.txt").write_bytes(b"\xff\xfe\x00")
    return {
        folder / "none.jpg": "no such picture, video, folder, list or camera",
        folder / "empty": "no pictures or videos in this folder",
        folder / "*.tiff": "matches no file",
        folder / "*.md": "none of them a picture",
        folder / "empty.txt": "an empty list",
        folder / "wrong.txt": "wrong.txt:2: no such file",
        folder / "binary.txt": "not a list of pictures",
    }


def test_bad_sources_are_refused(folder):
    for source, words in bad_sources(folder).items():
        with pytest.raises(DataError) as error:
            find_sources([str(source)])
        assert words in str(error.value) and str(source) in str(error.value) and "\n" not in str(error.value)


def test_frames_of_pictures_in_order_without_unreadable_ones(folder):
    for i in range(9):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((3, 3, 3), i, np.uint8))
    (folder / "4.png").write_text("text")
    skipped, found = [], find_sources([str(folder / f"{i}.png") for i in range(9)])
    frames = list(read_sources(found, skipped.append))
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [0, 1, 2, 3, 5, 6, 7, 8]
    assert [frame.rate for frame in frames] == [None] * 8
    assert len(skipped) == 1 and "4.png" in skipped[0]
    assert count_frames(found) == 9


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_frames_of_a_video(tmp_path, suffix):
    write_video(tmp_path / f"v{suffix}")
    skipped, found = [], find_sources([str(tmp_path)])
    frames = list(read_sources(found, skipped.append))
    assert [frame.number for frame in frames] == list(range(12)) and not skipped
    assert {frame.rate for frame in frames} == {12.5} and {frame.image.shape for frame in frames} == {(48, 64, 3)}
    brightness = [frame.image.mean() for frame in frames]
    assert brightness == sorted(brightness)
    assert count_frames(found) == 12


def test_a_video_that_ends_early_gives_what_there_is(tmp_path, capfd):
    write_video(tmp_path / "v.avi", count=60)
    data = (tmp_path / "v.avi").read_bytes()
    (tmp_path / "v.avi").write_bytes(data[: len(data) * 6 // 10])
    skipped = []
    frames = list(read_sources(find_sources([str(tmp_path)]), skipped.append))
    assert 10 < len(frames) < 60
    assert len(skipped) == 1 and f"only {len(frames)} of 60 frames" in skipped[0]
    assert capfd.readouterr().err == ""


def test_videos_that_cannot_be_decoded(tmp_path, capfd):
    (tmp_path / "a.mp4").write_bytes(b"no video" * 99)
    write_video(tmp_path / "b.mp4")
    data = (tmp_path / "b.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(data[: len(data) // 2])  # its index is at the end
    skipped = []
    assert not list(read_sources(find_sources([str(tmp_path)]), skipped.append))
    assert [message.rpartition("/")[2] for message in skipped] == [
        f"{name}: not a video that OpenCV can decode" for name in ("a.mp4", "b.mp4")
    ]
    assert capfd.readouterr().err == ""


class Camera:
    """A camera that gives three frames; its rate is not known."""

    def __init__(self, number):
        assert number == 7
        self.left = 3

    def isOpened(self):
        return True

    def get(self, name):
        return 0.0

    def read(self):
        self.left -= 1
        return self.left >= 0, np.zeros((4, 6, 3), np.uint8)

    def release(self):
        pass


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other file systems have no such names")
def test_videos_that_opencv_does_not_survive(tmp_path):
    """It crashes on a name that is not UTF-8, and waits for a FIFO."""
    os.mkfifo(tmp_path / "a.mp4")
    (tmp_path / os.fsdecode(b"na\xefve.mp4")).write_bytes(b"")
    skipped = []
    assert count_frames(found := find_sources([str(tmp_path)])) == 0 and len(found) == 2
    assert list(read_sources(found, skipped.append)) == []
    assert "a.mp4: not a video" in skipped[0] and "its name is not UTF-8" in skipped[1]


def test_frames_of_a_camera(monkeypatch):
    monkeypatch.setattr(module.cv2, "VideoCapture", Camera)
    found, skipped = find_sources(["7"]), []
    frames = list(read_sources(found, skipped.append))
    assert [(frame.number, frame.rate) for frame in frames] == [(0, 25.0), (1, 25.0), (2, 25.0)]
    assert count_frames(found) is None and not skipped


def test_a_camera_that_is_not_there():
    skipped = []
    assert not list(read_sources(find_sources(["971"]), skipped.append))
    assert skipped == ["camera 971: not found"]
