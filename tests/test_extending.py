"""The examples of docs/extending.md: applied to a copy of the code, within the files that each may touch, and run."""

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

PROGRAMS = ("configs", "db", "external", "models", "nnet", "sample", "train.py", "test.py")

# Title of an example -> the existing files that it changes, and its new files.
TOUCHED = {
    "Backbone": (["models/backbones.py"], ["models/plain.py", "configs/toy_plain.yaml"]),
    "Block, upsampling and head": (["models/hourglass.py", "models/layers.py"], ["configs/toy_parts.yaml"]),
    "Kind of keypoint": (["models/keypoints.py", "sample/targets.py"], ["configs/toy_top_edge.yaml"]),
    "Detector family": (["nnet/families/__init__.py"], ["nnet/families/points.py", "configs/toy_points.yaml"]),
    "Loss term": (["models/losses.py"], []),
    "Augmentation": (["sample/augment.py"], ["configs/toy_upside_down.yaml"]),
    "Data format": (["db/formats.py"], ["db/csv_boxes.py", "configs/toy_csv.yaml"]),
    "Analysis": ([], ["nnet/analysis/counting.py"]),
    "Picture": ([], ["nnet/drawing/pictures/misses.py"]),
}

# Options that make the runs of the examples small
TINY = """data.input_size=[95,95] augment.border=32 train.batch=[2] train.iterations=2 train.workers=0
    train.validate_every=0 train.ap_every=0 runtime.threads=1 runtime.device=cpu""".split()

# Runs the commands in one process, in the copy of the code.
RUN = """
import json, sys
from pathlib import Path
import models, test, train
assert Path(models.__file__).parent.parent == Path.cwd(), models.__file__
done = set()
for program, *arguments in json.load(sys.stdin):
    if (program, *arguments) not in done:
        assert {"train.py": train, "test.py": test}[program].main(arguments) == 0, arguments
    done.add((program, *arguments))
"""


class Block(NamedTuple):
    """A code block of the page that names a file."""

    kind: str  # "diff" changes the file, anything else is its content
    path: str
    text: str


class Example(NamedTuple):
    """A section of the page."""

    blocks: list[Block]
    commands: list[list[str]]  # program and arguments


def read_examples(page: Path) -> dict[str, Example]:
    """The examples of the page by title."""
    examples = {}
    for section in re.split(r"^## ", page.read_text(), flags=re.MULTILINE)[1:]:
        title = section.split("\n", 1)[0]
        fenced = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        blocks = [
            Block(kind, *re.fullmatch(r"# (\S+)\n(.*)", text, re.DOTALL).groups()) for kind, text in fenced if kind
        ]
        lines = [line for kind, text in fenced if not kind for line in text.splitlines()]
        commands = [shlex.split(line)[1:] for line in lines if line.startswith("python ")]
        examples[title] = Example(blocks, commands)
    return examples


def apply(block: Block, folder: Path) -> None:
    """Write the file of a block, or make its changes. Every place that it changes has to be there once."""
    path = folder / block.path
    if block.kind != "diff":
        assert not path.exists(), f"{block.path} exists already"
        path.write_text(block.text)
        return
    content = path.read_text()
    for place in re.split(r"^@@\n", block.text, flags=re.MULTILINE):
        lines = place.splitlines()
        assert all(line[:1] in (" ", "-", "+") for line in lines), place
        old, new = ("".join(f"{line[1:]}\n" for line in lines if line[0] in kinds) for kinds in (" -", " +"))
        assert content.count(old) == 1, f"{block.path} has this {content.count(old)} times:\n{old}"
        content = content.replace(old, new)
    path.write_text(content)


def write_csv(toy: Path) -> None:
    """Write the toy data's annotations in the format of the example."""
    for split in ("train", "val"):
        coco = json.loads((toy / "annotations" / f"instances_{split}.json").read_text())
        names = {category["id"]: category["name"] for category in coco["categories"]}
        with open(toy / "annotations" / f"{split}.csv", "w", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["image", "width", "height", "x1", "y1", "x2", "y2", "class"])
            for image in sorted(coco["images"], key=lambda image: image["id"]):
                start = image["file_name"], image["width"], image["height"]
                objects = [entry for entry in coco["annotations"] if entry["image_id"] == image["id"]]
                for entry in objects:
                    x, y, width, height = entry["bbox"]
                    rows.writerow([*start, x, y, x + width, y + height, names[entry["category_id"]]])
                if not objects:
                    rows.writerow([*start, *[""] * 5])
        (toy / "annotations" / "classes.txt").write_text("\n".join(names[i] for i in sorted(names)) + "\n")


@pytest.fixture(scope="module")
def examples(repository) -> dict[str, Example]:
    return read_examples(repository / "docs" / "extending.md")


