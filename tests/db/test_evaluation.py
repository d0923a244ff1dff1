import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from db import FIGURES, DataError, evaluate, false_discovery, load_index


def write_truth(tmp_path, name="a.json", first_image=1, **fields):
    """Two images of 200 x 200 with one 100 x 100 box of category 4 each; category 9 has no object."""
    content = {
        "images": [{"id": first_image + k, "file_name": f"{k}.jpg", "height": 200, "width": 200} for k in range(2)],
        "annotations": [
            {"id": k, "image_id": first_image + k, "category_id": 4, "bbox": [10, 10, 100, 100], **fields}
            for k in range(2)
        ],
        "categories": [{"id": 9, "name": "nine"}, {"id": 4, "name": "four"}],
    }
    for k in range(2):
        (tmp_path / f"{k}.jpg").touch()
    (tmp_path / name).write_text(json.dumps(content))
    return tmp_path / name


def truth(tmp_path, **fields):
    """The index of `write_truth`."""
    return load_index(write_truth(tmp_path, **fields), tmp_path)


def found(image_id, bbox, score=0.9, category_id=4):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


def test_categories_of_one_name_keep_their_own_figures(tmp_path):
    index = replace(truth(tmp_path), category_names=("same", "same"))
    figures = evaluate(index, [found(1, [10, 10, 100, 100]), found(2, [10, 10, 100, 100])])
    assert figures.per_class == {"same (id 4)": pytest.approx(1), "same (id 9)": None}


def test_perfect(tmp_path, capsys):
    # ids 0 and 1: pycocotools by itself would take the match with annotation 0 for none
    figures = evaluate(truth(tmp_path), [found(1, [10, 10, 100, 100]), found(2, [10, 10, 100, 100])])
    assert tuple(figures) == FIGURES
    assert figures["AP"] == pytest.approx(1) and figures["APl"] == pytest.approx(1) and figures["AR1"] == 1
    assert figures["APs"] is None and figures["ARm"] is None  # there are none
    assert figures.per_class == {"four": pytest.approx(1), "nine": None}
    assert figures.table.count("\n") == 11 and capsys.readouterr().out == ""
    json.dumps(figures, allow_nan=False)


def test_by_hand(tmp_path):
    # One of two objects found, at IoU 80 / 100: AP is 51 / 101 (recalls 0 to 0.5) up to threshold 0.8, 0 above.
    results = [found(1, [10, 10, 80, 100])]
    figures = evaluate(truth(tmp_path), results)
    assert figures["AP50"] == figures["AP75"] == pytest.approx(51 / 101)
    assert figures["AP"] == pytest.approx(7 / 10 * 51 / 101)
    assert figures["AR100"] == pytest.approx(7 / 10 / 2)
    assert figures.by_iou[0.8] == pytest.approx(51 / 101) and figures.by_iou[0.85] == 0
    # A false positive with a higher score: precision 1/2 at every recall reached.
    assert evaluate(truth(tmp_path), [*results, found(2, [150, 150, 9, 9], 0.95)])["AP50"] == pytest.approx(51 / 202)


def test_iou_thresholds(tmp_path):
    figures = evaluate(truth(tmp_path), [found(1, [10, 10, 30, 100])], iou_thresholds=[0.1, 0.3, 0.5])
    assert figures.by_iou == {0.1: pytest.approx(51 / 101), 0.3: pytest.approx(51 / 101), 0.5: 0}
    assert figures["AP"] == pytest.approx(2 / 3 * 51 / 101) and figures["AP50"] == 0 and figures["AP75"] is None


def test_subset_and_several_files(tmp_path):
    files = [write_truth(tmp_path), write_truth(tmp_path, "b.json", first_image=11)]  # the same annotation ids in both
    index = load_index(files, tmp_path)
    results = [found(1, [10, 10, 100, 100]), found(12, [10, 10, 100, 100])]
    assert evaluate(index, results)["AR100"] == 0.5
    assert evaluate(index, results, image_ids=[12, 1, 12])["AR100"] == 1
    assert evaluate(index, results, image_ids=[2])["AP"] == 0


def test_no_results(tmp_path):
    figures = evaluate(truth(tmp_path), [])
    assert figures["AP"] == figures["AR100"] == 0 and figures["APs"] is None


def test_area_of_the_file_counts(tmp_path):
    results = [found(1, [10, 10, 100, 100]), found(2, [10, 10, 100, 100])]
    assert evaluate(truth(tmp_path, area=500.0), results)["APl"] is None
    assert evaluate(truth(tmp_path, area=None), results)["APl"] == pytest.approx(1)


def test_crowds_neither_count_nor_punish(tmp_path):
    figures = evaluate(truth(tmp_path, iscrowd=1), [found(1, [20, 20, 10, 10])])
    assert figures["AP"] is None


def test_false_discovery_by_hand(tmp_path):
    """One image: a large object (100 x 100) found at IoU 0.32, a small one (10 x 10) missed, a small false box."""
    path = write_truth(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][1] |= {"image_id": 1, "bbox": [150, 150, 10, 10]}
    path.write_text(json.dumps(content))
    index = load_index(path, tmp_path)
    right, wrong = found(1, [10, 10, 32, 100], 0.9), found(1, [180, 20, 10, 10], 0.8)
    rates = false_discovery(index, [right, wrong], image_ids=[1])
    assert tuple(rates) == ("FD", "FD5", "FD25", "FD50", "FDs", "FDm", "FDl")
    half = 51 / 101  # AP where one of two objects is found before any false box: recalls 0 to 0.5
    assert rates["FD5"] == rates["FD25"] == pytest.approx(1 - half) and rates["FD50"] == 1
    assert rates["FD"] == pytest.approx(1 - 6 / 10 * half)  # found at 0.05 to 0.30, six of the ten thresholds
    assert rates["FDl"] == pytest.approx(4 / 10)  # the false box is too small to count here
    assert rates["FDs"] == 1 and rates["FDm"] is None
    # The false box before the right one: precision 1/2 at recalls 0 to 0.5; large objects are as before.
    rates = false_discovery(index, [right, wrong | {"score": 0.95}], image_ids=[1])
    assert rates["FD5"] == pytest.approx(1 - half / 2) and rates["FDl"] == pytest.approx(4 / 10)


