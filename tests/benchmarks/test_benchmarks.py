"""`python -m benchmarks`: its output, its exit codes, and that both sides of each comparison compute the same."""

import json

import cv2
import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import data, detection, loader, losses, neighbour, network, pipeline, pools, training
from benchmarks.measure import AT_LEAST, Row, Setting, Spread, limit_row, race, times_row
from db import load_index, read_image
from external.corner_pool import pool
from external.focal_loss import focal_loss
from external.soft_nms import soft_nms, soft_nms_merge
from models.corner_pooling import PoolSum
from models.decode import decode_corners
from models.keypoints import KINDS
from nnet.detection.detector import Detector
from nnet.families.options import DetectionOptions
from nnet.training.step import Objective
from sample.augment import AugmentOptions
from sample.batch import collate, pack
from sample.dataset import TrainingSet

SMALL = Setting(small=True)
CPU = [name for name, benchmark in command.BENCHMARKS.items() if "cpu" in benchmark.devices and not benchmark.full]


def fixed(ratio: float, target: float | None = 1.0, **more):
    """A benchmark that reports a given ratio."""
    times = {"ours": [ratio, ratio], "base": [1.0, 1.0]}
    return command.Benchmark("", lambda setting: iter([times_row(setting, "fixed", "a", times, "b", target, **more)]))


