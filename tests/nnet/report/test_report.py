"""The page about runs, as files and in Chromium, and the table of differences."""

import json
import re
from dataclasses import replace

import cv2
import pytest

import configs
import test as test_script
from db import load_split
from nnet.report import __main__ as report
from nnet.report import compare
from nnet.report.gallery import count_errors, write_pictures
from nnet.report.runs import load_run
from tests.builders import make_results, save_detector, write_run
from tests.nnet.report.browser import started_browser

TINY = "test: {embedding_distance: 9}\n"
IMAGES = 4


@pytest.fixture(scope="module")
def index(config):
    return load_split(configs.load(config).data, "val")


@pytest.fixture(scope="module")
def saved(config, index, tmp_path_factory):
    """A checkpoint of random weights, in a folder with a log of its training."""
    folder = tmp_path_factory.mktemp("training")
    save_detector(folder / "last.pt", configs.load(config), [list(index.category_ids), list(index.category_names)])
    rows = [{"iteration": n, "loss": 5 - n / 10, "focal": 4 - n / 10, "val_AP": n / 10} for n in range(5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "last.pt"


@pytest.fixture(scope="module")
def runs(config, saved, index, tmp_path_factory):
    """Two finished runs. The first has the folder of a run of the CornerNet paper."""
    folders = [tmp_path_factory.mktemp("runs") / name for name in ("cornernet_hg104/val", "other/val")]
    own = configs.load(config)
    return [write_run(path, own, saved, index, make_results(index, n)) for n, path in enumerate(folders)]


@pytest.fixture(scope="module")
def pages(runs):
    """The page about the first run, and the one about both."""
    assert report.main([str(runs[0])]) == 0
    assert report.main([*map(str, runs), "--resamples", "20", "--heatmaps", "0"]) == 0
    return runs[0] / "report" / "index.html", runs[0] / "report_other" / "index.html"


@pytest.fixture(scope="module")
def browser():
    with started_browser() as browser:
        yield browser


def rows_of(text, title):
    """The cells of the rows of a section's table, by their first cell."""
    section = text[text.index(f"<h2>{title}</h2>") :].partition("</section>")[0]
    rows = re.findall(r"<tr[^>]*>(<td.*?)</tr>", section)
    cells = [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<td.*?</td>", row)] for row in rows]
    return {row[0]: row[1:] for row in cells}


def test_the_page_holds_the_figures_of_the_run(pages, runs):
    text, run = pages[0].read_text(), load_run(runs[0])
    figures = rows_of(text, "Average precision")
    ap = 100 * run.evaluation["AP"]
    assert figures["AP"][:3] == [f"{ap:.1f}", "40.6", f"{ap - 40.6:+.1f}"]  # Table 5
    assert figures["AR1"][:3] == [f"{100 * run.evaluation['AR1']:.1f}", "", ""]
    assert set(rows_of(text, "Classes")) == set(run.index.category_names)
    errors = rows_of(text, "Errors")
    assert {"classification", "missed", "wrong pairing", "wrong corner"} <= set(errors)
    assert int(errors["missed"][0]) >= 0 and len(errors) == 9
    assert text.count("<svg") >= 6 and "validation AP" in text and "training loss" in text
    assert not re.search(r"(src|href|url)[=(]\W*(https?:|//)", text)  # nothing is fetched
    folder = pages[0].parent
    assert len(list(folder.glob("images/*.jpg"))) == IMAGES
    heatmaps = list(folder.glob("heatmaps/*_top_left.jpg"))
    assert len(heatmaps) == IMAGES and cv2.imread(str(heatmaps[0])).shape[0] > 50


def test_the_page_of_two_runs_has_their_differences(pages):
    text = pages[1].read_text()
    value = rows_of(text, "Differences")["AP"]
    assert f"{float(value[1]) - float(value[0]):.1f}"[:-1] == value[2].lstrip("+")[:-1] and " to " in value[3]
    assert len(rows_of(text, "Classes")["ring"]) == 11 and not (pages[1].parent / "heatmaps").exists()


def shown(run, score, kinds):
    """The number of boxes of these kinds with at least this score."""
    return sum(d.kind in kinds and d.score >= score for d in run.judged)


def boxes(browser, kind):
    return browser.count(f"#cards rect.{kind}")


def test_slider_switches_and_layers_change_what_is_shown(browser, pages, runs):
    run = load_run(runs[0])
    browser.open(pages[0])
    browser.ask("document.getElementById('cards').scrollIntoView()")  # pictures load as one scrolls
    browser.wait_for("[...document.images].length >= 4 && [...document.images].every((i) => i.naturalWidth > 0)")
    assert browser.messages() == [] and browser.count(".card") == IMAGES
    kinds = ("true_positive", "classification", "localisation", "both", "duplicate", "background")
    for score in (0.3, 0.6, 0.05):
        browser.set("#threshold", score)
        for kind in kinds:
            assert boxes(browser, kind) == shown(run, score, [kind]), (score, kind)
        assert boxes(browser, "missed") == len(run.index.boxes) - shown(run, score, ["true_positive"])
        assert boxes(browser, "objects") == shown(run, score, ["true_positive"])
    browser.click("[data-kind=background]")
    assert boxes(browser, "background") == 0 < shown(run, 0.05, ["background"])
    assert boxes(browser, "true_positive") == shown(run, 0.05, ["true_positive"])
    browser.click("[data-kind=background]")
    assert boxes(browser, "background") == shown(run, 0.05, ["background"])
    assert browser.count("img.heat") == 0
    browser.set("#layer", "top_left")
    browser.wait_for("[...document.querySelectorAll('img.heat')].filter((i) => i.naturalWidth > 0).length === 4")
    browser.set("#layer", "")
    assert browser.count("img.heat") == 0 and browser.messages() == []


def test_order_tables_and_choice_of_the_run(browser, pages, runs):
    first, second = map(load_run, runs)
    browser.open(pages[1])
    assert browser.ask("document.querySelector('.card').image") == int(count_errors(first).argmax())
    browser.set("#order", "data")
    assert browser.ask("[...document.querySelectorAll('.card')].map((card) => card.image)") == list(range(IMAGES))
    browser.set("#order", "lost")
    change = count_errors(second) - count_errors(first)
    assert browser.ask("document.querySelector('.card').image") == int(change.argmax())
    assert boxes(browser, "true_positive") == shown(first, 0.3, ["true_positive"])
    browser.set("#run", 1)
    assert boxes(browser, "true_positive") == shown(second, 0.3, ["true_positive"])
    heading = "document.querySelectorAll('table.sortable')[2].tHead.rows[0].cells[1]"
    column = "[...document.querySelectorAll('table.sortable')[2].tBodies[0].rows].map((r) => r.cells[1].textContent)"
    for descending in (True, False):
        browser.ask(f"{heading}.click()")
        texts = browser.ask(column)
        values = [float(text) for text in texts if text]
        assert values == sorted(values, reverse=descending) and len(set(values)) > 1
        assert not any(texts[len(values) :])  # classes without objects are the last
    assert browser.messages() == []


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_fits_the_window_in_both_colour_schemes(browser, pages, width):
    inks = set()
    for scheme in ("light", "dark"):
        for page in pages:
            browser.open(page, width, scheme=scheme)
            assert browser.ask("document.documentElement.scrollWidth") <= width
            inks.add((scheme, browser.ask("getComputedStyle(document.querySelector('svg text')).fill")))
            assert browser.messages() == []
    assert len({ink for _, ink in inks}) == len(inks) == 2


def test_test_py_writes_the_page_and_the_table_of_classes(config, saved, tmp_path, capsys):
    arguments = [config, "--checkpoint", str(saved), "--output", str(tmp_path), "--report"]
    assert test_script.main([*arguments, "--analyses", "tide", "confusion", "data.val.limit=2"]) == 0
    printed, metrics = capsys.readouterr().out, json.loads((tmp_path / "metrics.json").read_text())
    assert f"report: {tmp_path / 'report' / 'index.html'}" in printed
    assert re.search(r"class +AP +AP50 +precision +recall", printed)
    assert set(metrics["by_class"]) == set(metrics["confusion"]["classes"]) and "missed" in metrics["TIDE"]
    assert '"images":[["images/' in (tmp_path / "report" / "index.html").read_text()
    run = load_run(tmp_path)  # what test.py leaves can be read again
    assert run.evaluation["AP"] == metrics["AP"] and len(run.index) == 2


def test_compare_prints_differences_and_intervals(runs, capsys):
    arguments = [*map(str, runs), "--resamples", "30"]
    assert compare.main(arguments) == 0
    text = capsys.readouterr().out
    lines = {line.split("  ")[0].strip(): line.split() for line in text.splitlines() if "  " in line}
    first, second = (100 * load_run(folder).evaluation["AP50"] for folder in runs)
    assert lines["AP50"][1:4] == [f"{first:.1f}", f"{second:.1f}", f"{second - first:+.1f}"]
    low, high = float(lines["AP50"][4]), float(lines["AP50"][6])
    assert low <= high and "AP ring" in lines and "FD5" in lines
    assert compare.main(arguments) == 0 and capsys.readouterr().out == text  # seeded
    assert compare.main([*arguments, "--seed", "1"]) == 0 and capsys.readouterr().out != text


def refused(capsys, main, *arguments):
    """Run a command, which has to end with one clear line; returns that line."""
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_bad_input(runs, config, saved, index, tmp_path, capsys):
    first, second = runs
    assert "no metrics.json there: name a folder" in refused(capsys, report.main, tmp_path / "none")
    assert f"did you mean {first}?" in refused(capsys, compare.main, first.parent, second)
    assert "name two different runs" in refused(capsys, compare.main, first, first)
    broken = write_run(tmp_path / "broken", configs.load(config), saved, index, [])
    (broken / "results.json").write_text("[{")
    assert f"{broken / 'results.json'}: not valid JSON" in refused(capsys, report.main, broken)
    (broken / "results.json").write_text('[{"image_id": 1}]')
    assert f"{broken / 'results.json'}: not COCO results" in refused(capsys, report.main, broken)
    (broken / "results.json").unlink()
    assert "cannot be read" in refused(capsys, report.main, broken)
    (broken / "metrics.json").write_text('{"split": "val"}')
    assert "lacks config, checkpoint: run test.py again" in refused(capsys, report.main, broken)
    (tmp_path / "file").touch()
    assert "name another with --output" in refused(capsys, report.main, first, "--output", tmp_path / "file")
    assert load_run(first).index.num_classes == index.num_classes
    for arguments in ([first, second, first], [first, "--heatmaps", "-1"], [first, "--resamples", "0"], []):
        with pytest.raises(SystemExit):
            report.main([str(argument) for argument in arguments])


def test_runs_on_other_data_are_not_compared(runs, config, saved, index, tmp_path, capsys):
    part = index.take([0, 1])
    other = write_run(tmp_path / "part", configs.load(config), saved, part, make_results(part, 0))
    metrics = json.loads((other / "metrics.json").read_text())
    metrics["config"]["data"]["val"]["limit"] = 2
    (other / "metrics.json").write_text(json.dumps(metrics))
    assert "tested on different annotations (4 and 2 images)" in refused(capsys, compare.main, runs[0], other)


def test_without_the_checkpoint_there_are_no_heatmaps(config, index, tmp_path, capsys):
    folder = write_run(tmp_path / "run", configs.load(config), tmp_path / "gone.pt", index, make_results(index, 0))
    (tmp_path / "page").mkdir()
    assert report.main([str(folder), "--output", str(tmp_path / "page")]) == 0
    assert f"no heatmaps: there is no {tmp_path / 'gone.pt'} any more" in capsys.readouterr().out
    assert not (tmp_path / "page" / "heatmaps").exists()


def test_an_image_that_cannot_be_read_has_no_picture(pages, runs, tmp_path):
    run = load_run(runs[0])
    assert json.loads(re.search(r'id="data">(.*?)</script>', pages[0].read_text())[1])["images"][0][0]
    names = run.index.names.copy()
    names[0] = b"\xff.jpg"  # not UTF-8
    images = write_pictures(replace(run, index=replace(run.index, names=names)), tmp_path)
    assert [bool(file) for file, *_ in images] == [False, True, True, True]
    assert images[0][1] == "?.jpg"
