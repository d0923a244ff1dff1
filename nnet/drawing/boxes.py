"""Pictures of what a network sees and finds, and curves of how it learned, drawn with OpenCV alone.

Images are uint8 BGR (H, W, 3), boxes (N, 4) x1, y1, x2, y2 in pixels of the image they are drawn on. No function
changes its arguments. Small images are enlarged first, so that text stays legible.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

LEGIBLE = 480  # pixels: pictures are enlarged until their longer side has this many
FONT = cv2.FONT_HERSHEY_SIMPLEX
# Curves: colours far apart also for colour-blind readers (Okabe and Ito), as BGR.
CURVE_COLOURS = [
    (178, 114, 0),
    (0, 94, 213),
    (115, 158, 0),
    (167, 121, 204),
    (0, 159, 230),
    (233, 180, 86),
    (60, 60, 60),
]

Colour = tuple[int, int, int]


def class_colour(label: int) -> Colour:
    """A bright BGR colour for a class; neighbouring classes get hues far apart."""
    hue = int(180 * ((0.02 + 0.61803399 * label) % 1.0))  # golden-ratio steps around the wheel
    saturation, value = ((230, 255), (120, 255), (255, 165))[label // 13 % 3]  # where hues come near each other again
    blue, green, red = cv2.cvtColor(np.uint8([[[hue, saturation, value]]]), cv2.COLOR_HSV2BGR)[0, 0]
    return int(blue), int(green), int(red)


def draw_boxes(image: np.ndarray, boxes: np.ndarray, texts: Sequence[str], colours: Sequence[Colour]) -> np.ndarray:
    """Boxes with a text each ("" for none), later ones on top.

    image: uint8 (H, W, 3); boxes: (N, 4) in its pixels, may reach outside; texts, colours: N each. Returns the picture,
    enlarged where the image is small.
    """
    picture = enlarged(image)
    height, width = picture.shape[:2]
    factor = max(1.0, LEGIBLE / max(image.shape[:2]))
    line = max(1, round(max(height, width) / 400))
    corners = (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) + 0.5) * factor - 0.5
    corners = np.clip(corners, 0, [width - 1, height - 1, width - 1, height - 1]).round().astype(int)
    for (x1, y1, x2, y2), colour in zip(corners.tolist(), colours, strict=True):
        cv2.rectangle(
            picture, (x1, y1), (x2, y2), (0, 0, 0), line + 2, cv2.LINE_AA
        )  # a dark rim, to stand out anywhere
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, line, cv2.LINE_AA)
    taken: list[tuple[int, int, int, int]] = []
    for box, text, colour in zip(corners.tolist(), texts, colours, strict=True):  # after all boxes: none crosses a text
        if text:
            _draw_label(picture, text, box, colour, taken)
    return picture


def enlarged(image: np.ndarray) -> np.ndarray:
    """A copy of an image, enlarged where it is small."""
    factor = max(1.0, LEGIBLE / max(image.shape[:2]))
    return _resized(image, round(image.shape[0] * factor), round(image.shape[1] * factor))


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str] | Mapping[int, str],
    threshold: float = 0.3,
) -> np.ndarray:
    """Detections whose score is at least `threshold`, with class and score, the best on top.

    image: uint8 (H, W, 3); boxes: (N, 4) in its pixels; scores: (N,); labels: (N,) int, keys into names.
    """
    scores = np.asarray(scores, dtype=np.float64)
    order = [i for i in np.argsort(scores, kind="stable") if scores[i] >= threshold]
    classes = [int(labels[i]) for i in order]
    texts = [f"{names[label]} {scores[i]:.2f}" for i, label in zip(order, classes, strict=True)]
    shown = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)[order]
    return draw_boxes(image, shown, texts, [class_colour(label) for label in classes])


def draw_heatmap(image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """A heatmap over the darkened, grey image, from nothing over purple to bright yellow for 0 to 1.

    image: uint8 (H, W, 3); heatmap: float (h, w) over the same field of view, or (C, h, w), of which the maximum over
    classes is shown.
    """
    heat = np.asarray(heatmap, dtype=np.float32)
    heat = heat.max(axis=0) if heat.ndim == 3 else heat
    factor = max(1.0, LEGIBLE / max(image.shape[:2]))
    height, width = round(image.shape[0] * factor), round(image.shape[1] * factor)
    heat = cv2.resize(np.nan_to_num(heat).clip(0, 1), (width, height), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((255 * heat).round().astype(np.uint8), cv2.COLORMAP_INFERNO).astype(np.float32)
    grey = cv2.cvtColor(cv2.cvtColor(_resized(image, height, width), cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    opacity = np.sqrt(heat)[..., None]
    return (0.55 * grey * (1 - opacity) + colours * opacity).round().clip(0, 255).astype(np.uint8)


def draw_regions(
    image: np.ndarray,
    heatmap: np.ndarray,
    regions: np.ndarray,
    colours: Sequence[Colour],
    points: np.ndarray,
    point_colours: Sequence[Colour],
) -> np.ndarray:
    """The heatmap of centers over the image, with central regions of boxes (N, 4) and centers (M, 2), a cross each."""
    picture = draw_heatmap(image, heatmap)
    factor = max(1.0, LEGIBLE / max(image.shape[:2]))

    def enlarged(places: np.ndarray, columns: int) -> np.ndarray:  # as draw_boxes does with those of a small image
        return (np.asarray(places, dtype=np.float64).reshape(-1, columns) + 0.5) * factor - 0.5

    picture = draw_boxes(picture, enlarged(regions, 4), [""] * len(regions), colours)
    for (x, y), own in zip(enlarged(points, 2).round().astype(int).tolist(), point_colours, strict=True):
        for colour, line in (((0, 0, 0), 3), (own, 1)):
            cv2.drawMarker(picture, (x, y), colour, cv2.MARKER_TILTED_CROSS, 12, line, cv2.LINE_AA)
    return picture


def side_by_side(pictures: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Pictures in a row, brought to the height of the tallest, each under its title."""
    height = max(picture.shape[0] for picture in pictures)
    scale, gap = max(0.45, height / 900), 6
    columns = []
    for picture, title in zip(pictures, titles, strict=True):
        body = _resized(picture, height, max(1, round(picture.shape[1] * height / picture.shape[0])))
        fitted = _fitting_scale(title, scale, body.shape[1] - 8)
        bar = np.full((round(44 * scale) + 10, body.shape[1], 3), 255, np.uint8)
        _, text_height = _text_size(title, fitted)
        cv2.putText(bar, title, (4, (bar.shape[0] + text_height) // 2), FONT, fitted, (30, 30, 30), 1, cv2.LINE_AA)
        columns += [np.vstack([bar, body]), np.full((bar.shape[0] + height, gap, 3), 255, np.uint8)]
    return np.hstack(columns[:-1])


class Panel(NamedTuple):
    """One chart: lines over common axes."""

    series: Mapping[
        str, tuple[Sequence[float], Sequence[float]]
    ]  # name -> (x, y); points that are not finite are left out
    title: str = ""
    xlabel: str = ""
    ylabel: str = ""
    log_y: bool = False  # logarithmic y axis; points at or below 0 are left out
    smooth: int = 1  # points of the running mean that is drawn over the pale line of the values themselves; 1 = none


def plot_panels(path: str | os.PathLike[str], panels: Sequence[Panel], columns: int = 2) -> None:
    """Write several charts as one image, `columns` in a row."""
    charts = [draw_chart(panel) for panel in panels]
    charts += [np.full_like(charts[0], 255)] * (-len(charts) % min(columns, len(charts)))
    columns = min(columns, len(charts))
    write_image(path, np.vstack([np.hstack(charts[i : i + columns]) for i in range(0, len(charts), columns)]))


def draw_chart(panel: Panel, height: int = 420, width: int = 640) -> np.ndarray:
    """A line chart as an image: uint8 (height, width, 3)."""
    fine = 2  # drawn at twice the size and reduced: smoother than OpenCV's anti-aliasing alone
    canvas = np.full((fine * height, fine * width, 3), 255, np.uint8)
    left, top, right, bottom = fine * 70, fine * 44, fine * (width - 20), fine * (height - 54)
    ink, pale = (50, 50, 50), (228, 228, 228)

    def text(words: str, x: float, y: float, scale: float = 0.42, anchor: float = 0.5, colour: Colour = ink) -> None:
        """Words centred on height y; anchor 0, 0.5, 1: x is their left end, middle, right end."""
        text_width, text_height = _text_size(words, fine * scale, fine)
        at = (round(x - anchor * text_width), round(y + text_height / 2))
        cv2.putText(canvas, words, at, FONT, fine * scale, colour, fine, cv2.LINE_AA)

    lines = {name: _clean(x, y, panel.log_y) for name, (x, y) in panel.series.items()}
    drawn = [line for line in lines.values() if len(line)]
    every = np.concatenate(drawn) if drawn else np.array([[0.0, 0.0], [1.0, 1.0]])
    (x_low, y_low), (x_high, y_high) = every.min(axis=0), every.max(axis=0)
    x_high = x_high if x_high > x_low else x_low + 1
    margin = 0.05 * (y_high - y_low) or 0.1 * abs(y_high) or 0.5  # a constant lies in mid-height
    y_low, y_high = y_low - margin, y_high + margin

    def place(points: np.ndarray) -> np.ndarray:
        """Data (N, 2) -> canvas pixels (N, 2)."""
        x = left + (points[:, 0] - x_low) / (x_high - x_low) * (right - left)
        y = bottom - (points[:, 1] - y_low) / (y_high - y_low) * (bottom - top)
        return np.stack([x, y], axis=1)

    for value, words in _log_ticks(y_low, y_high) if panel.log_y else _ticks(y_low, y_high, 6):
        y = place(np.array([[x_low, value]]))[0, 1]
        cv2.line(canvas, (left, round(y)), (right, round(y)), pale, fine, cv2.LINE_AA)
        text(words, left - fine * 8, y, anchor=1.0)
    for value, words in _ticks(x_low, x_high, 7):
        x = place(np.array([[value, y_low]]))[0, 0]
        cv2.line(canvas, (round(x), bottom), (round(x), bottom + fine * 4), ink, fine, cv2.LINE_AA)
        text(words, x, bottom + fine * 14)
    for end in ((left, top), (right, bottom)):
        cv2.line(canvas, (left, bottom), end, ink, fine, cv2.LINE_AA)
    text(panel.title, (left + right) / 2, fine * 16, 0.55)
    text(panel.xlabel, (left + right) / 2, fine * (height - 18))
    text(panel.ylabel, fine * 8, fine * 34, anchor=0.0)
    if not drawn:
        text("no data", (left + right) / 2, (top + bottom) / 2, 0.6)

    colours = [CURVE_COLOURS[i % len(CURVE_COLOURS)] for i in range(len(lines))]
    for line, colour in zip(lines.values(), colours, strict=True):
        smooth = _running_mean(line, panel.smooth)
        if smooth is not line:
            washed = tuple(round(255 - 0.35 * (255 - channel)) for channel in colour)
            _draw_line(canvas, place(line), washed, fine)
        _draw_line(canvas, place(smooth), colour, 2 * fine)

    if any(lines):  # the names, in the corner that the lines leave freest
        step, sample = fine * 18, fine * 22
        box_width = max(_text_size(name, fine * 0.42, fine)[0] for name in lines) + sample + fine * 22
        box_height = step * len(lines) + fine * 8
        points = np.concatenate([_between(place(line)) for line in drawn]) if drawn else np.zeros((0, 2))
        corners = [
            (x, y)
            for y in (top + fine * 4, bottom - box_height - fine * 6)
            for x in (right - box_width, left + fine * 8)
        ]

        def covered(corner: tuple[int, int]) -> int:
            inside = (points >= corner) & (points <= (corner[0] + box_width, corner[1] + box_height))
            return int(inside.all(axis=1).sum())

        x, y = min(corners, key=covered)
        cv2.rectangle(canvas, (x, y), (x + box_width, y + box_height), (255, 255, 255), cv2.FILLED)
        cv2.rectangle(canvas, (x, y), (x + box_width, y + box_height), pale, fine)
        for row, (name, colour) in enumerate(zip(lines, colours, strict=True)):
            middle = y + fine * 4 + step * row + step // 2
            cv2.line(canvas, (x + fine * 8, middle), (x + fine * 8 + sample, middle), colour, 2 * fine, cv2.LINE_AA)
            text(name, x + sample + fine * 14, middle, anchor=0.0)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an image in the format of its ending (.png, .jpg), creating its folder; OSError when it cannot be written.

    The file appears whole or not at all.
    """
    path = Path(path)
    try:
        done, data = cv2.imencode(path.suffix, image)
    except cv2.error as error:
        raise OSError(f"cannot write {path}: no image format for an array {image.dtype} {image.shape}") from error
    if not done:
        raise OSError(f"cannot write {path}: encoding failed")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data.tobytes())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """A copy of the image at another size."""
    if image.shape[:2] == (height, width):
        return image.copy()
    method = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method)


def _text_size(text: str, scale: float, thickness: int = 1) -> tuple[int, int]:
    """Width and height in pixels of text above its base line."""
    (width, height), _ = cv2.getTextSize(text, FONT, scale, thickness)
    return width, height


def _fitting_scale(text: str, scale: float, room: int) -> float:
    """The scale, or the smaller one at which text fits into `room` pixels."""
    width, _ = _text_size(text, scale)
    return scale if width <= room else scale * max(room, 1) / width


def _draw_label(
    picture: np.ndarray, text: str, box: Sequence[int], colour: Colour, taken: list[tuple[int, int, int, int]]
) -> None:
    """Text on a filled ground at a corner of its box, where it hides least of the texts in `taken`, which it joins.

    It is always inside the picture.
    """
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = box
    scale = _fitting_scale(text, max(0.4, 0.4 * max(height, width) / 640), width - 6)
    text_width, text_height = _text_size(text, scale)
    w, h = text_width + 6, text_height + 8

    def hidden(place: tuple[int, int]) -> int:
        """Pixels of earlier texts under one placed here."""
        wide = [min(place[0] + w, right) - max(place[0], left) for left, _, right, _ in taken]
        high = [min(place[1] + h, bottom) - max(place[1], top) for _, top, _, bottom in taken]
        return sum(max(a, 0) * max(b, 0) for a, b in zip(wide, high, strict=True))

    above = [(x1, y1 - h), (x2 - w, y1 - h)] if y1 >= h else []
    places = [*above, (x1, y1), (x1, y2), (x2 - w, y2), (x1, y2 - h)]
    left, top = min(
        ((min(max(x, 0), max(width - w, 0)), min(max(y, 0), max(height - h, 0))) for x, y in places), key=hidden
    )
    taken.append((left, top, left + w, top + h))
    cv2.rectangle(picture, (left, top), (left + w - 1, top + h - 1), colour, cv2.FILLED)
    bright = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2]
    ink = (0, 0, 0) if bright > 110 else (255, 255, 255)
    cv2.putText(picture, text, (left + 3, top + text_height + 3), FONT, scale, ink, 1, cv2.LINE_AA)


def _clean(x: Sequence[float], y: Sequence[float], log_y: bool) -> np.ndarray:
    """Drawable points (N, 2), y as its decimal logarithm where the axis is logarithmic."""
    points = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], axis=1).reshape(-1, 2)
    if log_y:
        points[:, 1] = np.log10(np.where(points[:, 1] > 0, points[:, 1], np.nan))
    return points[np.isfinite(points).all(axis=1)]


def _running_mean(line: np.ndarray, window: int) -> np.ndarray:
    """Each y the mean over `window` points around it, fewer at the ends; the line itself if nothing is to be done."""
    window = min(window, len(line))
    if window < 2:
        return line
    ones = np.ones(window)
    mean = np.convolve(line[:, 1], ones, "same") / np.convolve(np.ones(len(line)), ones, "same")
    return np.stack([line[:, 0], mean], axis=1)


def _between(points: np.ndarray) -> np.ndarray:
    """Points along the line through (N, 2) points, about 10 per stretch."""
    steps = np.linspace(0, len(points) - 1, 10 * len(points))
    return np.stack([np.interp(steps, np.arange(len(points)), points[:, axis]) for axis in (0, 1)], axis=1)


def _draw_line(canvas: np.ndarray, points: np.ndarray, colour: Colour, thickness: int) -> None:
    shift = 4  # OpenCV takes fixed-point coordinates: sixteenths of a pixel
    fixed = (points * 2**shift).round().astype(np.int32)
    cv2.polylines(canvas, [fixed[:, None]], False, colour, thickness, cv2.LINE_AA, shift)
    if len(points) <= 30:  # few enough to be measurements of their own
        for x, y in fixed.tolist():
            cv2.circle(canvas, (x, y), round(1.5 * thickness) << shift, colour, cv2.FILLED, cv2.LINE_AA, shift)


def _ticks(low: float, high: float, count: int) -> list[tuple[float, str]]:
    """About `count` round values (steps of 1, 2, 2.5 or 5 times a power of ten) in [low, high], with their texts."""
    rough = (high - low) / count
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    return [(i * step, _number(i * step)) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Ticks of a logarithmic axis from 10^low to 10^high: decades, and 2 and 5 of each when there are few."""
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1, max(1, round((high - low) / 8)))
    steps = (1,) if high - low > 3 else (1, 2, 5) if high - low > 0.8 else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    values = [step * 10.0**decade for decade in decades for step in steps]
    ticks = [(float(np.log10(value)), _number(value)) for value in values if low <= np.log10(value) <= high]
    if len(ticks) >= 2:
        return ticks
    return [(at, f"{10**at:.4g}") for at in np.linspace(low, high, 5)[1:-1].tolist()]  # less than a step: plain values


def _number(value: float) -> str:
    """A short text for a tick: 20k, 1.5M, 0.05."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.6g}{unit}"
    return f"{value:.6g}"