@pytest.fixture(scope="module")
def extended(repository, examples, toy, tmp_path_factory) -> Path:
    """A copy of the code with all examples applied, and the toy data in data/toy, after all commands were run."""
    folder = tmp_path_factory.mktemp("extended")
    for name in PROGRAMS:
        if (repository / name).is_dir():
            shutil.copytree(repository / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(repository / name, folder)
    for example in examples.values():
        for block in example.blocks:
            apply(block, folder)
    shutil.copytree(toy, folder / "data" / "toy")
    write_csv(folder / "data" / "toy")
    commands = [[*command, *TINY] for example in examples.values() for command in example.commands]
    run = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(commands),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def run_python(code: str, folder: Path) -> None:
    """Run Python code in the copy."""
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("title", TOUCHED)
def test_an_example_touches_only_these_files(examples, repository, title):
    changed, new = TOUCHED[title]
    blocks = examples[title].blocks
    assert [block.path for block in blocks if block.kind == "diff"] == changed
    assert [block.path for block in blocks if block.kind != "diff"] == new
    assert all((repository / path).is_file() for path in changed)
    assert not any((repository / path).exists() for path in new)


def test_every_example_is_tested_and_has_commands(examples):
    assert list(examples) == list(TOUCHED)
    assert all(example.commands for example in examples.values())


def last_weights(folder: Path, run: str) -> set[str]:
    """Names of the weights in a run's last checkpoint."""
    return set(torch.load(folder / "runs" / run / "last.pt", weights_only=True)["model"])


def metrics(folder: Path, *run: str) -> dict:
    """The metrics.json that test.py has written to a folder of runs/."""
    return json.loads(folder.joinpath("runs", *run, "metrics.json").read_text())


@pytest.mark.slow
def test_the_networks_have_the_new_parts(extended):
    assert "backbone.layers.0.conv.weight" in last_weights(extended, "toy_plain")
    parts = last_weights(extended, "toy_parts")
    assert {"backbone.hourglasses.0.upsample.conv.weight", "backbone.hourglasses.0.skip.0.depthwise.weight"} <= parts
    keypoints = last_weights(extended, "toy_top_edge")
    assert "branches.top_edge.0.heatmap.0.weight" in keypoints
    assert not any(name.startswith("branches.top_edge.0.embedding") for name in keypoints)
    assert "sides.0.0.weight" in last_weights(extended, "toy_points")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy_plain", "toy_parts", "toy_top_edge", "toy_points", "toy_csv"])
def test_the_networks_are_evaluated(extended, name):
    figures = metrics(extended, name, "val")
    assert figures["images"] == 4
    assert figures["iteration"] == 2
    assert "AP" in figures and "FD" in figures


@pytest.mark.slow
def test_terms_are_logged_under_their_names(extended):
    rows = {}
    for name in ("toy_magnitude", "toy_points", "toy_upside_down"):
        rows[name] = json.loads((extended / "runs" / name / "metrics.jsonl").read_text().splitlines()[-1])
    assert rows["toy_magnitude"]["magnitude"] > 0
    assert {"focal", "sides"} <= rows["toy_points"].keys()
    assert "pull" not in rows["toy_points"]
    assert rows["toy_upside_down"]["loss"] > 0


@pytest.mark.slow
def test_the_csv_reader_gives_the_ground_truth_of_coco(extended):
    code = """
from pathlib import Path
import numpy as np
from db import DataOptions, Split, load_split
coco = load_split(DataOptions(root="data/toy", train=Split(("train",), ("annotations/instances_train.json",))), "train")
options = DataOptions(root="data/toy", format="csv", train=Split(("train",), ("annotations/train.csv",), limit=5))
index = load_split(options, "train")
assert len(coco) == 16 and len(index) == 5 and index.category_names == tuple(coco.category_names)
for i in range(len(index)):
    assert Path(index.path(i)).samefile(coco.path(i))
    assert index.sizes[i].tolist() == coco.sizes[i].tolist()
    assert all(np.array_equal(a, b) for a, b in zip(index.objects(i), coco.objects(i)))
"""
    run_python(code, extended)


@pytest.mark.slow
def test_augmentation_analysis_and_picture(extended):
    code = """
import numpy as np
from sample.augment import EXTRA, Sample, AugmentOptions, augmentations
flip = EXTRA["upside_down"]()
assert type(augmentations(AugmentOptions(extra=("upside_down",)), (8, 8))[-1]) is type(flip)
image = np.arange(4 * 3 * 3, dtype=np.uint8).reshape(4, 3, 3)
sample = Sample(image, np.array([[0.0, 1, 2, 2]]), np.array([0]))
turned = flip.apply(sample, True)
assert np.array_equal(turned.image[0], image[3]) and turned.boxes.tolist() == [[0, 1, 2, 2]]
assert np.array_equal(flip.apply(turned, True).image, image) and flip.apply(sample, False) is sample
"""
    run_python(code, extended)
    assert metrics(extended, "toy", "counting")["counting"]["images"] == 4
    pictures = list((extended / "runs" / "toy" / "misses" / "pictures").glob("*_misses.jpg"))
    assert len(pictures) == 4
    for run in ("toy_top_edge", "toy_points"):
        assert len(list((extended / "runs" / run / "val" / "pictures").glob("*.jpg"))) == 2
