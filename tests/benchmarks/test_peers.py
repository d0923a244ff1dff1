"""`python -m benchmarks.peers`: torchvision's detectors behind the interface of families, and the table of results."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch

import configs
from benchmarks.peers import __main__ as command
from benchmarks.peers import contest, tables
from benchmarks.peers.contest import DETECTORS, OWN, config_of, contender
from benchmarks.peers.models import DETECTIONS, LEVELS, PEERS, RATIOS, SETTINGS, Peer, anchors, detection_options, sides
from benchmarks.training import draw_batch
from db import load_split
from nnet.detection.detector import Detector
from nnet.families.options import DetectionOptions
from nnet.runtime.console import progress_bar
from nnet.runtime.distributed import Group
from nnet.runtime.errors import RunError
from sample.dataset import Batch, TrainingSet, Unreadable

ops = pytest.importorskip("torchvision.ops")

TINY = "train: {batch: [2], iterations: 10, lr_drops: [8], warmup: 2}\ntest: {mirror: true}\n"
SMALL = ["peer.width=64"]


def peer(name: str, config: str) -> contest.Contender:
    """A small peer and its update step."""
    return contender(
        name,
        config_of(name, config, ["data.input_size=[63,63]"], 0),
        6,
        command.settings_of(name, SMALL),
        Group(torch.device("cpu")),
    )


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_learns_from_a_batch(name, config):
    own = peer(name, config)
    batch = draw_batch(2, (63, 63), 6, np.random.default_rng(0))
    before = [parameter.clone() for parameter in own.update.network.parameters()]
    losses = [own.update([batch]).terms.item() for _ in range(3)]
    # Every parameter is trained: nothing is frozen, and nothing is without a gradient.
    assert not any(map(torch.equal, before, own.update.network.parameters()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_detects(name, config):
    found = peer(name, config).detector(np.full((60, 90, 3), 127, np.uint8))
    assert 0 < len(found.scores) <= DETECTIONS and set(found.labels) <= set(range(6))
    assert (found.boxes >= 0).all() and (found.boxes <= [90, 60, 90, 60]).all()


def coverage(side: int, finest: int, index) -> float:
    """The fraction of objects that have an anchor of RetinaNet with an IoU of at least 0.5, at an input size."""
    samples = TrainingSet(index, (side, side), None, 0)
    boxes = torch.cat([torch.from_numpy(samples[0, i].sample.boxes) for i in range(len(index))]).float()
    grid = anchors(sides((side, side), 3), RATIOS)
    grid.set_cell_anchors(torch.float32, torch.device("cpu"))
    strides = [finest * 2**level for level in range(LEVELS)]
    priors = torch.cat(grid.grid_anchors([[-(-side // s)] * 2 for s in strides], [(s, s) for s in strides]))
    return float((ops.box_iou(boxes, priors).amax(1) >= 0.5).float().mean())


def test_anchors_lie_as_densely_as_small_inputs_need(shared_data, repository):
    """With cells of 8 pixels, half of the objects would have no anchor at 127x127 (docs/peers.md)."""
    data = configs.load(repository / "configs" / "bccd.yaml", [f"data.root={shared_data / 'bccd'}"]).data
    index = load_split(data, "train").limit(20)
    finest = SETTINGS["retinanet"].finest
    assert coverage(127, finest, index) > 0.97 and coverage(255, finest, index) > 0.99
    assert 0.45 < coverage(127, 8, index) < 0.65


class Seer(torch.nn.Module):
    """In place of a network of torchvision: finds the white rectangle of each image three times."""

    def __init__(self):
        super().__init__()
        self.transform = torch.nn.Module()
        self.seen = []

    def forward(self, images):
        self.seen += [tuple(image.shape[-2:]) for image in images]
        found = []
        for image in images:
            y, x = torch.nonzero(image.mean(0) > 1, as_tuple=True)
            box = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
            scores, labels = torch.tensor([0.5, 0.375, 0.25]), torch.tensor([1, 1, 3])
            found.append({"boxes": box.repeat(3, 1), "labels": labels, "scores": scores})
        return found


@pytest.mark.parametrize(("resize", "canvas"), [("original", (127, 191)), ("fit", (95, 95))])
def test_boxes_come_back_to_the_image(resize, canvas):
    """A shifted and scaled rectangle is found where it is, and no detection of it is suppressed by another."""
    image = np.zeros((120, 180, 3), np.uint8)
    cv2.rectangle(image, (40, 30), (99, 79), (255, 255, 255), -1)
    family = Peer(Seer(), 3, 8, first_label=1)
    options = detection_options(DetectionOptions(resize=resize))
    found = Detector(family, options, (95, 95), torch.device("cpu"))(image)
    assert family.network.seen == [canvas]
    pixel = 180 / 95 if resize == "fit" else 0.01
    np.testing.assert_allclose(found.boxes, [[40, 30, 100, 80]] * 3, atol=pixel)
    assert (found.labels.tolist(), found.scores.tolist()) == ([0, 0, 2], [0.5, 0.375, 0.25])


def test_objects_are_given_to_their_images():
    batch = draw_batch(2, (95, 95), 4, np.random.default_rng(1))
    boxes = batch.objects.boxes.clone()
    boxes[0, 2] = boxes[0, 0] + 1e-9  # wide in float64, without width in float32
    truth = Peer(Seer(), 4, 8, first_label=1).truth(batch._replace(objects=batch.objects._replace(boxes=boxes)))
    kept = torch.cat([own["boxes"] for own in truth])
    assert torch.equal(kept, boxes[1:].float()) and [len(own["labels"]) for own in truth] == [6, 7]
    assert torch.equal(torch.cat([own["labels"] for own in truth]), batch.objects.labels[1:] + 1)


def test_own_detectors_take_the_sections_of_their_configs(config, repository):
    """The data is the config's; what a detector is comes from the toy config of its name."""
    for name in OWN:
        chosen = config_of(name, config, ["train.lr=5e-4"], 3)
        assert (chosen.data, chosen.train.lr, chosen.seed) == (configs.load(config).data, 5e-4, 3)
    toy = configs.load(repository / "configs" / "toy_centernet.yaml")
    center = config_of("centernet", config, [], 0)
    assert (center.model.detector, center.penalty, center.test.centers) == ("centernet", toy.penalty, toy.test.centers)
    squeeze = config_of("squeeze", config, [], 0)
    assert (squeeze.model.backbone.block, squeeze.model.backbone.stride, squeeze.test.mirror) == ("fire", 8, False)


