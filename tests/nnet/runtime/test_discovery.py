"""Classes that a module brings are found: in a package made here, and the analyses and pictures of the repository."""

import importlib
import sys

import pytest

import test as test_script
from nnet import analysis
from nnet.analysis.base import Analysis
from nnet.drawing import pictures
from nnet.drawing.pictures.base import Picture
from nnet.runtime.discovery import classes_in

ANALYSIS = """
from nnet.analysis.base import Analysis

class Count(Analysis):
    name = "{name}"
    key = "count_{name}"

    def figures(self, records, results):
        return {{"results": len(results)}}
"""
PICTURE = """
from nnet.drawing.pictures.base import Picture, in_a_row

class Plain(Picture):
    name = "plain"

    def draw(self, shown, detector):
        return in_a_row({"image": shown.image})
"""


@pytest.fixture
def make_package(tmp_path, monkeypatch):
    """Makes a package of modules, which are forgotten at the end."""

    def make(**modules):
        folder = tmp_path / "found_here"
        folder.mkdir()
        for name, text in ({"__init__": ""} | modules).items():
            (folder / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        return importlib.import_module("found_here")

    yield make
    for name in [name for name in sys.modules if name.split(".")[0] == "found_here"]:
        del sys.modules[name]


def test_classes_of_new_modules_are_found(make_package):
    package = make_package(b=ANALYSIS.format(name="second"), a=ANALYSIS.format(name="first"), picture=PICTURE)
    found = classes_in(package, Analysis)
    assert list(found) == ["first", "second"]  # by module
    assert found["first"](None, None, None).figures([], [{}]) == {"results": 1}
    assert list(classes_in(package, Picture)) == ["plain"]


def test_only_subclasses_are_found(make_package):
    package = make_package(
        other="class Analysis: ...\nname = 'analysis'\n", imported="from nnet.analysis.base import *\n"
    )
    assert classes_in(package, Analysis) == classes_in(package, Picture) == {}


def test_the_analyses_and_pictures_of_the_repository():
    assert list(classes_in(analysis, Analysis)) == list(test_script.ANALYSES)
    assert list(classes_in(pictures, Picture)) == list(test_script.PICTURES)
    assert set(test_script.ANALYSES) == {"confusion", "corners", "errors", "objects", "tide"}
    assert set(test_script.PICTURES) == {"errors", "heatmaps", "row", "targets", "views"}
    keys = [kind.key for kind in test_script.ANALYSES.values()]
    assert len(set(keys)) == len(keys)
