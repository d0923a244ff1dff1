"""Data that several test modules build: changed copies of the toy data, harmful pickles."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path


def changed_toy(toy: Path, parent: Path, change: Callable[[dict, Path], dict | str | None]) -> Path:
    """Copy the toy data into a folder `toy` of `parent`, and change its training annotations; returns the copy.

    `change` takes the content of the annotation file and the copy's folder. It may change both in place, or return the
    file's new content, as an object for JSON or as text.
    """
    folder = parent / "toy"
    shutil.copytree(toy, folder)
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content = change(content, folder) or content
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


class CommandWhenUnpickled:
    """An object whose unpickling runs a command, which makes a file `ran` in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.system, (f"touch {self.folder}/ran",)
