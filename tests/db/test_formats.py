"""Data in another format than COCO's: a reader that makes an index is all it takes."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from db import (
    READERS,
    AnnotationIndex,
    DataError,
    DataOptions,
    Split,
    evaluate,
    false_discovery,
    load_split,
    split_files,
    to_results,
)

CLASSES = ("cat", "dog")
ROWS = """\
image,height,width,class,x1,y1,x2,y2
b.png,100,200,dog,10,10,60,60
a.png,100,100,cat,20,20,80,90
b.png,100,200,cat,100,0,150.5,50
b.png,100,200,dog,60,60,90,90
c.png,50,50,,,,,
"""


def build(rows, folder, limit=0, sources=()):
    """An index of rows of CSV: images get the ids 1, 2, ... in the order of their names."""
    images = {row["image"]: (int(row["height"]), int(row["width"])) for row in rows}
    names = sorted(images)
    objects = [row for row in rows if row["class"]]
    return AnnotationIndex.build(
        image_ids=range(1, len(names) + 1),
        sizes=[images[name] for name in names],
        names=names,
        folders=[folder],
        box_image=[names.index(row["image"]) for row in objects],
        boxes=[[float(row[side]) for side in ("x1", "y1", "x2", "y2")] for row in objects],
        labels=[CLASSES.index(row["class"]) for row in objects],
        category_ids=(1, 2),
        category_names=CLASSES,
        sources=sources,
    ).limit(limit)


def read_csv(files, folders, limit, require_boxes):
    rows = [row for file in files for row in csv.DictReader(file.read_text().splitlines())]
    if require_boxes and not any(row["class"] for row in rows):
        raise DataError(f"{files[0]}: no boxes")
    return build(rows, folders[0], limit, files)


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Options of data whose validation split is a CSV file."""
    monkeypatch.setitem(READERS, "csv", read_csv)
    (tmp_path / "boxes.csv").write_text(ROWS)
    (tmp_path / "empty.csv").write_text(ROWS.splitlines()[0] + "\nc.png,50,50,,,,,\n")
    return DataOptions(
        root=str(tmp_path), format="csv", val=Split(("pictures",), ("boxes.csv",)), test=Split(("x",), ("empty.csv",))
    )


def check(index):
    """Detections of an index become results, and these are evaluated."""
    assert len(index) == 3 and index.num_classes == 2
    boxes, labels, crowd = index.objects(1)
    # By category, and within a category as in the file
    assert boxes.tolist() == [[100, 0, 150.5, 50], [10, 10, 60, 60], [60, 60, 90, 90]]
    assert labels.tolist() == [0, 1, 1] and not crowd.any()
    assert index.areas.tolist() == [4200, 2525, 2500, 900] and index.extents[1].tolist() == [50.5, 50]

    results = []
    for i in range(len(index)):
        boxes, labels = index.annotations(i)
        results += to_results(index, i, boxes, np.full(len(boxes), 0.5), labels, 2)
    assert results[1] == {"image_id": 2, "category_id": 1, "bbox": [100.0, 0.0, 50.5, 50.0], "score": 0.5}
    figures = evaluate(index, results)
    assert [figures[name] for name in ("AP", "APs", "APm")] == pytest.approx([1, 1, 1]) and figures["APl"] is None
    assert figures.per_class == {"cat": pytest.approx(1), "dog": pytest.approx(1)}
    assert false_discovery(index, results)["FD"] == pytest.approx(0)
    assert evaluate(index, results[:1], [1]).per_class == {"cat": pytest.approx(1), "dog": None}
    assert evaluate(index, results[:1])["AR100"] == pytest.approx(1 / 4)


def test_reader_of_another_format(options, tmp_path):
    index = load_split(options, "val")
    check(index)
    assert index.path(2) == str(tmp_path / "pictures" / "c.png") and index.sources == (str(tmp_path / "boxes.csv"),)
    assert len(load_split(replace(options, val=replace(options.val, limit=2)), "val")) == 2
    assert len(load_split(options, "test", require_boxes=False).boxes) == 0
    with pytest.raises(DataError, match=r"empty\.csv: no boxes"):
        load_split(options, "test")


def test_index_without_files(tmp_path):
    index = build(list(csv.DictReader(ROWS.splitlines())), tmp_path)
    check(index)
    with pytest.raises(DataError, match="image 9 or category 1 is not in the index"):
        evaluate(index, [{"image_id": 9, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1.0}])


def test_build_sorts_images_and_boxes():
    """Any order of the images gives the same index, if boxes of an image and category keep their order."""
    rng = np.random.default_rng(0)
    ids, owner = np.arange(5) * 7 + 3, rng.integers(0, 5, 30)
    boxes, labels = rng.uniform(0, 9, (30, 4)), rng.integers(0, 3, 30)
    given = {"areas": rng.uniform(1, 9, 30), "crowd": rng.random(30) < 0.5, "extents": rng.uniform(1, 9, (30, 2))}
    sizes, folder_of = rng.integers(1, 99, (5, 2)), rng.integers(0, 2, 5)
    built = []
    for order in (np.arange(5), rng.permutation(5)):
        index = AnnotationIndex.build(
            image_ids=ids[order],
            sizes=sizes[order],
            names=[f"{i}.jpg" for i in order],
            folders=["one", "two"],
            folder_of=folder_of[order],
            box_image=np.argsort(order)[owner],
            boxes=boxes,
            labels=labels,
            category_ids=(1, 2, 3),
            category_names=("a", "b", "c"),
            **given,
        )
        built.append(index)
    for name, value in vars(built[0]).items():
        assert np.array_equal(value, getattr(built[1], name)), name
    expected = [row for i in range(5) for k in range(3) for row in np.flatnonzero((owner == i) & (labels == k))]
    for name, value in (given | {"boxes": boxes, "labels": labels}).items():
        assert np.array_equal(getattr(built[0], name), value[expected]), name
    assert built[0].path(1) == f"{('one', 'two')[folder_of[1]]}/1.jpg"


def test_coco_split(shared_data):
    files = Split(("val2017",), ("annotations/instances_val2017.json",), limit=7)
    options = DataOptions(root=str(shared_data / "coco_tiny"), val=files)
    assert len(load_split(options, "val")) == 7
    folders, annotations = split_files(options, "val")
    assert folders == [shared_data / "coco_tiny" / "val2017"] and annotations[0].name == "instances_val2017.json"


def test_bad_options(options):
    with pytest.raises(DataError, match="data.format is 'voc', which is not a known format: coco, csv"):
        load_split(replace(options, format="voc"), "val")
    with pytest.raises(DataError, match="data.test is null in this config: name its images and annotations"):
        load_split(replace(options, test=None), "test")
