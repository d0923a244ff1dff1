"""Folders for output."""

import pytest

from db import DataError
from nnet.runtime.files import make_folder


def test_a_folder_is_made_with_its_parents_and_may_exist(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
        assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(DataError, match=r"cannot write to the folder .*file.*: name another with --output"):
            make_folder(path)
