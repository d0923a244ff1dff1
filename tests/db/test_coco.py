import json
import pickle

import numpy as np
import pytest

from db import DataError, load_index

ARRAYS = ("image_ids", "sizes", "first", "boxes", "extents", "areas", "labels", "crowd")


def small(folder, images=2):
    """A valid annotation file's content and its image files: two boxes on the first image, one on the last."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "images": [{"id": 10 * k, "file_name": f"{k}.jpg", "height": 40, "width": 60} for k in range(images, 0, -1)],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 9, "bbox": [1, 2, 3, 4.5]},
            {"id": 2, "image_id": 10, "category_id": 4, "bbox": [5, 6, 7, 8], "iscrowd": 1, "area": 5},
            {"id": 3, "image_id": 10 * images, "category_id": 9, "bbox": [0, 0, 60, 0]},
        ],
        "categories": [{"id": 9, "name": "nine"}, {"id": 4, "name": "four"}],
    }
    for entry in content["images"]:
        (folder / entry["file_name"]).touch()
    return content


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def load(tmp_path, content, **options):
    return load_index([write(tmp_path / "a.json", content)], [tmp_path / "images"], **options)


def test_reads_arrays_in_order(tmp_path):
    index = load(tmp_path, small(tmp_path / "images"))
    assert len(index) == 2 and index.num_classes == 2
    assert index.category_ids == (4, 9) and index.category_names == ("four", "nine")
    assert index.image_ids.tolist() == [10, 20] and index.sizes.tolist() == [[40, 60], [40, 60]]
    assert index.path(0) == str(tmp_path / "images" / "1.jpg")
    assert index.first.tolist() == [0, 2, 3]
    boxes, labels = index.annotations(0)  # by category, although the file has them the other way round
    assert boxes.tolist() == [[5, 6, 12, 14], [1, 2, 4, 6.5]] and labels.tolist() == [0, 1]
    assert index.crowd.tolist() == [True, False, False]
    assert index.annotations(1)[0].tolist() == [[0, 0, 60, 0]]  # a box of zero size stays
    assert index.extents.tolist() == [[7, 8], [3, 4.5], [60, 0]] and index.areas.tolist() == [5, 13.5, 0]
    assert index.sources == (str(tmp_path / "a.json"),)
    objects, whole_arrays = index.objects(0), (index.boxes, index.labels, index.crowd)
    assert objects.boxes.tolist() == boxes.tolist() and objects.labels.tolist() == [0, 1]
    assert objects.crowd.tolist() == [True, False]
    assert all(np.shares_memory(view, whole) for view, whole in zip(objects, whole_arrays, strict=True))
    dtypes = {name: getattr(index, name).dtype for name in ARRAYS}
    assert dtypes == {"image_ids": np.int64, "sizes": np.int32, "first": np.int64, "boxes": np.float64} | {
        "extents": np.float64,
        "areas": np.float64,
        "labels": np.int64,
        "crowd": np.bool_,
    }


def test_order_within_category_is_the_files(tmp_path):
    content = small(tmp_path / "images")
    content["annotations"] = [
        {"id": 100 - k, "image_id": 10, "category_id": (4, 9)[k % 2], "bbox": [k, 0, 1, 1]} for k in range(40)
    ]
    boxes, labels = load(tmp_path, content).annotations(0)
    assert boxes[:, 0].tolist() == [*range(0, 40, 2), *range(1, 40, 2)]
    assert labels.tolist() == [0] * 20 + [1] * 20


def test_take_and_limit(tmp_path):
    index = load(tmp_path, small(tmp_path / "images", images=4))
    part = index.take([3, 0])
    assert part.image_ids.tolist() == [10, 40] and part.first.tolist() == [0, 2, 3]
    assert part.annotations(1)[0].tolist() == index.annotations(3)[0].tolist()
    assert part.path(1) == index.path(3)
    assert len(index.limit(0)) == 4 and len(index.limit(9)) == 4 and index.limit(2).image_ids.tolist() == [10, 20]
    assert len(index.take([])) == 0
    assert pickle.loads(pickle.dumps(part)).path(0) == index.path(0)


def test_take_keeps_rows_together(tmp_path):
    content = small(tmp_path / "images", images=4)
    whole = load(tmp_path, content)
    last = whole.take([3])
    for name in ("boxes", "extents", "areas", "labels", "crowd"):
        assert getattr(last, name).tolist() == getattr(whole, name)[2:].tolist(), name
    assert load(tmp_path, content, limit=1).areas.tolist() == [5, 13.5]


def test_memory_for_train2017(tmp_path):
    """Under 100 MB for the 118,287 images and 860,001 boxes of train2017."""
    index = load(tmp_path, small(tmp_path / "images", images=4))
    per_image, per_box = len("000000000000.jpg") + index.first.itemsize, 0
    for name, array in vars(index).items():
        if isinstance(array, np.ndarray) and name not in ("names", "first"):
            assert len(array) in (len(index), len(index.boxes)), name
            per_image += array[0].nbytes * (len(array) == len(index))
            per_box += array[0].nbytes * (len(array) == len(index.boxes))
    assert 118_287 * per_image + 860_001 * per_box < 100e6


def test_limit_needs_only_its_images(tmp_path):
    content = small(tmp_path / "images", images=4)
    (tmp_path / "images" / "4.jpg").unlink()
    assert load(tmp_path, content, limit=3).image_ids.tolist() == [10, 20, 30]
    with pytest.raises(DataError, match="1 of the 4 images"):
        load(tmp_path, content)


def test_sub_folders_and_names_beyond_ascii(tmp_path):
    content = small(tmp_path / "images")
    for k, name in enumerate(("a/b/ü 1.jpg", "c/日本.png")):
        content["images"][k]["file_name"] = name
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    index = load(tmp_path, content)
    assert {index.path(0), index.path(1)} == {str(tmp_path / "images" / n) for n in ("a/b/ü 1.jpg", "c/日本.png")}


def test_layout_of_2014(tmp_path):
    # trainval35k: train2014 and a part of val2014, two annotation files whose images are in two folders
    files = []
    for split, ids in (("train2014", (7, 3)), ("valminusminival2014", (5,))):
        names = {i: f"COCO_{split[:3].replace('tra', 'train')}2014_{i:012d}.jpg" for i in ids}
        for name in names.values():
            folder = tmp_path / name.split("_")[1]
            folder.mkdir(exist_ok=True)
            (folder / name).touch()
        content = {
            "images": [{"id": i, "file_name": names[i], "height": 9, "width": 9} for i in ids],
            "annotations": [{"id": 1, "image_id": i, "category_id": 1, "bbox": [i, 0, 1, 1]} for i in ids[:1]],
            "categories": [{"id": 1, "name": "one"}],
        }
        files.append(write(tmp_path / f"instances_{split}.json", content))
    index = load_index(files, [tmp_path / "train2014", tmp_path / "val2014"])
    assert index.image_ids.tolist() == [3, 5, 7]
    assert [index.path(i).split("/")[-2] for i in range(3)] == ["train2014", "val2014", "train2014"]
    assert [index.annotations(i)[0][:, 0].tolist() for i in range(3)] == [[], [5], [7]]


def test_same_image_or_other_categories_in_two_files(tmp_path):
    content = small(tmp_path / "images")
    one, two = write(tmp_path / "one.json", content), write(tmp_path / "two.json", content)
    with pytest.raises(DataError, match=r"one\.json and .*two\.json: image id 10 occurs twice.*2 such cases"):
        load_index([one, two], [tmp_path / "images"])
    content["categories"][0]["name"] = "other"
    with pytest.raises(DataError, match=r"two\.json: its categories differ from those of .*one\.json"):
        load_index([one, write(two, content)], [tmp_path / "images"])


def test_image_info_without_boxes(tmp_path):
    content = small(tmp_path / "images")
    del content["annotations"]
    with pytest.raises(DataError, match="`annotations` is missing at the top level.*image_info"):
        load(tmp_path, content)
    index = load(tmp_path, content, require_boxes=False)
    assert len(index) == 2 and index.boxes.shape == (0, 4) and index.annotations(1)[1].shape == (0,)


def changed(table, i, **values):
    def change(content):
        for key, value in values.items():
            if value is KeyError:
                del content[table][i][key]
            else:
                content[table][i][key] = value

    return change


def replaced(table, value):
    return lambda content: content.update({table: value})


BAD = {
    "no images field": (lambda c: c.pop("images"), r"`images` is missing at the top level"),
    "no categories field": (lambda c: c.pop("categories"), r"`categories` is missing at the top level"),
    "images no list": (replaced("images", {}), r"`images` must be a list, and is a dict"),
    "no images at all": (replaced("images", []), r"`images` is empty"),
    "no categories at all": (replaced("categories", []), r"`categories` is empty"),
    "image no object": (replaced("images", [3]), r"images\[0\] must be an object, and is 3"),
    "annotation no object": (replaced("annotations", [None]), r"annotations\[0\] must be an object"),
    "no image id": (changed("images", 1, id=KeyError), r"images\[1\]\.id is missing \(file_name '1\.jpg'\)"),
    "image id text": (changed("images", 1, id="1"), r"images\[1\]\.id must be a whole number, and is '1'"),
    "image id huge": (changed("images", 1, id=2**70), r"images\[1\]\.id is .*too large"),
    "no file name": (changed("images", 0, file_name=KeyError), r"images\[0\]\.file_name is missing"),
    "no height": (changed("images", 0, height=KeyError), r"images\[0\]\.height is missing"),
    "width null": (changed("images", 0, width=None), r"images\[0\]\.width must be a whole number, and is None"),
    "width zero": (changed("images", 0, width=0), r"images\[0\] \(id 20, 2\.jpg\): height 40, width 0"),
    "no category name": (changed("categories", 0, name=KeyError), r"categories\[0\]\.name is missing \(id 9\)"),
    "duplicate images": (changed("images", 0, id=10), r"image id 10 occurs twice in `images`"),
    "duplicate categories": (changed("categories", 0, id=4), r"category id 4 occurs twice in `categories`"),
    "duplicate annotations": (changed("annotations", 0, id=3), r"annotation id 3 occurs twice in `annotations`"),
    "no bbox": (changed("annotations", 2, bbox=KeyError), r"annotations\[2\]\.bbox is missing \(id 3, image_id 20\)"),
    "bbox null": (changed("annotations", 2, bbox=None), r"annotations\[2\]\.bbox must be a list, and is None"),
    "bbox of 3": (
        changed("annotations", 1, bbox=[1, 2, 3]),
        r"annotations\[1\]\.bbox is \[1, 2, 3\]; it must be 4 num",
    ),
    "bbox text": (changed("annotations", 1, bbox=[1, 2, 3, "4"]), r"annotations\[1\]\.bbox .* must be 4 numbers"),
    "bbox NaN": (changed("annotations", 1, bbox=[1, float("nan"), 3, 4]), r"annotations\[1\]\.bbox .* holds NaN"),
    "bbox infinite": (changed("annotations", 1, bbox=[1, 2, float("inf"), 4]), r"annotations\[1\]\.bbox .*infinity"),
    "bbox negative": (changed("annotations", 1, bbox=[9, 9, -3, 4]), r"annotations\[1\]\.bbox .*negative .*\(id 2,"),
    "unknown image": (changed("annotations", 1, image_id=11), r"annotations\[1\]\.image_id is 11, which is not the id"),
    "unknown category": (changed("annotations", 1, category_id=99), r"annotations\[1\]\.category_id is 99, which is"),
    "no category id": (changed("annotations", 1, category_id=KeyError), r"annotations\[1\]\.category_id is missing"),
    "area NaN": (
        changed("annotations", 1, area=float("nan")),
        r"annotations\[1\]\.area is nan; it must be a finite number",
    ),
    "area infinite": (
        changed("annotations", 1, area=float("inf")),
        r"annotations\[1\]\.area is inf; it must be a finite",
    ),
    "area huge": (
        changed("annotations", 1, area=10**400),
        r"annotations\[1\]\.area is 1000.*it must be a finite number",
    ),
    "area negative": (
        changed("annotations", 2, area=-1),
        r"annotations\[2\]\.area is -1; .* \(id 3, .*1 such areas in all",
    ),
    "area text": (changed("annotations", 1, area="5"), r"annotations\[1\]\.area is '5'; it must be a finite number"),
    "area list": (changed("annotations", 1, area=[5]), r"annotations\[1\]\.area is \[5\]; it must be a finite number"),
    "bbox huge": (changed("annotations", 1, bbox=[1, 2, 10**400, 4]), r"annotations\[1\]\.bbox .*infinity"),
    "iscrowd": (changed("annotations", 1, iscrowd="no"), r"annotations\[1\]\.iscrowd is 'no'; it must be 0 or 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_content(tmp_path, case):
    change, message = BAD[case]
    content = small(tmp_path / "images")
    change(content)
    with pytest.raises(DataError, match=rf"a\.json: .*{message}"):
        load(tmp_path, content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [\n  1, }', r"a\.json: not JSON: .* at line 2, column 6"),
        ("", r"a\.json: not JSON: .* at line 1, column 1"),
        ("[" * 100_000, r"a\.json: not JSON"),
        ("[1]", r"a\.json: not COCO: a JSON list"),
    ],
)
def test_not_json(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        load(tmp_path, text)


def test_files_and_folders_missing(tmp_path):
    content = small(tmp_path / "images", images=8)
    with pytest.raises(DataError, match=r"none\.json: no such annotation file"):
        load_index([tmp_path / "none.json"], [tmp_path / "images"])
    with pytest.raises(DataError, match="images: cannot be read"):
        load_index([tmp_path / "images"], [tmp_path / "images"])
    (tmp_path / "binary.json").write_bytes(b"\x89PNG\xff\xff")
    with pytest.raises(DataError, match=r"binary\.json: not JSON"):
        load_index([tmp_path / "binary.json"], [tmp_path / "images"])
    file = write(tmp_path / "a.json", content)
    with pytest.raises(DataError, match=r"nowhere: no such image folder.*a\.json"):
        load_index([file], [tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: empty, where 8 images"):
        load_index([file], [tmp_path / "empty"])
    for k in range(2, 9):
        (tmp_path / "images" / f"{k}.jpg").unlink()
    with pytest.raises(
        DataError, match=r"7 of the 8 images .* are missing: 2\.jpg, 3\.jpg, 4\.jpg, 5\.jpg, 6\.jpg, \.\.\."
    ):
        load_index([file], [tmp_path / "images"])
    for files, folders in (([], [tmp_path]), ([file], [])):
        with pytest.raises(DataError, match="Name at least one"):
            load_index(files, folders)


def test_image_in_two_folders(tmp_path):
    content = small(tmp_path / "images")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "1.jpg").touch()
    file = write(tmp_path / "a.json", content)
    with pytest.raises(DataError, match=r"1\.jpg: in .*images as well as in .*more"):
        load_index([file], [tmp_path / "images", tmp_path / "more"])
    assert len(load_index(file, [tmp_path / "images", tmp_path / "images"])) == 2  # naming a folder twice is no harm


def test_area_missing_or_null_is_the_boxes(tmp_path):
    content = small(tmp_path / "images")
    content["annotations"][1]["area"] = None
    content["annotations"][2]["area"] = 7
    assert load(tmp_path, content).areas.tolist() == [56, 13.5, 7]


def test_bccd(shared_data):
    index = load_index([shared_data / "bccd/annotations/instances_train.json"], [shared_data / "bccd/train"])
    assert set(index.category_names) == {"RBC", "WBC", "Platelets"} and index.first[-1] == len(index.boxes) > 0


def test_coco_tiny(shared_data):
    files = [shared_data / f"coco_tiny/annotations/instances_{split}.json" for split in ("train2017", "val2017")]
    folders = [shared_data / "coco_tiny" / split for split in ("train2017", "val2017")]
    index = load_index(files, folders)
    assert len(index) == 160 and index.num_classes == 80 and index.category_ids[-1] == 90
    assert sorted(set(np.diff(index.image_ids) > 0)) == [True]
    for i in range(len(index)):
        labels = index.annotations(i)[1]
        assert (np.diff(labels) >= 0).all()


def test_golden_box_order(goldens, shared_data):
    # The cells of the targets' top-left corners give the order in which the released code met the boxes.
    spec = json.loads((goldens / "targets_cornernet.json").read_text())
    golden = np.load(goldens / "targets_cornernet.npz")
    split = shared_data / "coco_tiny" / spec["split"]
    index = load_index([split.parent / "annotations" / f"instances_{spec['split']}.json"], [split])
    position = {index.path(i).rsplit("/", 1)[-1]: i for i in range(len(index))}
    side, cells = 511, 128
    for k, name in enumerate(spec["files"]):
        i = position[name]
        boxes, _ = index.annotations(i)
        size = index.sizes[i]
        border = size.max() // 2 - size // 2
        corner = ((boxes[:, :2] + border[::-1]) * side / size.max()).clip(0, side - 1)
        x, y = np.floor(corner * cells / side).astype(np.int64).T
        assert (y * cells + x).tolist() == golden["tl_ind"][k][golden["mask"][k] > 0].tolist()


def test_polygons_are_skipped_without_harm(tmp_path):
    content = small(tmp_path / "images")
    name = 'a "segmentation": [1].jpg'
    content["images"][1]["file_name"] = name
    (tmp_path / "images" / name).touch()
    content["annotations"][0]["segmentation"] = [[1, 2.5, -3e-1], [4]]
    content["annotations"][1] = {"segmentation": {"counts": [1, 2], "size": [40, 60]}, **content["annotations"][1]}
    index = load(tmp_path, content)
    assert index.path(0).endswith(name) and len(index.boxes) == 3
    with pytest.raises(DataError, match="at line 3, column"):
        load(tmp_path, '{"annotations": [{"segmentation": [\n[1, 2],\n[3]]}, }')
