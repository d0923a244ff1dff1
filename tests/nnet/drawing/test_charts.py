"""Charts: lines, scales, labels and legends as matplotlib holds them, and the image files written."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from nnet.drawing.charts import LINE_COLOURS, Panel, draw_panels, plot_panels

RISING = Panel({"up": ([0, 1], [0, 1])})


def draw(panel: Panel):
    """The axes of a chart."""
    return draw_panels([panel]).axes[0]


def lines(axes) -> dict[str, np.ndarray]:
    """The points (N, 2) of each line that the legend names."""
    return {line.get_label(): line.get_xydata() for line in axes.lines if not line.get_label().startswith("_")}


def raw_lines(axes) -> list[np.ndarray]:
    """The points (N, 2) of the pale lines of raw values."""
    return [line.get_xydata() for line in axes.lines if line.get_label().startswith("_")]


def tick_labels(axis) -> list[str]:
    """Texts of the ticks inside the limits of an axis."""
    low, high = axis.get_view_interval()
    return [
        label.get_text()
        for at, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        if low <= at <= high
    ]


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize(
    "series",
    [
        {},
        {"empty": ([], [])},
        {"one": ([5], [3])},
        {"constant": ([0, 1], [2, 2])},
        {"zero": ([0, 1], [0, 0])},
        {"gaps": ([0, 1, 2], [1.0, float("nan"), float("inf")]), "negative": ([0, 1], [-1, -2])},
        {"huge": ([0, 500_000], [1e-12, 1e12])},
        {"tiny": ([0, 1], [1.0, 1.0 + 1e-6])},
    ],
)
@pytest.mark.filterwarnings("error")
def test_charts_of_any_series(series, log_y, tmp_path):
    panel = Panel(series, "title", "iteration", "loss", log_y, smooth=5)
    plot_panels(tmp_path / "chart.png", [panel])
    chart = cv2.imread(str(tmp_path / "chart.png"))
    assert chart.shape == (420, 640, 3) and chart.min() < 100
    axes = draw(panel)
    drawn = [line for line in lines(axes).values() if len(line)]
    for points in drawn:
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        assert (points >= (left, low)).all() and (points <= (right, high)).all()
        assert len(tick_labels(axes.xaxis)) >= 2 and len(tick_labels(axes.yaxis)) >= 2
    assert [text.get_text() for text in axes.texts] == ([] if drawn else ["no data"])


def test_chart_places_its_line():
    axes = draw(RISING)
    axes.figure.canvas.draw()
    assert lines(axes)["up"].tolist() == [[0, 0], [1, 1]]
    (left, bottom), (right, top) = axes.transData.transform([[0, 0], [1, 1]])  # pixels, counted upwards
    assert right > left + 450 and top > bottom + 250


def test_title_labels_and_legend():
    axes = draw(Panel({"loss": ([0, 1], [1, 2]), "focal": ([0, 1], [2, 1])}, "training loss", "iteration", "value"))
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("training loss", "iteration", "value")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["loss", "focal"]
    assert [line.get_color() for line in axes.lines] == LINE_COLOURS[:2]
    assert axes.get_yscale() == "linear"


def test_legend_hides_no_line():
    axes = draw(RISING)
    axes.figure.canvas.draw()
    legend = axes.get_legend().get_window_extent()
    points = axes.transData.transform(np.linspace((0, 0), (1, 1), 100))
    assert not any(legend.contains(x, y) for x, y in points)


def test_texts_lie_inside_the_image():
    panel = Panel({"a": ([0, 500_000], [1e-3, 1e3])}, "title", "iteration", "loss", log_y=True)
    figure = draw_panels([panel] * 4)
    figure.canvas.draw()
    for axes in figure.axes:
        area = axes.get_tightbbox()
        assert figure.bbox.x0 <= area.x0 and area.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= area.y0 and area.y1 <= figure.bbox.y1
    extents = [axes.get_tightbbox() for axes in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(extents) for b in extents[:i])


def test_points_that_cannot_be_drawn_are_left_out():
    series = {"a": ([0, 1, 2, 3, float("nan")], [1, float("nan"), 0, float("inf"), 1]), "b": ([0, 1], [-1, 3])}
    assert {name: line.tolist() for name, line in lines(draw(Panel(series))).items()} == {
        "a": [[0, 1], [2, 0]],
        "b": [[0, -1], [1, 3]],
    }
    axes = draw(Panel(series, log_y=True))
    assert axes.get_yscale() == "log"
    assert {name: line.tolist() for name, line in lines(axes).items()} == {"a": [[0, 1]], "b": [[1, 3]]}


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize("value", [1, 2, 1e-5])
def test_a_constant_lies_in_the_middle(value, log_y):
    axes = draw(Panel({"constant": ([0, 1], [value, value])}, log_y=log_y))
    assert axes.transAxes.inverted().transform(axes.transData.transform((0, value)))[1] == pytest.approx(0.5)


def test_one_point_is_visible():
    axes = draw(Panel({"one": ([300], [2])}, smooth=9))
    assert axes.lines[0].get_marker() == "o"
    assert axes.transAxes.inverted().transform(axes.transData.transform((300, 2))) == pytest.approx([0.5, 0.5])
    assert tick_labels(axes.xaxis) == ["299", "300", "301"]


def test_markers_are_for_few_points():
    markers = {n: draw(Panel({"a": (range(n), range(n))})).lines[0].get_marker() for n in (30, 31)}
    assert markers == {30: "o", 31: ""}


def test_no_data():
    for series in ({}, {"empty": ([], [])}, {"gaps": ([0, 1], [float("nan")] * 2)}):
        assert [text.get_text() for text in draw(Panel(series)).texts] == ["no data"]
    assert not draw(Panel({"empty": ([], []), "a": ([0, 1], [0, 1])})).texts


def test_running_mean_over_the_raw_values():
    raw = [0.0, 3.0, 6.0, 0.0, 3.0]
    axes = draw(Panel({"a": (range(5), raw)}, smooth=3))
    assert lines(axes)["a"][:, 1] == pytest.approx([1.5, 3, 3, 3, 1.5])  # fewer points at the ends
    (pale,) = raw_lines(axes)
    assert pale.tolist() == [[x, y] for x, y in enumerate(raw)]
    assert axes.lines[0].get_alpha() < 0.5 and axes.lines[0].get_color() == axes.lines[1].get_color()


def test_running_mean_on_a_logarithmic_axis_is_of_the_logarithm():
    axes = draw(Panel({"a": (range(3), [1, 10, 100])}, log_y=True, smooth=3))
    assert lines(axes)["a"][:, 1] == pytest.approx([10**0.5, 10, 10**1.5])


def test_no_running_mean_of_a_single_value():
    for panel in (Panel({"a": ([1, 2], [1, 2])}), Panel({"a": ([1], [2])}, smooth=9)):
        assert not raw_lines(draw(panel))


def test_pale_lines_behind_a_series():
    """They have its colour, lie inside the axes, and are not in the legend."""
    axes = draw(
        Panel({"a": ([0, 1], [2, 2]), "b": ([0, 1], [3, 3])}, behind={"b": [([0, 1], [0, 5]), ([0, 2], [3, 7])]})
    )
    assert [line.tolist() for line in raw_lines(axes)] == [[[0, 0], [1, 5]], [[0, 3], [2, 7]]]
    pale = [line for line in axes.lines if line.get_label().startswith("_")]
    assert {line.get_color() for line in pale} == {LINE_COLOURS[1]} and lines(axes).keys() == {"a", "b"}
    assert axes.get_xlim()[1] == 2 and axes.get_ylim()[0] < 0 and axes.get_ylim()[1] > 7


def test_large_iterations_are_readable():
    axes = draw(Panel({"a": ([0, 60_000], [1, 2])}))
    assert tick_labels(axes.xaxis) == ["0", "10k", "20k", "30k", "40k", "50k", "60k"]
    assert "1M" in tick_labels(draw(Panel({"a": ([0, 2_000_000], [1, 2])})).xaxis)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.001, 100], ["0.001", "0.01", "0.1", "1", "10", "100"]),
        ([1, 12], ["1", "2", "5", "10"]),
        ([3.0, 3.5], ["3.0", "3.1", "3.2", "3.3", "3.4", "3.5"]),
    ],
)
def test_ticks_of_a_logarithmic_axis(values, labels):
    assert tick_labels(draw(Panel({"a": ([0, 1], values)}, log_y=True)).yaxis) == labels


def test_panels_fill_rows(tmp_path):
    panel = Panel({"a": ([0, 1], [0, 1])})
    plot_panels(tmp_path / "three.png", [panel] * 3)
    assert cv2.imread(str(tmp_path / "three.png")).shape == (840, 1280, 3)
    plot_panels(tmp_path / "deep" / "one.png", [panel])
    assert cv2.imread(str(tmp_path / "deep" / "one.png")).shape == (420, 640, 3)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["one.png"]


def test_colours_of_the_file(tmp_path):
    plot_panels(tmp_path / "one.png", [RISING])
    blue, red = (cv2.imread(str(tmp_path / "one.png")).astype(int)[..., channel] for channel in (0, 2))
    assert (blue - red > 100).sum() > 500 and not (red - blue > 100).any()  # the first line is blue


def test_files_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        plot_panels(tmp_path / "file" / "a.png", [RISING])
    with pytest.raises(OSError, match=r"cannot write .*a\.nonsense"):
        plot_panels(tmp_path / "a.nonsense", [RISING])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_matplotlib_is_imported_when_a_chart_is_drawn_and_pyplot_never(repository, tmp_path):
    script = (
        "import sys; from nnet.drawing.charts import Panel, plot_panels; assert 'matplotlib' not in sys.modules;"
        "plot_panels(sys.argv[1], [Panel({'a': ([0, 1], [0, 1])})]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.png")], cwd=repository, check=True)
