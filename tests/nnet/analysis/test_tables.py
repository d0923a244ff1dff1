"""The papers' tables: the published figures, and runs compared with them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import configs
from configs import load, to_dict
from nnet.analysis import tables
from nnet.analysis.tables import Row, Table, command, read_tables

CONFIGS = Path(configs.__file__).parent
DATA = read_tables()
ROWS = [(name, row) for name, table in DATA.items() for row in table.rows]
FDS = ["FD", "FD5", "FD25", "FD50", "FDs", "FDm", "FDl"]


def write_run(runs: Path, run: str, **metrics) -> Path:
    path = runs / run / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(metrics))
    return path


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    monkeypatch.setattr(sys, "argv", ["nnet.analysis.tables", *map(str, arguments)])
    code = tables.main()
    return code, *capsys.readouterr()


def cells(text: str) -> list[list[str]]:
    """Rows of the first table in Markdown, without the line under its head."""
    lines = [line for line in text.split("\n\n")[1].splitlines() if line]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1 and set("".join(rows.pop(1))) == {"-"}
    return rows


@pytest.mark.parametrize("name, row", ROWS, ids=[f"{name}-{row.method}" for name, row in ROWS])
def test_every_row_has_its_config_and_a_value_per_figure(name, row):
    assert (CONFIGS / row.config.name).is_file()
    truths = ("val_truth_centers", "val_truth_heatmaps", "val_truth_heatmaps_offsets")
    assert row.run.count("/") == 1 and row.run.split("/")[1] in ("val", "test", *truths)
    assert len(row.published) == len(DATA[name].figures)
    assert all(value is None or 0 < value < 100 for value in row.published)


def test_published_figures_that_the_text_of_the_paper_repeats():
    """Differences that sections 4.2 to 4.6 name; and figures that several tables give are the same in all."""
    first = {name: {row.run: row.published for row in table.rows} for name, table in DATA.items()}
    truth = first["centernet.table5"]
    gains = """
        table2 centernet_hg52/test cornernet_2018_hg52/test 0 3.8
        table2 centernet_hg52_multiscale/test cornernet_2018_hg52_multiscale/test 0 4.1
        table2 centernet_hg104_multiscale/test cornernet_2018_hg104_multiscale/test 0 4.9
        table2 centernet_hg52/test cornernet_2018_hg52/test 3 5.5
        table2 centernet_hg52_multiscale/test cornernet_2018_hg52_multiscale/test 3 6.4
        table2 centernet_hg104_multiscale/test cornernet_2018_hg104_multiscale/test 3 8.1
        table2 centernet_hg104/test cornernet_2018_hg104/test 4 4.7
        table3 cornernet_2018_hg52/val centernet_hg52/val 4 9.5
        table3 cornernet_2018_hg104/val centernet_hg104/val 4 9.6
        table4 centernet_hg52_cascade/val centernet_hg52_corners/val 0 0.7
        table4 centernet_hg52_cascade/val centernet_hg52_corners/val 11 1.8
        table4 centernet_hg52_regions/val centernet_hg52_corners/val 3 4.6
        table4 centernet_hg52_regions_pooling/val centernet_hg52_regions/val 0 0.9
        table4 centernet_hg52/val centernet_hg52_regions_pooling/val 5 2.2
    """
    for table, better, worse, column, expected in map(str.split, gains.strip().splitlines()):
        rows = first[f"centernet.{table}"]
        # False discovery rates are better where they are lower.
        assert abs(rows[better][int(column)] - rows[worse][int(column)]) == pytest.approx(float(expected)), better
    for size, backbones in ((3, (15.5, 14.5)), (4, (16.5, 14.1)), (5, (14.5, 13.3))):
        for config, expected in zip(("centernet_hg52", "centernet_hg104"), backbones, strict=True):
            gain = truth[f"{config}/val_truth_centers"][size] - truth[f"{config}/val"][size]
            assert gain == pytest.approx(expected)

    values = {}
    for name, table in DATA.items():
        for row in table.rows:
            for figure, value in zip(table.figures, row.published, strict=True):
                place = name.split(".")[0], row.run, figure
                assert values.setdefault(place, value) == value, place


def test_differences_and_blank_rows(tmp_path, monkeypatch, capsys):
    ours = {"FD": 0.3449, "FD5": 0.3076, "FD25": 0.342, "FD50": 0.5, "FDs": None, "FDm": 0, "FDl": 1}
    write_run(tmp_path, "centernet_hg52/val", **ours, AP=0.1, split="val")
    code, out, err = run(monkeypatch, capsys, tmp_path, "--table", "centernet.table3")
    assert (code, err) == (0, "") and out.startswith("### Table 3: ")
    head, *rows = cells(out)
    assert head == ["method", "", *FDS, "command"] and len(rows) == 8
    assert rows[2] == ["CenterNet511-52", "published", "35.1", "30.7", "34.2", "40.8", "53.0", "31.3", "24.4", ""]
    # 0.3076 is shown as 30.8, and the difference is that of what is shown; null is nothing to measure
    figures = ["34.5 (-0.6)", "30.8 (+0.1)", "34.2 (+0.0)", "50.0 (+9.2)", "", "0.0 (-31.3)", "100.0 (+75.6)"]
    assert rows[3] == ["", "ours", *figures, "`test.py configs/centernet_hg52.yaml`"]
    for k, config in ((0, "cornernet_2018_hg52"), (4, "cornernet_2018_hg104"), (6, "centernet_hg104")):
        assert rows[k + 1] == ["", "ours", *[""] * 7, f"`test.py configs/{config}.yaml`"]


def test_seconds(tmp_path, monkeypatch, capsys):
    write_run(tmp_path, "centernet_hg52/val", seconds_per_image=0.0504)
    code, out, _ = run(monkeypatch, capsys, tmp_path, "--table", "centernet.speed")
    rows = cells(out)
    assert code == 0 and rows[0][2] == "seconds_per_image"
    assert [row[2] for row in rows[1:]] == ["0.300", "", "0.340", "", "0.270", "0.050 (-0.220)"]


def test_a_table_is_data_alone(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "table7:\n  title: Mine\n  figures: [AP, AP90]\n  rows:\n    - [ours | theirs, toy/val, [40.5, null]]\n"
    )
    mine = read_tables(tmp_path)
    assert mine == {"mine.table7": Table("Mine", ["AP", "AP90"], [Row("ours | theirs", "toy/val", [40.5, None])])}
    write_run(tmp_path, "toy/val", AP=0.41, AP90=0.234)
    text, problems = tables.markdown(mine["mine.table7"], tmp_path)
    assert problems == [] and r"| ours \| theirs | published |" in text
    assert "| 41.0 (+0.5) | 23.4 | `test.py configs/toy.yaml` |" in text


def test_command_names_what_made_the_figures():
    row = Row("", "centernet_hg52/val_truth_centers", [])
    assert command(row, {}) == "test.py configs/centernet_hg52.yaml --truth centers"
    config = to_dict(load(CONFIGS / "centernet_hg52.yaml"))
    metrics = {"checkpoint": "runs/a b/last.pt", "config": config}
    start = "test.py configs/centernet_hg52.yaml --checkpoint 'runs/a b/last.pt'"
    assert command(row, metrics) == f"{start} --truth centers"
    config["data"]["root"] = "elsewhere"
    config["data"]["val"]["limit"] = 500
    config["test"] |= {"corners": 40, "mirror": False, "nms": "linear", "no_longer": 1}
    overrides = "data.val.limit=500 test.mirror=false test.corners=40 test.nms=linear"
    assert command(row, metrics) == f"{start} --truth centers {overrides}"
    row = Row("", "cornernet_hg104_ablation/val_truth_heatmaps_offsets", [])
    assert command(row, {}) == "test.py configs/cornernet_hg104_ablation.yaml --truth heatmaps offsets"
    assert command(Row("", "toy/test", []), {"config": 3}) == "test.py configs/toy.yaml --split test"
    assert command(Row("", "no_such/val", []), metrics).startswith("test.py configs/no_such.yaml --checkpoint")


def test_command_of_a_run_of_an_older_version():
    run = to_dict(load(CONFIGS / "toy.yaml"))
    run["model"] |= run["model"].pop("backbone")
    for name in ("detector", "name", "stride", "block", "upsampling", "head", "extra_keypoints"):
        del run["model"][name]
    run["train"] |= run.pop("runtime") | {"device": "cpu"}
    run["model"] |= {"stacks": 2, "center_keypoints": False}
    words = command(Row("", "toy/val", []), {"config": run})
    assert words == "test.py configs/toy.yaml model.backbone.stacks=2 runtime.device=cpu"


def test_figures_of_an_analysis(tmp_path, monkeypatch, capsys):
    quadrants = {"image": 0.5, "top_left_quadrant": 0.67, "bottom_right_quadrant": None}
    found = {"top_left": quadrants, "bottom_right": quadrants}
    write_run(tmp_path, "cornernet_hg104_ablation/val", corner_AP=found, split="val")
    write_run(tmp_path, "cornernet_hg104_no_pooling/val", split="val")  # without the analysis
    code, out, err = run(monkeypatch, capsys, tmp_path, "--table", "cornernet.table3")
    assert (code, err) == (0, "")
    rows = cells(out)
    assert rows[4][2:6] == ["67.0 (-2.2)", "", "67.0 (+10.8)", ""]
    assert rows[2][2:6] == [""] * 4
    for row, config in ((4, "cornernet_hg104_ablation"), (2, "cornernet_hg104_no_pooling")):
        assert rows[row][6] == f"`test.py configs/{config}.yaml --analyses corners`"
    write_run(tmp_path, "cornernet_hg104_ablation/val", corner_AP={"top_left": {"top_left_quadrant": "x"}})
    code, out, err = run(monkeypatch, capsys, tmp_path, "--table", "cornernet.table3")
    assert code == 2 and "corner_AP.top_left.top_left_quadrant" in err


FULL = dict.fromkeys(FDS, 0.5)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not valid JSON: Expecting property name"),
        (b"\xff", "not valid JSON: 'utf-8' codec"),
        ("[1]", "expected a mapping of figures, as test.py writes it"),
        (json.dumps({"FD": 0.5, "FD50": 0.5, "FDs": 0.5}), "lacks FD5, FD25, FDm, FDl: run test.py again"),
        (json.dumps(FULL | {"FDm": "0.5"}), "FDm: expected a number or null, got '0.5'"),
        (json.dumps(FULL | {"FDm": True}), "FDm: expected a number or null, got True"),
        (json.dumps(FULL | {"FDm": float("nan")}), "FDm: expected a number or null, got nan"),
    ],
)
def test_metrics_that_cannot_be_used_leave_their_row_blank(tmp_path, monkeypatch, capsys, content, message):
    path = write_run(tmp_path, "cornernet_2018_hg104/val")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    write_run(tmp_path, "centernet_hg104/val", **FULL)
    code, out, err = run(monkeypatch, capsys, tmp_path, "--table", "centernet.table1", "centernet.table3")
    assert code == 2 and err.startswith(f"error: {path}") and message in err
    assert err.count("\n") == 1  # though two tables have the row
    rows = cells(out[out.index("### Table 3") :])
    assert rows[6][2:9] == [""] * 7 and rows[8][2] == "50.0 (+17.6)"


def test_choice_of_tables(tmp_path, monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, tmp_path)
    assert (code, err) == (0, "") and out.count("### ") == len(DATA)
    assert run(monkeypatch, capsys, tmp_path, "--table", "cornernet", "cornernet_lite", "centernet")[1] == out
    code, out, _ = run(monkeypatch, capsys, tmp_path, "--table", "centernet.table5", "--table", "centernet.table1")
    assert code == 0 and out.index("### Table 1") < out.index("### Table 5") and out.count("### ") == 2
    code, out, err = run(monkeypatch, capsys, tmp_path, "--table", "centernet.tabel4")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("error: --table: there is no table centernet.tabel4; did you mean centernet.table4? Tables: ")
    assert all(name in err for name in DATA)
    assert "; tables: centernet.table1" in run(monkeypatch, capsys, tmp_path, "--table", "x")[2]


def test_folder_of_the_runs(tmp_path, monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, tmp_path / "none")
    assert (code, out) == (2, "") and err.startswith(f"error: there is no folder {tmp_path / 'none'}: ")
    monkeypatch.chdir(tmp_path)  # without runs/, the published figures alone
    assert run(monkeypatch, capsys)[0] == 0
    write_run(tmp_path / "runs", "centernet_hg52/val", seconds_per_image=0.5)
    assert "0.500 (+0.230)" in run(monkeypatch, capsys)[1]


def test_folder_of_the_runs_may_follow_the_tables(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "mine", "centernet_hg52/val", seconds_per_image=0.5)
    expected = run(monkeypatch, capsys, tmp_path / "mine", "--table", "centernet.speed")
    assert expected[0] == 0 and "0.500 (+0.230)" in expected[1]
    assert run(monkeypatch, capsys, "--table", "centernet.speed", tmp_path / "mine") == expected
    assert run(monkeypatch, capsys, "--table=centernet.speed", tmp_path / "mine") == expected
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, capsys, "--table", "centernet.speed", "mine") == expected
    (tmp_path / "centernet.speed").mkdir()  # a table's name is never a folder
    assert "(+0.230)" not in run(monkeypatch, capsys, "--table", "centernet.speed")[1]
    code, _, err = run(monkeypatch, capsys, "--table", "centernet.speed", tmp_path / "none")
    assert code == 2 and err.startswith(f"error: there is no folder {tmp_path / 'none'}: ")


def test_results_with_the_checkpoint_of_another_config(tmp_path, monkeypatch, capsys):
    write_run(tmp_path, "mine/centernet_hg52/val", seconds_per_image=0.5)
    assert "0.500 (+0.230)" in run(monkeypatch, capsys, tmp_path, "--table", "centernet.speed")[1]
    write_run(tmp_path, "other/centernet_hg52/val", seconds_per_image=0.6)
    code, out, err = run(monkeypatch, capsys, tmp_path, "--table", "centernet.speed")
    assert code == 2 and "several runs have results of centernet_hg52/val: " in err and "(+0" not in out
    write_run(tmp_path, "centernet_hg52/val", seconds_per_image=0.7)  # its own run comes first
    assert "0.700 (+0.430)" in run(monkeypatch, capsys, tmp_path, "--table", "centernet.speed")[1]


def test_a_reader_that_closes_early_ends_it_quietly(repository):
    command = f"{sys.executable} -m nnet.analysis.tables | head -n 1"
    done = subprocess.run(command, shell=True, cwd=repository, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith("### ") and done.stderr == ""