def test_lists_names(capsys):
    assert command.main(["--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == list(command.BENCHMARKS)


def test_unknown_name_is_one_line(capsys):
    assert command.main(["soft_mns"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "'soft_mns'" in error and "soft_nms" in error


def test_no_gpu_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(["pool_forward", "--device", "cuda"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no GPU" in error


def test_benchmark_of_another_device_is_rejected(capsys):
    assert command.main(["step_parts"]) == 2
    assert "step_parts runs only on cuda" in capsys.readouterr().err


def test_full_adds_slow_benchmarks():
    assert list(command.choose([], "cpu", False)) == CPU
    assert set(command.choose([], "cpu", True)) - set(CPU) == {"test_path", "lite", "training_step"}
    assert list(command.choose(["test_path"], "cpu", False)) == ["test_path"]


@pytest.mark.parametrize(("ratio", "code"), [(0.9, 0), (1.0, 0), (1.1, 1)])
def test_missed_target_sets_exit_code(ratio, code, monkeypatch, capsys):
    monkeypatch.setattr(command, "BENCHMARKS", {"fixed": fixed(ratio), "free": fixed(9, target=None)})
    assert command.main([]) == code
    out, err = capsys.readouterr()
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| fixed")]
    assert [row[6] for row in rows] == ["**no**" if code else "yes", ""]
    assert ("missed: fixed, a: 1.1, target 1" in err) == bool(code)


def test_target_that_is_a_lower_bound():
    ours, base, ratio = (Spread.of([x]) for x in (50.0, 49.0, 50 / 49))
    row = Row("largest", "a", "images", ours, "paper", base, ratio, 1.0, at_least=True)
    assert row.met and ">= 1" in row.cells()


@pytest.mark.slow
def test_runs_all_small_and_writes_json(tmp_path, capsys):
    path = tmp_path / "figures.json"
    assert command.main([*CPU, "--small", "--threads", "1", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    found = json.loads(path.read_text())
    assert {row["benchmark"] for row in found["rows"]} == set(CPU)
    assert out.count("\n| ") == len(found["rows"]) + 1  # the rows and the separator line of the header
    assert {"cpu", "threads", "torch"} <= set(found["machine"])
    assert str(tmp_path) not in path.read_text()
    first = found["rows"][0]
    assert (first["benchmark"], first["case"], first["against"]) == ("pool_forward", "top, contiguous", "copy")
    assert set(first["ours"]) == {"median", "low", "high"} and first["met"] is None and first["target"] is None
    assert first["others"].keys() == {"torch.cummax"}
    assert all(row["ours"]["median"] >= 0 and row["base"]["median"] > 0 for row in found["rows"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_path", "lite", "training_step"])
def test_runs_small_hourglass(name):
    rows = list(command.BENCHMARKS[name].run(SMALL))
    assert len({row.case for row in rows}) == len(rows) >= 3
    assert all(row.ratio.median > 0 for row in rows)


def test_spread():
    assert Spread.of([3.0, 1.0, 2.0, 5.0, 4.0]) == (3.0, 2.0, 4.0)
    assert str(Spread.of([2.0])) == "2"


def test_ratio_is_the_median_over_rounds():
    times = {"ours": [1.0, 20.0, 3.0], "base": [2.0, 10.0, 2.0]}
    row = times_row(Setting(), "a", "b", times, "c", 1.0)
    assert row.ratio.median == 1.5 and row.met is False  # of 0.5, 2 and 1.5; the ratio of the medians is 1.5 as well
    times["ours"][2] = 1.0
    assert times_row(Setting(), "a", "b", times, "c", 1.0).ratio.median == 0.5


def test_race_alternates_between_works(monkeypatch):
    monkeypatch.setitem(AT_LEAST, "cpu", 0)
    called = []
    works = {name: lambda name=name: called.append(name) for name in "abc"}
    times = race(Setting(seconds=0), works, seldom="c", rounds=4)
    assert [len(times[name]) for name in "abc"] == [4, 4, 3]
    assert "".join(called[6:]) == "abc" + "ba" + "cab" + "abc"


def test_limit_row():
    assert limit_row(Setting(), "a", "b", "MB", 99, 100).met
    assert not limit_row(Setting(), "a", "b", "MB", 101, 100).met
    assert limit_row(SMALL, "a", "b", "MB", 101, 100).met is None


def test_cummax_pools_agree():
    x, y = torch.randn(2, 2, 3, 5, 7).unbind()
    for name in pools.SCANS:
        assert torch.equal(pools.cummax_pool(x, name), pool(x, name))
    for kind in ("center", "bottom_right"):
        directions = KINDS[kind].pools
        assert torch.equal(pools.CummaxPoolSum(*directions)(x, y), PoolSum(*directions)(x, y))


def test_peak_bytes_counts_live_tensors():
    x = torch.zeros(1000)

    def work():
        y = x + 1
        z = y + 1
        del y
        return z + 1

    assert 0 <= pools.peak_bytes(torch.device("cpu"), work) - 2 * x.nbytes < 64  # the constants 1 take a few bytes


def test_published_focal_loss_agrees():
    logits, target = losses.draw_maps(SMALL)
    values, gradients = [], []
    for loss in (losses.published_focal_loss, focal_loss):
        for truth in (target, target * 0.5):  # with positives and without
            values.append(loss(logits, truth))
            gradients.append(torch.autograd.grad(values[-1], logits)[0])
    torch.testing.assert_close(values[:2], values[2:])
    torch.testing.assert_close(gradients[:2], gradients[2:])


def test_published_decode_agrees():
    maps = [detection.draw_maps(SMALL, seed) for seed in (0, 1)]
    ours = decode_corners(*maps, 10)
    published = detection.published_decode(*maps, 10)
    valid = ours.scores > 0
    assert valid.any()
    for a, b in zip(ours, published, strict=True):
        torch.testing.assert_close(a[valid].double(), b[valid].double())


def test_published_suppression_agrees(tmp_path):
    published = detection.compile_published(tmp_path)
    if published is None:
        pytest.skip("no C compiler")
    boxes = detection.draw_boxes(2000)
    for merge, ours in ((False, soft_nms), (True, soft_nms_merge)):
        rows, kept = published(boxes, merge)
        found = ours(boxes)
        assert kept == found.kept.sum() < 2000
        np.testing.assert_allclose(rows[:kept], found.boxes[:kept], rtol=1e-3, atol=1e-3)


def test_drawn_photographs_are_of_cocos_size(tmp_path):
    index = data.draw_photographs(tmp_path, 3)
    files = [np.fromfile(index.path(i), np.uint8) for i in range(3)]
    assert 120e3 < np.mean([len(file) for file in files]) < 200e3
    for i in range(3):
        assert read_image(index.path(i), tuple(index.sizes[i])).std() > 20
    assert len(TrainingSet(index, (511, 511), AugmentOptions(), 0)[0, 1].sample.boxes)


def test_written_annotations_can_be_loaded(tmp_path):
    path, images = data.write_annotations(tmp_path, 30, 400)
    content = json.loads(path.read_text())
    index = load_index(path, images)
    assert (len(index), len(index.boxes), index.num_classes) == (30, 400, data.CATEGORIES)
    assert index.crowd.sum() == 4 == sum(isinstance(a["segmentation"], dict) for a in content["annotations"])
    numbers = [len(a["segmentation"][0]) for a in content["annotations"] if isinstance(a["segmentation"], list)]
    assert 38 < np.mean(numbers) < 52  # 45 on average in COCO


def test_published_objective_agrees():
    """The published step computes the same loss as ours, so that both sides of the timing do the same work."""
    torch.manual_seed(0)
    config = network.step_config(SMALL)
    own = network.family_of(SMALL)
    step, (batch,) = training.prepare(config, own)
    other = network.PublishedCornerNet(own)
    assert next(other.network.parameters()) is next(own.network.parameters())
    assert isinstance(step.objective, Objective)
    ours, published = step.objective(own.network.eval(), batch), Objective(other)(other.network.eval(), batch)
    torch.testing.assert_close(torch.stack(published), torch.stack(ours))


def test_convolutions_are_those_of_the_network(monkeypatch):
    own, images, count = network.family_of(SMALL).network.eval(), torch.randn(1, 3, 63, 63), []
    monkeypatch.setattr(torch.nn.Conv2d, "forward", lambda self, x: count.append(self.out_channels) or conv(self, x))
    run = network.convolutions(own, images, gradients=True)
    run()
    half = len(count) // 2
    assert sorted(count[:half]) == sorted(count[half:])


def conv(layer, x):
    return layer._conv_forward(x, layer.weight, layer.bias)


def test_index_is_not_copied_by_workers(tmp_path):
    index = load_index(*data.write_annotations(tmp_path, 50, 20_000))
    added = data.worker_memory(index)
    if added is None:
        pytest.skip("the system does not report a process's private memory")
    assert 0 <= added < 20e6


def test_published_detections_agree():
    """The detectors of the timing find the same boxes."""
    family = network.family_of(SMALL)
    image = np.random.default_rng(0).integers(0, 256, (63, 63, 3), dtype=np.uint8)
    network.settle_statistics(family.network, torch.randn(2, 3, 63, 63))
    options = DetectionOptions(embedding_distance=0.5, corners=20, pairs=50)
    families = family, network.PublishedCornerNet(family)
    ours, published = (Detector(own, options, (63, 63), torch.device("cpu"))(image) for own in families)
    assert len(ours.scores)
    for a, b in zip(ours, published, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_variants_are_options_of_the_step_and_of_the_machine():
    config = network.step_config(SMALL)
    chosen = training.with_variant(config, "channels_last+tf32")
    assert chosen.train.channels_last and chosen.runtime.tf32 and not chosen.train.compile
    assert training.with_variant(chosen, "float32") == config


@pytest.fixture
def photographs(tmp_path):
    """A few photographs in COCO's layout: the folder."""
    data.draw_photographs(tmp_path, 6)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "instances_train2017.json").rename(tmp_path / "annotations" / "instances_train2017.json")
    return tmp_path


def test_loader_speed(photographs, capsys):
    arguments = ["--data", str(photographs), "--workers", "0", "1", "--images", "10", "--repeats", "1"]
    assert loader.main(arguments) == 0
    out = capsys.readouterr().out
    assert "6 images of" in out and "| to shared memory |" in out and "through the pipe" in out
    assert [line.split()[1] for line in out.splitlines() if line.startswith(("| 0", "| 1"))] == ["0", "1"]


def test_packing_is_compared_with_collating(photographs, capsys, monkeypatch):
    used = []
    throughput = loader.throughput
    monkeypatch.setattr(loader, "throughput", lambda *a: used.append((type(a[0]), a[-1])) or throughput(*a))
    arguments = ["--data", str(photographs), "--workers", "1", "--images", "6", "--repeats", "2", "--collate"]
    assert loader.main([*arguments, "--side", "95", "--batch", "3"]) == 0
    assert used == [(kind, way) for kind in (TrainingSet, loader.Prepared) for way in (pack, collate, collate, pack)]
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 1 |")]
    assert ["whole loader" in rows[0], "transport alone" in rows[1], len(rows)] == [True, True, 2]


def test_prepared_samples_are_those_of_the_training_set(photographs):
    dataset = loader.training_set(load_index(*files_of(photographs)), (63, 63))
    prepared = loader.Prepared(dataset)
    assert len(prepared) == len(dataset) == 6
    first, second = collate(prepared.__getitems__([(4, 2), (7, 5)])), collate(dataset.__getitems__([(0, 2), (0, 5)]))
    assert torch.equal(first.images, second.images) and torch.equal(first.objects.boxes, second.objects.boxes)


def files_of(folder):
    return folder / "annotations" / "instances_train2017.json", folder / "train2017"


def test_given_images_are_used(tmp_path):
    index = data.draw_photographs(tmp_path, 5)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "instances_train2017.json").rename(tmp_path / "annotations" / "instances_train2017.json")
    assert cv2.imread(index.path(0)) is not None
    time, size = data.sample(Setting(small=True, data=tmp_path))
    assert time.against == "JPEG decode alone" and 0.7 < size.ours.median < 1


def test_the_test_path_with_and_without_workers(repository, capsys, monkeypatch):
    monkeypatch.setattr(pipeline, "LIMIT", 1.0)
    variants = ["--images", "3", "--rounds", "1", "--classes", "2", "--variants", "0:1", "1:1", "1:2"]
    assert pipeline.main([str(repository / "tests" / "tiny.yaml"), "test.mirror=false", *variants]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "workers, batch" in line]
    assert [row.split(" |")[0] for row in rows] == [f"| {w} workers, batch {b}" for w, b in ((0, 1), (1, 1), (1, 2))]


def test_a_neighbour_keeps_a_core_busy():
    with neighbour.neighbour():
        times = neighbour.measure(lambda: None, rounds=1, seconds=0.0)
    assert {name: len(found) for name, found in times.items()} == {"quiet": 1, "beside": 1}
    assert neighbour.environment("default").keys().isdisjoint({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"})
    assert neighbour.environment("passive")["OMP_WAIT_POLICY"] == "PASSIVE"
    assert neighbour.environment("50")["GOMP_SPINCOUNT"] == "50"
    row = {"work": "decode", "variant": "50:2", "quiet": [1.0, 2.0, 3.0], "beside": [5.0]}
    assert neighbour.cells(row) == "| decode | 50:2 | 2 (1 to 3) | 5 (5 to 5) | 2.50 |"
