"""From finished runs to tables, and which runs are finished runs of a study."""

import json
import math
import shutil
from dataclasses import replace

import pytest

import configs
from configs.study import load_study
from db import DataError, load_split
from nnet.report.compare import compare
from nnet.report.runs import load_run
from nnet.runtime.console import progress_bar
from nnet.studies import statistics, summary
from nnet.studies.plan import Study
from nnet.studies.results import Results
from nnet.studies.summary import summarise, thinned, training_seconds
from nnet.studies.tables import write_results
from tests.builders import make_results, write_run

TINY = "train: {iterations: 4, lr_drops: [], batch: [2, 3]}\n"
STUDY = """
base: {base}
seeds: [1, 2]
variants:
  one: {{}}
  two: {{train: {{lr: 1e-5}}}}
figures: [AP, AP50, APl, FD, AP_per_class.ring]
"""
ROWS = [{"iteration": n, "loss": 5 - n, "images_per_second": 10.0} for n in (1, 2, 4)] + [
    {"iteration": 4, "val_loss": 3, "val_AP": 0.25}
]


@pytest.fixture(scope="module")
def study(config, tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "small.yaml"
    path.write_text(STUDY.format(base=config))
    return load_study(path)


@pytest.fixture(scope="module")
def finished(study, tmp_path_factory):
    """The folder of the study with all runs, and with a summary of each."""
    output = tmp_path_factory.mktemp("finished") / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "RESAMPLES", 200)
        for n, pair in enumerate(study.pairs(output)):
            config = configs.from_dict(pair.variant.testing | {"seed": pair.seed})
            index = load_split(config.data, "val")
            write_run(pair.folder, config, pair.folder / "last.pt", index, make_results(index, n))
            (pair.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        assert summarise(study.pairs(output), progress_bar) == []
    return output


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWS", 4000)
    monkeypatch.setattr(summary, "RESAMPLES", 200)


@pytest.fixture
def output(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "study")


def results(study, output):
    return Results(study, study.pairs(output))


def read(folder, name="metrics.json"):
    return json.loads((folder / name).read_text())


def test_means_and_differences(study, finished):
    """One value by hand, and the interval over images against the comparison of two runs."""
    found = results(study, finished).as_dict()
    aps = {name: [read(finished / name / f"seed{n}")["AP"] for n in (1, 2)] for name in ("one", "two")}
    assert found["variants"]["one"]["AP"]["mean"] == pytest.approx(sum(aps["one"]) / 2)
    deviation = abs(aps["one"][0] - aps["one"][1]) / math.sqrt(2)
    assert found["variants"]["one"]["AP"]["deviation"] == pytest.approx(deviation)
    difference = found["variants"]["two"]["AP"]["difference"]
    assert difference["mean"] == pytest.approx((sum(aps["two"]) - sum(aps["one"])) / 2)
    assert difference["both"][0] < difference["images"][0] < difference["images"][1] < difference["both"][1]
    assert "difference" not in found["variants"]["one"]["AP"] and found["runs"][1] == ["two", 1]


def test_the_interval_over_images_of_one_seed_is_that_of_the_comparison_of_two_runs(study, finished, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(finished / name / "seed2", tmp_path / name / "seed2")
    difference = results(study, tmp_path).as_dict()["variants"]["two"]
    expected = compare(*(load_run(tmp_path / name / "seed2") for name in ("one", "two")), 200, 0).figures
    for name in ("AP", "AP50", "FD"):
        bounds = difference[name]["difference"]["images"]
        assert bounds == pytest.approx([expected[name].low, expected[name].high], abs=2e-4), name
        assert difference[name]["difference"]["both"] == [None, None]  # one seed


def test_the_small_files_give_the_same_tables(study, finished, tmp_path):
    """metrics.json and study.json, without detections, log and data."""
    for pair in study.pairs(finished):
        kept = tmp_path / pair.folder.relative_to(finished)
        kept.mkdir(parents=True)
        for name in ("metrics.json", "study.json"):
            shutil.copy(pair.folder / name, kept)
        assert (pair.folder / "study.json").stat().st_size < 50_000
    assert summarise(study.pairs(tmp_path), progress_bar) == []
    assert results(study, tmp_path).as_dict() == results(study, finished).as_dict()


def test_metrics_alone_give_no_interval_over_images(study, output):
    for path in [*output.glob("*/*/study.json"), *output.glob("*/*/results.json")]:
        path.unlink()
    problems = summarise(study.pairs(output), progress_bar)
    assert len(problems) == 4 and "results.json: cannot be read" in problems[0]
    found = results(study, output).as_dict()["variants"]["two"]
    assert found["AP"]["difference"]["images"] == [None, None] and found["AP"]["difference"]["both"][0] is not None
    assert found["training_seconds"] == {}
    text = write_results(results(study, output), output, "ablate.py")
    assert "over test images and seeds" in text.replace("\n", " ") and "test images alone" not in text


def test_columns_that_were_added_are_computed(study, output):
    """Those that cannot be, without detections, have no interval over images; the others keep theirs."""
    more = Study(study.path, replace(study.options, figures=("AP", "AR100")), study.variants, ())
    for path in output.glob("two/*/results.json"):
        path.unlink()
    assert len(summarise(more.pairs(output), progress_bar)) == 2
    found = results(more, output)
    assert found.measured["one"]["AR100"][1].resampled is not None and found.curves["loss"]["two"].keys() == {1, 2}
    assert math.isnan(found.change("two", "AR100").images[0]) and not math.isnan(found.change("two", "AP").images[0])


def test_the_page(study, finished, output):
    text = write_results(results(study, output), output, "python ablate.py small.yaml")
    found = results(study, output)
    spread, change = found.spread("two", "AP"), found.change("two", "AP")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| two")]
    assert len(rows) == 3
    cell = f"{100 * spread.mean:.1f} ± {100 * spread.deviation:.1f}"
    assert rows[0][:3] == ["two", "2", cell] and rows[0][-2:] == ["2 ± 0", "0.2500 ± 0.0000"]
    for row, (low, high) in zip(rows[1:], (change.both, change.images), strict=True):
        assert row[1].startswith(f"{100 * change.mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})")
    folders = [f"{output.as_posix()}/{name}/seed1" for name in ("one", "two")]
    assert f"`python -m nnet.report {' '.join(folders)}`" in text
    assert (output / "table.md").read_text() == text and (output / "curves.png").stat().st_size > 10_000
    assert read(output, "table.json") == found.as_dict()


def test_runs_that_are_missing_are_named(study, output):
    shutil.rmtree(output / "two" / "seed2")
    text = write_results(results(study, output), output, "ablate.py")
    assert "Not finished: two, seed 2." in text
    found = results(study, output)
    assert found.change("two", "AP").seeds == 1 and found.spread("one", "AP").values.keys() == {1, 2}


def test_a_run_on_other_annotations_is_not_compared_by_image(study, output):
    path = output / "two" / "seed1" / "study.json"
    path.write_text(path.read_text().replace('"images": "', '"images": "other'))
    found = results(study, output).change("two", "AP")
    assert math.isnan(found.images[0]) and not math.isnan(found.both[0])


@pytest.mark.parametrize(
    "change",
    [{"iteration": 3}, {"split": "train"}, {"truth": ["centers"]}, {"AP": None, "config": None}, "train", "test"],
    ids=str,
)
def test_results_of_something_else_do_not_count(study, output, change):
    path, pair = output / "one" / "seed1" / "metrics.json", study.pairs(output)[0]
    metrics = read(path.parent)
    if isinstance(change, str):
        option = {"train": "lr", "test": "nms_sigma"}[change]
        metrics["config"][change][option] *= 2
    assert pair.metrics()
    path.write_text(json.dumps(metrics | (change if isinstance(change, dict) else {})))
    assert pair.metrics() is None


def test_options_that_change_no_figure_may_differ(study, output):
    path, pair = output / "one" / "seed1" / "metrics.json", study.pairs(output)[0]
    metrics = read(path.parent)
    metrics["config"]["runtime"] |= {"threads": 7, "device": "cuda"}
    metrics["config"]["data"]["root"] = "elsewhere"
    path.write_text(json.dumps(metrics))
    assert pair.metrics() == metrics


def test_a_folder_with_another_training_is_refused(study, tmp_path):
    pair = study.pairs(tmp_path)[1]
    pair.check()
    pair.folder.mkdir(parents=True)
    config = configs.from_dict(pair.variant.training | {"seed": pair.seed})
    path = pair.folder / "config.yaml"
    path.write_text(configs.dump(config).replace("nms_sigma: 0.5", "nms_sigma: 0.7"))
    pair.check()  # training does not read it
    path.write_text(configs.dump(config).replace("lr: 1.0e-05", "lr: 1.0e-03"))
    with pytest.raises(DataError, match=r"other options than the study's \(train.lr: 0.001 -> 1e-05\): remove it, or"):
        pair.check()


def test_missing_data_is_named(study, toy, tmp_path):
    study.check_data()
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(base=study.variants[0].config) + "options: {data: {val: {images: [vall]}}}\n")
    with pytest.raises(DataError, match=f"variant one: data.val: there is no {toy}/vall"):
        load_study(path).check_data()


def test_seconds_of_training_and_curves():
    assert training_seconds(ROWS, 5) == 4 * 5 / 10
    assert training_seconds([], 5) is None and training_seconds(ROWS[3:], 5) is None
    assert thinned(ROWS, "val_AP") == [[4.0], [0.25]] and thinned([], "loss") == [[], []]
    many = [{"iteration": n, "loss": float(n)} for n in range(1, 1001)]
    x, y = thinned(many, "loss")
    assert len(x) == 100 and x[0] == y[0] == 5.5 and x[-1] == 995.5