@pytest.mark.parametrize("name", ["fcos", "cornernet"])
def test_the_average_of_the_weights_is_tested(name, config, monkeypatch):
    chosen = config_of(name, config, ["train.ema=0.9", "data.input_size=[63,63]"], 0)
    own = contender(name, chosen, 6, command.settings_of(name, SMALL), Group(torch.device("cpu")))
    tested, trained = own.detector.family.network, own.update.network
    before = [parameter.clone() for parameter in tested.parameters()]
    monkeypatch.setattr(contest, "perf_counter", iter(range(9)).__next__)  # a step ends the time
    batch = draw_batch(2, (63, 63), 6, np.random.default_rng(0))
    contest.train_until(1.0, 1.0, own, iter([batch]), contest.Clock(), None, progress_bar(disable=True))
    moved = [not torch.equal(a, b) for a, b in zip(before, tested.parameters(), strict=True)]
    apart = [not torch.equal(a, b) for a, b in zip(trained.parameters(), tested.parameters(), strict=True)]
    assert any(moved) and any(apart)


def test_an_unreadable_image_ends_the_comparison(config):
    batch = draw_batch(2, (63, 63), 6, np.random.default_rng(0))._replace(unreadable=[Unreadable("a.jpg", "cut short")])
    with pytest.raises(RunError, match="a.jpg: cut short: repair"):
        contest.train_until(1.0, 1.0, peer("fcos", config), iter([batch]), contest.Clock(), None, None)


