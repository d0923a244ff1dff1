"""Statistics of a data set, against figures worked out by hand and the samples of training."""

import numpy as np
import pytest

from db import AnnotationIndex, load_index
from sample.augment import AugmentOptions
from sample.dataset import TrainingSet
from sample.statistics import (
    SampleObjects,
    annotation_statistics,
    compare,
    describe,
    distribution,
    main,
    sample_objects,
    sample_statistics,
)
from sample.targets import PenaltyOptions

KINDS = ("top_left", "bottom_right")


def small_index():
    """Two images: one with four objects of two classes, one without."""
    return AnnotationIndex.build(
        image_ids=[1, 2],
        sizes=[[100, 200], [100, 200]],
        names=["1.jpg", "2.jpg"],
        folders=["."],
        box_image=[0, 0, 0, 0],
        boxes=[[0, 0, 10, 10], [1, 1, 50, 50], [2, 2, 50, 99], [100, 40, 180, 40]],
        labels=[0, 0, 1, 1],
        category_ids=[1, 2],
        category_names=["one", "two"],
    )


def test_annotations_by_hand():
    figures = annotation_statistics(small_index())
    assert figures["images"] == 2 and figures["images_without_objects"] == 1 and figures["objects"] == 4
    assert figures["boxes_of_zero_size"] == 1 and figures["crowds"] == 0
    assert figures["objects_per_image"]["mean"] == 2 and figures["objects_per_image"]["p100"] == 4
    assert figures["sizes"] == {"small": 2, "medium": 2, "large": 0}
    assert figures["classes"] == {"one": {"objects": 2, "images": 1}, "two": {"objects": 2, "images": 1}}


def test_samples_by_hand():
    index = small_index()
    found = [
        SampleObjects(index.boxes[:3], np.arange(3), np.arange(3)),
        SampleObjects(index.boxes[1:2], np.array([1]), np.arange(3)),  # two objects have vanished
        SampleObjects(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.int64)),
    ]
    figures = sample_statistics(index, found, (100, 200), (25, 50), KINDS, PenaltyOptions(kind="fixed", radius=2.5))
    assert figures["samples"] == 3 and figures["without_objects"] == 1
    assert figures["annotated"] == 6 and figures["vanished"] == 2
    assert figures["vanished_by_class"]["one"] == {"annotated": 4, "vanished": 1}
    assert figures["vanished_by_size"]["small"] == {"annotated": 2, "vanished": 1}
    assert figures["width_in_cells"]["p0"] == 2.5 and figures["width_in_cells"]["p100"] == 49 / 4
    assert figures["height_in_cells"]["p100"] == 97 / 4 and figures["radius_in_cells"]["mean"] == 2.5
    # All three top-left corners of the first sample are in cell 0, 0; two of them are of one class
    assert figures["shared_cells"]["top_left"] == {"same_class": 2, "any_class": 3}
    assert figures["shared_cells"]["bottom_right"] == {"same_class": 0, "any_class": 0}
    text = describe(annotation_statistics(index), figures)
    assert "33.3% of 6 annotated objects" in text and "2 of the same class (50.0%), 3 of any class (75.0%)" in text
    without = sample_statistics(index, found, (100, 200), (25, 50), (), PenaltyOptions())
    assert "radius_in_cells" not in without and "keypoint" not in describe(annotation_statistics(index), without)


def test_data_sets_side_by_side():
    index = small_index()
    found = [SampleObjects(index.boxes[:3], np.arange(3), np.arange(3))]
    samples = sample_statistics(index, found, (100, 200), (25, 50), KINDS, PenaltyOptions(kind="fixed", radius=2))
    values = {"data_set": annotation_statistics(index), "samples": samples}
    without = {"data_set": values["data_set"], "samples": sample_statistics(index, [], (9, 9), (3, 3), (), None)}
    table = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in compare({"a": values, "b": without}).splitlines()
    ]
    assert table[0] == ["", "a", "b"] and all(len(row) == 3 for row in table)
    cells = {row[0]: row[1:] for row in table}
    assert cells["images / objects / classes"] == ["2 / 4 / 2"] * 2
    assert cells["small / medium / large"] == ["50.0% / 50.0% / 0.0%"] * 2
    assert cells["radius in cells: 5% / 25% / median / 75% / 95% / max"] == ["2 / 2 / 2 / 2 / 2 / 2", "-"]
    assert cells["share a top-left cell with one of their class"] == ["66.7%", "-"]
    assert cells["width in cells: 5% / median / 95%"] == ["3.5 / 12.0 / 12.2", "- / - / -"]


def test_the_table_of_the_data_sets_is_of_the_stored_statistics(repository, capsys):
    files = sorted((repository / "docs" / "results" / "data_sets").glob("*.json"))
    assert main([str(file) for file in files]) == 0
    assert capsys.readouterr().out in (repository / "docs" / "results.md").read_text()
    assert main([str(repository / "pyproject.toml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_without_objects():
    index = small_index().take([1])
    found = [SampleObjects(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.int64))]
    figures = sample_statistics(index, found, (100, 200), (25, 50), KINDS, PenaltyOptions())
    assert figures["width_in_cells"]["mean"] is None
    assert "-" in describe(annotation_statistics(index), figures)
    assert set(distribution([]).values()) == {None}


@pytest.mark.parametrize(
    "augment", [AugmentOptions(border=20), AugmentOptions(crop=False, fit_scales=(0.5, 2), turns=True), None]
)
def test_objects_are_those_of_the_samples(toy, augment):
    index = load_index(toy / "annotations" / "instances_train.json", toy / "train")
    samples = TrainingSet(index, (64, 80), augment, seed=3)
    for epoch in (0, 1):
        for i in range(len(index)):
            found, sample = sample_objects(samples, (epoch, i)), samples[epoch, i].sample
            assert np.array_equal(found.boxes, sample.boxes)
            assert np.array_equal(index.labels[found.rows], sample.labels)
            assert set(found.rows) <= set(found.annotated) <= set(range(index.first[i], index.first[i + 1]))