def test_false_discovery_at_the_ends(tmp_path):
    index = truth(tmp_path)
    perfect = false_discovery(index, [found(1, [10, 10, 100, 100]), found(2, [10, 10, 100, 100])])
    assert perfect["FD"] == perfect["FDl"] == pytest.approx(0) and perfect["FDs"] is None
    assert false_discovery(index, [])["FD"] == 1
    assert set(false_discovery(truth(tmp_path, iscrowd=1), []).values()) == {None}


def test_annotation_file_is_read_once(tmp_path):
    path, results = write_truth(tmp_path), [found(1, [10, 10, 80, 100])]
    index = load_index(path, tmp_path)
    path.unlink()
    first, rates, part = evaluate(index, results), false_discovery(index, results), evaluate(index, results, [2])
    assert evaluate(index, results) == first  # no evaluation changes the index
    assert false_discovery(index, results) == rates and evaluate(index, results, [2]) == part
    with pytest.raises(DataError, match=r"image 3 .* is not in .*a\.json"):
        false_discovery(index, [found(3, [0, 0, 1, 1])])


def test_part_of_an_index(tmp_path):
    index, results = truth(tmp_path), [found(2, [10, 10, 100, 100])]
    assert evaluate(index.take([1]), results) == evaluate(index, results, [2])
    with pytest.raises(DataError, match=r"image 2 .* is not in the index of .*a\.json"):
        evaluate(index.limit(1), results)


def test_errors(tmp_path):
    index = truth(tmp_path)
    with pytest.raises(DataError, match=r"results\[0\]: image 3 .* is not in .*a\.json"):
        evaluate(index, [found(3, [0, 0, 1, 1])])
    with pytest.raises(DataError, match=r"results\[0\]: .* category 5 is not in"):
        evaluate(index, [found(1, [0, 0, 1, 1], category_id=5)])
    with pytest.raises(DataError, match=r"image ids \[77\] are not in"):
        evaluate(index, [], image_ids=[1, 77])
    with pytest.raises(DataError, match="no image"):
        evaluate(index, [], image_ids=[])
    with pytest.raises(DataError, match=r"\[0\]\.bbox is"):
        evaluate(index, [found(1, [0, 0, 1])])
    with pytest.raises(DataError, match="is not in the index. "):
        evaluate(replace(index, sources=()), [found(3, [0, 0, 1, 1])])


def perturbed(rng, annotations, category_ids):
    """Detections around annotated boxes, some with an IoU that is exactly a threshold, some of a wrong category."""
    results = []
    for entry in annotations:
        for _ in range(rng.integers(3)):
            x, y, w, h = entry["bbox"]
            if rng.random() < 0.3:
                bbox = [x, y, w * rng.choice([0.5, 0.75, 0.95, 1.0]), h]
            else:
                bbox = [x + w * rng.normal(0, 0.1), y + h * rng.normal(0, 0.1), w * rng.uniform(0.7, 1.4), h]
            category_id = entry["category_id"] if rng.random() < 0.9 else rng.choice(category_ids)
            results.append(found(entry["image_id"], [float(v) for v in bbox], float(rng.random()), int(category_id)))
    return results


@pytest.mark.parametrize("changed", [False, True])
def test_figures_are_those_of_pycocotools(tmp_path, shared_data, changed):
    """COCOeval on the JSON file itself, with crowds, and for `changed` also with more crowds and areas left out."""
    rng = np.random.default_rng(0)
    folder = shared_data / "coco_tiny"
    plain = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    ours = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    assert any(entry["iscrowd"] for entry in plain["annotations"])
    if changed:
        for entry, our in zip(plain["annotations"], ours["annotations"], strict=True):
            entry["iscrowd"] = our["iscrowd"] = int(rng.random() < 0.2)
            if rng.random() < 0.5:
                entry["area"] = entry["bbox"][2] * entry["bbox"][3]
                del our["area"]
    for name, content in (("plain", plain), ("ours", ours)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    results = perturbed(rng, plain["annotations"], [category["id"] for category in plain["categories"]])

    truth = COCO(str(tmp_path / "plain.json"))
    expected = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), "bbox")
    expected.evaluate()
    expected.accumulate()
    expected.summarize()
    figures = evaluate(load_index(tmp_path / "ours.json", folder / "val2017"), results)
    assert list(figures.values()) == [None if value < 0 else value for value in expected.stats]
    assert 0.1 < figures["AP"] < 0.9


def test_golden_stats(goldens, shared_data):
    paths = sorted(goldens.glob("post_*.json"))
    assert paths
    for path in paths:
        golden = json.loads(path.read_text())
        file = shared_data / "coco_tiny" / "annotations" / f"instances_{golden['split']}.json"
        ids = {image["file_name"]: image["id"] for image in json.loads(file.read_text())["images"]}
        index = load_index(file, shared_data / "coco_tiny" / golden["split"])
        figures = evaluate(index, golden["results"], [ids[name] for name in golden["files"]])
        expected = [None if value < 0 else pytest.approx(value, abs=1e-9) for value in golden["ap_stats"]]
        assert list(figures.values()) == expected, path.name
