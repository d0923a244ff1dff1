"""Images side by side, and written to files."""

import cv2
import numpy as np
import pytest

from nnet.drawing.images import side_by_side, write_image
from tests.nnet.drawing.images import grey


def test_side_by_side_brings_pictures_to_one_height():
    picture = side_by_side([grey(100, 50), grey(200, 100)], ["one", "a title that is too long for its picture by far"])
    assert picture.shape[1] == 100 + 6 + 100 and picture.shape[0] > 200
    assert (picture[-200:, :100] == 128).all()


def test_write_image_creates_folders_and_leaves_no_parts(tmp_path):
    write_image(tmp_path / "a" / "b" / "c.png", grey(3, 5))
    assert (cv2.imread(str(tmp_path / "a" / "b" / "c.png")) == 128).all()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c.png"]


def test_write_image_says_what_it_cannot_write(tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*a\.nonsense"):
        write_image(tmp_path / "a.nonsense", grey(3, 5))
    with pytest.raises(OSError, match=r"cannot write .*a\.png"):
        write_image(tmp_path / "a.png", np.zeros((0, 0, 3), np.uint8))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        write_image(tmp_path / "file" / "a.png", grey(3, 5))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