def test_the_clock_of_processor_time_is_per_thread(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert [contest.Clock(kind, wall=9.0, cpu=6.0).seconds for kind in ("wall", "cpu")] == [9.0, 3.0]


def arguments(config: str, output: object, *more: str) -> list[str]:
    return [
        config,
        "--output",
        str(output),
        "--minutes",
        "0.001",
        "--points",
        "2",
        "data.input_size=[63,63]",
        *SMALL,
        *more,
    ]


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A folder with the results of a contest."""
    folder = tmp_path_factory.mktemp("contest") / "results"
    assert command.main(arguments(config, folder, "--detectors", "fcos", "cornernet", "--seeds", "0", "1")) == 0
    return folder


def test_all_detectors_see_the_same_batches_and_the_schedule_of_the_time(config, monkeypatch, tmp_path):
    seen, rates = [], []
    step = contest.UpdateStep.__call__
    monkeypatch.setattr(
        contest.UpdateStep, "set_learning_rate", lambda own, lr: rates.append(lr / own.optimizer.defaults["lr"])
    )

    def see(own, batches: list[Batch]):
        seen.append([part.clone() for batch in batches for part in (batch.images, batch.objects.boxes)])
        return step(own, batches)

    monkeypatch.setattr(contest.UpdateStep, "__call__", see)
    monkeypatch.setattr(contest, "perf_counter", iter(np.arange(0, 1000, 0.1875)).__next__)  # 0.375 s per step
    assert (
        command.main(arguments(config, tmp_path / "out", "--minutes", "0.0625", "--detectors", "fcos", "squeeze")) == 0
    )
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(first) == 10 and all(
        torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )
    np.testing.assert_allclose(rates[:10], [0.5] + [1] * 7 + [0.1] * 2)
    assert rates[10:] == rates[:10]


def test_results_are_kept_and_not_computed_again(finished, config, monkeypatch, capsys):
    result = json.loads((finished / "fcos_seed1.json").read_text())
    assert len(result["curve"]) == 2 and result["curve"][1]["AP"] == result["figures"]["AP"]
    assert result["training_seconds"] >= 0.06 and result["iterations"] >= 1 and result["gflop"] > 0
    assert result["settings"]["width"] == 64 and result["machine"]["torchvision"]
    monkeypatch.setattr(command, "compete", None)
    assert command.main(arguments(config, finished, "--detectors", "cornernet", "fcos", "--seeds", "1")) == 0
    assert capsys.readouterr().out.count("| 2 |") == 2  # the table is of the whole folder
    for more, named in (
        (["--minutes", "9"], "minutes (0.001, not 9.0)"),
        (["augment.mirror=0"], "overrides"),
        (["peer.lr=0.5"], "'lr': 0.5"),
    ):
        assert command.main(arguments(config, finished, "--detectors", "fcos", *more)) == 2
        error = capsys.readouterr().err
        assert named in error and "fcos_seed0.json" in error and error.count("\n") == 1


def test_the_table_is_made_from_stored_results(finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "copy")
    (folder / "curves.png").unlink()
    for seed, figure in ((0, 0.5), (1, 0.25)):
        path = folder / f"fcos_seed{seed}.json"
        result = json.loads(path.read_text())
        result["figures"] |= {"AP": figure, "APs": None}
        path.write_text(json.dumps(result))
    assert command.main(["--table", str(folder)]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| ", "| ---", "| FCOS", "| CornerNet"]
    fcos = dict(zip(rows[0], rows[2], strict=True))
    assert (fcos["seeds"], fcos["AP"], fcos["APs"]) == ("2", "37.5 (25.0 to 50.0)", "-")
    assert cv2.imread(str(folder / "curves.png")) is not None


def test_the_mean_curve():
    curves = [
        [{"seconds": 60.0, "AP": 0.1}, {"seconds": 120.0, "AP": None}],
        [{"seconds": 60.6, "AP": 0.2}, {"seconds": 120.0, "AP": 0.4}],
    ]
    minutes, values = tables.mean_curve([{"curve": curve} for curve in curves], "AP")
    np.testing.assert_allclose((minutes, values), ([0, 1.005, 2], [0, 15, 20]))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["peer.depth=50"], "there is no setting peer.depth; there are lr, optimizer"),
        (["peer.width=40"], "peer.width"),
        (["augment.zoom={}"], "augment.zoom"),
    ],
)
def test_bad_input_is_one_line(more, named, config, tmp_path, capsys):
    assert command.main(arguments(config, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_every_detector_has_a_title_and_every_peer_its_settings():
    assert set(DETECTORS) == set(tables.TITLES) and set(SETTINGS) == set(PEERS)
