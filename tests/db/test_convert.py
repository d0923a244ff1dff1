"""python -m db.convert: the toy data written in other formats comes back as it was."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from configs import load
from db import DataError, load_index, load_split
from db.convert.__main__ import main

SPLITS = ("train", "val")


def contents(toy, split):
    """The toy data's images as dicts, each with its `boxes` (category name, x, y, w, h)."""
    content = json.loads((toy / "annotations" / f"instances_{split}.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    for image in content["images"]:
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        image["boxes"] = [(names[a["category_id"]], *a["bbox"]) for a in own]
    return content["images"]


def xml(image, first=1, extra=""):
    objects = "".join(
        f"<object><name>{name}</name>{extra}<bndbox><xmin>{x + first}</xmin><ymin>{y + first}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for name, x, y, w, h in image["boxes"]
    )
    size = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
    return f"<annotation><filename>{image['file_name']}</filename>{size}{objects}</annotation>"


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def voc(toy, tmp_path):
    """The toy data in Pascal VOC's layout."""
    root = tmp_path / "voc"
    (root / "JPEGImages").mkdir(parents=True)
    for split in SPLITS:
        images = contents(toy, split)
        for image in images:
            shutil.copy(toy / split / image["file_name"], root / "JPEGImages")
            put(root / "Annotations" / Path(image["file_name"]).with_suffix(".xml").name, xml(image))
        put(root / "ImageSets/Main" / f"{split}.txt", "".join(f"{Path(i['file_name']).stem}  1\n" for i in images))
    return root


@pytest.fixture
def yolo(toy, tmp_path):
    """The toy data in YOLO's layout, the validation images as a list."""
    root = tmp_path / "yolo"
    names = sorted({box[0] for split in SPLITS for image in contents(toy, split) for box in image["boxes"]})
    for split in SPLITS:
        shutil.copytree(toy / split, root / "images" / split)
        for image in contents(toy, split):
            lines, size = [], np.array([image["width"], image["height"]])
            for name, *box in image["boxes"]:
                x, y, w, h = box / np.tile(size, 2)
                lines.append(f"{names.index(name)} {x + w / 2:.9f} {y + h / 2:.9f} {w:.9f} {h:.9f}\n")
            if lines:
                put(root / "labels" / split / Path(image["file_name"]).with_suffix(".txt").name, "".join(lines))
    put(root / "val.txt", "".join(f"./images/val/{i['file_name']}\n" for i in contents(toy, "val")))
    content = {"path": "/content/datasets/toy", "train": "../images/train", "val": "val.txt"}
    put(root / "data.yaml", yaml.safe_dump(content | {"nc": len(names), "names": dict(enumerate(names))}))
    return root


def same_objects(toy, written, atol=0.0):
    """Assert that a config's data: section, as text, leads to the toy data."""
    path = Path(yaml.safe_load(written)["data"]["root"]).parent / "config.yaml"
    path.write_text(written)
    data = load(path).data
    for split in SPLITS:
        index = load_split(data, split)
        other = load_index(toy / "annotations" / f"instances_{split}.json", toy / split)
        assert len(index) == len(other)
        for i in range(len(index)):
            assert os.path.basename(index.path(i)) == os.path.basename(other.path(i))
            found, expected = (
                sorted((it.category_names[label], *box) for box, label in zip(*it.annotations(i)[:2], strict=True))
                for it in (index, other)
            )
            assert [row[0] for row in found] == [row[0] for row in expected]
            np.testing.assert_allclose([row[1:] for row in found], [row[1:] for row in expected], atol=atol)


def test_voc(voc, toy, capsys):
    assert main(["voc", str(voc)]) == 0
    printed = capsys.readouterr()
    assert "16 images" in printed.err and "4 images" in printed.err and "6 classes" in printed.err
    section = yaml.safe_load(printed.out)["data"]
    assert section["train"] == {"images": ["JPEGImages"], "annotations": ["annotations/instances_train.json"]}
    assert section["test"] is None
    same_objects(toy, printed.out)
    files = [json.loads((voc / "annotations" / f"instances_{split}.json").read_text()) for split in SPLITS]
    ids = [image["id"] for content in files for image in content["images"]]
    assert len(set(ids)) == 20  # the two files can be joined


def test_voc_beside_images_from_zero(toy, tmp_path, capsys):
    root = tmp_path / "mine"
    for split, folder in (("train", "train"), ("val", "valid")):
        shutil.copytree(toy / split, root / folder)
        for image in contents(toy, split):
            text = xml(image, first=0).replace(f"{image['width']}</width>", "0</width>")  # some tools write no size
            put(root / folder / Path(image["file_name"]).with_suffix(".xml").name, text)
    assert main(["voc", str(root), "--zero-based", "--output", str(tmp_path / "out")]) == 0
    same_objects(toy, capsys.readouterr().out)


def test_voc_difficult_and_below_one(voc, toy, capsys):
    image = contents(toy, "train")[0]
    name = Path(image["file_name"]).with_suffix(".xml").name
    put(voc / "Annotations" / name, xml(image | {"boxes": [("ring", -1, 3, 9, 9)]}, 1, "<difficult>1</difficult>"))
    assert main(["voc", str(voc)]) == 0
    notes = capsys.readouterr().err
    assert "1 objects are marked difficult" in notes and "1 boxes begin below pixel 1" in notes
    index = load_index(voc / "annotations" / "instances_train.json", voc / "JPEGImages")
    assert index.objects(0).crowd.tolist() == [True] and index.crowd.sum() == 1


def test_hold_out(voc, capsys):
    shutil.rmtree(voc / "ImageSets")
    assert main(["voc", str(voc), "--hold-out", "0.25"]) == 0
    sections = capsys.readouterr().out
    files = [json.loads((voc / "annotations" / f"instances_{split}.json").read_text())["images"] for split in SPLITS]
    assert [len(images) for images in files] == [15, 5]
    names = [{image["file_name"] for image in images} for images in files]
    assert not names[0] & names[1]
    assert main(["voc", str(voc), "--hold-out", "0.25"]) == 0 and capsys.readouterr().out == sections


def test_unreadable_image_is_left_out(voc, toy, capsys):
    image = contents(toy, "train")[0]["file_name"]
    put(voc / "JPEGImages" / image, "text")
    assert main(["voc", str(voc)]) == 1
    assert f"left out {voc / 'JPEGImages' / image}" in capsys.readouterr().err
    content = json.loads((voc / "annotations" / "instances_train.json").read_text())
    assert image not in {entry["file_name"] for entry in content["images"]} and len(content["images"]) == 15


def test_yolo(yolo, toy, capsys):
    assert main(["yolo", str(yolo)]) == 0
    printed = capsys.readouterr()
    section = yaml.safe_load(printed.out)["data"]
    assert section["train"]["images"] == ["images/train"] and section["val"]["images"] == ["."]
    same_objects(toy, printed.out, atol=2e-3)


def test_yolo_polygons_and_missing_labels(yolo, toy, capsys):
    image = contents(toy, "train")[0]
    label = yolo / "labels/train" / Path(image["file_name"]).with_suffix(".txt").name
    put(label, "2 0.1 0.2 0.5 0.2 0.5 0.8\n\n")
    other = yolo / "labels/train" / Path(contents(toy, "train")[1]["file_name"]).with_suffix(".txt").name
    other.unlink()
    assert main(["yolo", str(yolo / "data.yaml")]) == 0
    assert "1 images have no text file" in capsys.readouterr().err
    index = load_index(yolo / "annotations" / "instances_train.json", yolo / "images" / "train")
    boxes, labels = index.annotations(0)
    sides = np.array([image["width"], image["height"]] * 2)
    assert labels.tolist() == [2]
    np.testing.assert_allclose(boxes, [np.array([0.1, 0.2, 0.5, 0.8]) * sides], atol=2e-3)
    assert len(index.annotations(1)[0]) == 0


def in_first(folder, text):
    """A change of the first file of a folder."""
    return lambda root: put(sorted((root / folder).iterdir())[0], text)


BOX = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>5</xmax><ymax>9</ymax></bndbox>"
OBJECT = f"<annotation><object><name>ring</name>{BOX}</object></annotation>"
VOC_FAULTS = {
    "cut": (in_first("Annotations", "<annotation><obj"), ["not XML", "cut short"]),
    "other": (in_first("Annotations", "<html></html>"), ["not Pascal VOC", "<html>"]),
    "no name": (in_first("Annotations", "<annotation><object/></annotation>"), ["object 1", "<name> is missing"]),
    "no box": (
        in_first("Annotations", "<annotation><object><name>a</name></object></annotation>"),
        ["xmin> is missing"],
    ),
    "text": (in_first("Annotations", OBJECT.format("x")), ["object 1 (ring)", "must be a number", "'x'"]),
    "reversed": (in_first("Annotations", OBJECT.format("7")), ["object 1 (ring)", "xmin > xmax"]),
    "no image": (lambda root: sorted((root / "JPEGImages").iterdir())[0].unlink(), ["its image is missing"]),
    "no XML": (lambda root: put(root / "ImageSets/Main/val.txt", "nowhere\n"), ["nowhere.xml: no such file"]),
    "no split": (lambda root: (root / "ImageSets/Main/val.txt").unlink(), ["no split val", "train", "--hold-out"]),
    "no images": (lambda root: shutil.rmtree(root / "JPEGImages"), ["JPEGImages: no such folder"]),
    "empty": (lambda root: shutil.rmtree(root / "Annotations"), ["there are no XML files"]),
    "no folder": (lambda root: shutil.rmtree(root), ["no such folder"]),
}
YOLO_FAULTS = {
    "text": (in_first("labels/train", "a b\n"), ["line 1", "expected numbers"]),
    "count": (in_first("labels/train", "\n0 0.5 0.5 0.1\n"), ["line 1", "4 numbers"]),
    "class": (in_first("labels/train", "6 0.5 0.5 0.1 0.1\n"), ["class 6", "0 to 5"]),
    "fraction": (in_first("labels/train", "0 0.5 0.5 0.1 0.1\n0.5 1 1 1 1\n"), ["line 2", "class 0.5"]),
    "pixels": (in_first("labels/train", "0 50 50 20 20\n"), ["fractions"]),
    "negative": (in_first("labels/train", "0 0.5 0.5 -0.005 0.1\n"), ["negative"]),
    "no labels": (lambda root: shutil.rmtree(root / "labels"), ["none of the 16 images", "labels"]),
    "no images": (lambda root: shutil.rmtree(root / "images/train"), ["no such folder or list", "data.yaml"]),
    "no file": (lambda root: (root / "data.yaml").unlink(), ["data.yaml: no such file"]),
    "no names": (lambda root: put(root / "data.yaml", "train: images/train\n"), ["`names`"]),
    "gap": (lambda root: put(root / "data.yaml", "names: {0: a, 2: b}\n"), ["without gaps"]),
    "nc": (lambda root: put(root / "data.yaml", "names: [a]\nnc: 2\n"), ["`nc` is 2"]),
    "not YAML": (lambda root: put(root / "data.yaml", "names: [a\n"), ["not YAML"]),
    "list": (lambda root: put(root / "data.yaml", "[1]"), ["not a data.yaml"]),
}


def check_fault(main_arguments, root, change, words, capsys):
    change(root)
    assert main([*main_arguments, str(root)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    message = lines[-1]
    assert message.startswith("error: ") and str(root) in message and all(word in message for word in words), message


@pytest.mark.parametrize("fault", VOC_FAULTS)
def test_voc_faults(voc, fault, capsys):
    check_fault(["voc"], voc, *VOC_FAULTS[fault], capsys)


@pytest.mark.parametrize("fault", YOLO_FAULTS)
def test_yolo_faults(yolo, fault, capsys):
    check_fault(["yolo"], yolo, *YOLO_FAULTS[fault], capsys)


def test_options(voc, capsys):
    for arguments in (["--hold-out", "1.5"], ["--hold-out", "0.1", "--val", "val"]):
        with pytest.raises(SystemExit):
            main(["voc", str(voc), *arguments])
    assert main(["voc", str(voc), "--train", "test"]) == 2
    assert "there is no split test; splits are train, val" in capsys.readouterr().err
    assert main(["voc", str(voc), "--hold-out", "0.01"]) == 2
    assert "without images" in capsys.readouterr().err
    put(voc.parent / "file", "")
    assert main(["voc", str(voc), "--output", str(voc.parent / "file")]) == 2


def test_messages_name_the_command(voc, yolo):
    for path, command in (
        (sorted((voc / "Annotations").iterdir())[0], "python -m db.convert voc"),
        (voc / "Annotations", "python -m db.convert voc"),
        (sorted((yolo / "labels/train").iterdir())[0], "python -m db.convert yolo"),
        (yolo / "labels/train", "python -m db.convert yolo"),
        (yolo / "data.yaml", "python -m db.convert yolo"),
    ):
        with pytest.raises(DataError, match=command):
            load_index(path, voc / "JPEGImages")
