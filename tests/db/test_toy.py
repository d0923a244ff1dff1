import hashlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from db import DataError, load_index, toy

IMAGES = 120
BOXES = [
    [[59.0, 47.0, 108.0, 110.0], [68.0, 78.0, 57.0, 58.0], [150.0, 54.0, 21.0, 20.0]],
    [[31.0, 71.0, 82.0, 58.0], [14.0, 2.0, 28.0, 25.0]],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "data"
    assert toy.draw_toy(folder, seed=3, images=IMAGES)
    return folder


def index_of(folder, split):
    return load_index([folder / f"annotations/instances_{split}.json"], [folder / split])


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)).hexdigest()


def test_split_and_sizes(folder):
    train, val = index_of(folder, "train"), index_of(folder, "val")
    assert len(train) == IMAGES * 4 // 5 and len(train) + len(val) == IMAGES
    assert not set(train.image_ids) & set(val.image_ids)
    assert train.category_names == val.category_names == toy.CLASSES and len(toy.CLASSES) >= 6
    assert len(index_of(folder, "train").take([0])) == 1
    both = load_index(
        [folder / f"annotations/instances_{s}.json" for s in ("train", "val")], [folder / s for s in ("train", "val")]
    )
    assert len(both) == IMAGES
    assert (both.sizes >= 191 * 3 // 4).all() and (both.sizes <= 191).all() and len(np.unique(both.sizes)) > 20
    for i in range(0, IMAGES, 10):
        assert cv2.imread(both.path(i)).shape == (*both.sizes[i], 3)


def test_objects(folder):
    index = index_of(folder, "train")
    counts = np.diff(index.first)
    assert counts.min() >= 1 and counts.max() <= toy.MOST_OBJECTS
    assert len(np.unique(index.labels)) == len(toy.CLASSES) and not index.crowd.any()
    repeated = [len(labels) > len(set(labels)) for labels in (index.annotations(i)[1] for i in range(len(index)))]
    assert np.mean(repeated) > 0.3
    sides = index.boxes[:, 2:] - index.boxes[:, :2]
    areas = sides.prod(axis=1)
    shares = [np.mean(areas < 32**2), np.mean((areas >= 32**2) & (areas <= 96**2)), np.mean(areas > 96**2)]
    assert shares == pytest.approx([0.3, 0.5, 0.2], abs=0.12)
    assert sides.min() >= 10
    sizes = np.repeat(index.sizes[:, ::-1], counts, axis=0)
    assert (index.boxes[:, :2] >= 0).all() and (index.boxes[:, 2:] <= sizes).all()


@pytest.mark.parametrize("kind", toy.CLASSES)
def test_boxes_are_tight_and_their_corners_empty(kind):
    rng = np.random.default_rng(0)
    for side in (17, 20, 40, 120):
        for _ in range(20):
            polygon = toy._outline(rng, kind, side) + (3.3, 2.8)
            assert np.ptp(polygon, axis=0).prod() == pytest.approx(side**2)
            mask = toy._rasterise(polygon, 260, 260) >= 0.5
            columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
            bounds = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            assert np.abs(bounds - [*polygon.min(axis=0), *polygon.max(axis=0)]).max() < 3  # thin tips fall below half
            assert not mask[np.ix_(rows[[0, -1]], columns[[0, -1]])].any()


def test_boxes_bound_the_drawn_pixels(folder):
    content = json.loads((folder / "annotations/instances_train.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for entry in content["annotations"]:
        polygon = np.array(entry["segmentation"][0]).reshape(-1, 2)
        mask = toy._rasterise(polygon, *sizes[entry["image_id"]]) >= 0.5
        x, y, w, h = (int(v) for v in entry["bbox"])
        # the polygon is stored to 2 decimals: a pixel covered by exactly half may go either way
        outside = mask.sum() - mask[y : y + h, x : x + w].sum()
        assert outside <= 2 and entry["area"] == w * h


def test_same_seed_same_bytes(folder, tmp_path):
    assert toy.draw_toy(tmp_path / "again", seed=3, images=IMAGES)
    assert digest(tmp_path / "again") == digest(folder)
    assert toy.draw_toy(tmp_path / "other", seed=4, images=10)
    assert toy.draw_toy(tmp_path / "same", seed=3, images=10)
    first = [(tmp_path / name / "train/000001.jpg").read_bytes() for name in ("other", "same", "again")]
    assert first[0] != first[1] == first[2]  # an image depends on the seed and its id, not on how many there are


def test_folder_in_use(folder, tmp_path, monkeypatch):
    before = digest(folder)
    assert not toy.draw_toy(folder, seed=3, images=IMAGES) and digest(folder) == before
    with pytest.raises(DataError, match="holds toy data drawn with other settings.*Remove it, or choose another"):
        toy.draw_toy(folder, seed=5, images=IMAGES)
    (tmp_path / "mine").mkdir()
    assert toy.draw_toy(tmp_path / "mine", images=5)  # an empty folder is taken over
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(DataError, match="photos: holds something that is not toy data"):
        toy.draw_toy(tmp_path / "photos")
    for arguments in ({"images": 4}, {"size": 20}, {"seed": -1}):
        with pytest.raises(DataError, match="at least 5 images of at least 64 pixels"):
            toy.draw_toy(tmp_path / "new", **arguments)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(toy, "draw_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        toy.draw_toy(tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "photos"]


def test_the_data_stays_as_it_is():
    """The boxes of the first images of `make demo`, as the first version of the data has them."""
    boxes = [[item["bbox"] for item in toy.draw_image(np.random.default_rng([0, i]), 191)[1]] for i in (1, 2)]
    assert boxes == BOXES


def test_the_wide_set(tmp_path):
    for name in ("one", "other"):
        toy.draw_toy(tmp_path / name, seed=1, images=30, size=511, look=toy.WIDE, crowded=0.5)
    assert digest(tmp_path / "one") == digest(tmp_path / "other")
    index = index_of(tmp_path / "one", "train")
    sides = np.sqrt((index.boxes[:, 2:] - index.boxes[:, :2]).prod(axis=1))
    assert (index.sizes == 511).all() and sides.min() < 12 and 250 < sides.max() <= 400
    touching = [touching_neighbours(*index.annotations(i)) for i in range(len(index))]
    assert 6 <= sum(count >= 3 for count in touching) <= 18  # of 24 images
    assert not toy.draw_toy(tmp_path / "one", seed=1, images=30, size=511, look=toy.WIDE, crowded=0.5)
    for arguments in ({"look": toy.WIDE}, {"look": toy.WIDE, "crowded": 0.4}, {"crowded": 0.5}):
        with pytest.raises(DataError, match="holds toy data drawn with other settings"):
            toy.draw_toy(tmp_path / "one", seed=1, images=30, size=511, **arguments)
    with pytest.raises(DataError, match="share of 1.5 crowded images"):
        toy.draw_toy(tmp_path / "new", crowded=1.5)


def touching_neighbours(boxes, labels):
    """How many objects have a neighbour of their class to the right, at most a tenth of their width away."""
    count = 0
    for box, label in zip(boxes, labels, strict=True):
        near = np.abs(boxes[:, 0] - box[2]) <= 0.1 * (box[2] - box[0]) + 1
        level = np.minimum(boxes[:, 3], box[3]) - np.maximum(boxes[:, 1], box[1]) > 0.5 * (box[3] - box[1])
        count += (near & level & (labels == label)).any()
    return count


def test_small_images(tmp_path):
    toy.draw_toy(tmp_path / "small", images=10, size=toy.SMALLEST_IMAGE)
    assert len(index_of(tmp_path / "small", "val").boxes)


def test_command_line(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "db.toy", "--output", str(tmp_path / "toy"), *arguments]
        return subprocess.run(command, cwd=Path(toy.__file__).parents[1], capture_output=True, text=True)

    assert "drawn: 5 images" in run("--images", "5").stdout
    assert "already there" in run("--images", "5").stdout
    bad = run("--images", "6")
    assert bad.returncode == 2 and bad.stderr.startswith("error: ") and bad.stderr.count("\n") == 1
