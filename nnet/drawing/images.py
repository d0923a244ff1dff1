"""Operations on whole images: enlarging, placing side by side, writing to a file.

Images are uint8 BGR (H, W, 3). No function changes its arguments.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

LEGIBLE_SIDE = 480
"""Images are enlarged until their longer side has this many pixels, so that text on them is legible."""

FONT = cv2.FONT_HERSHEY_SIMPLEX
WHITE, DARK_GREY = (255, 255, 255), (30, 30, 30)
COLUMN_GAP = 6  # pixels between images placed side by side


def enlargement(image: np.ndarray) -> float:
    """The factor by which `enlarged` resizes an image, at least 1."""
    return max(1.0, LEGIBLE_SIDE / max(image.shape[:2]))


def enlarged(image: np.ndarray) -> np.ndarray:
    """A copy of the image, enlarged if its longer side has fewer than LEGIBLE_SIDE pixels."""
    return resized(image, *enlarged_size(image))


def enlarged_size(image: np.ndarray) -> tuple[int, int]:
    """Height and width of the enlarged image."""
    factor = enlargement(image)
    return round(image.shape[0] * factor), round(image.shape[1] * factor)


def enlarged_coordinates(coordinates: np.ndarray, factor: float, columns: int) -> np.ndarray:
    """Pixel coordinates (N, columns) float64 in an image enlarged by `factor`; integers are pixel centers."""
    return (np.asarray(coordinates, dtype=np.float64).reshape(-1, columns) + 0.5) * factor - 0.5


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """A copy of the image at another size."""
    if image.shape[:2] == (height, width):
        return image.copy()
    method = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method)


def side_by_side(images: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Images in a row, resized to the height of the tallest, each below its title."""
    height = max(image.shape[0] for image in images)
    columns = []
    for image, title in zip(images, titles, strict=True):
        body = resized(image, height, max(1, round(image.shape[1] * height / image.shape[0])))
        column = np.vstack([_title_bar(title, body.shape[1], scale=max(0.45, height / 900)), body])
        columns += [column, np.full((column.shape[0], COLUMN_GAP, 3), WHITE, np.uint8)]
    return np.hstack(columns[:-1])


def _title_bar(title: str, width: int, scale: float) -> np.ndarray:
    """A white bar with the title, whose text is reduced where it is wider than the bar."""
    bar = np.full((round(44 * scale) + 10, width, 3), WHITE, np.uint8)
    text_scale = fitting_scale(title, scale, width - 8)
    _, text_height = text_size(title, text_scale)
    baseline = (4, (bar.shape[0] + text_height) // 2)
    cv2.putText(bar, drawable(title), baseline, FONT, text_scale, DARK_GREY, 1, cv2.LINE_AA)
    return bar


def drawable(text: str) -> str:
    """The text with lone surrogates escaped (from names that are not UTF-8): OpenCV and TensorBoard fail on them."""
    return text.encode("utf-8", "backslashreplace").decode()


def text_size(text: str, scale: float, thickness: int = 1) -> tuple[int, int]:
    """Width and height in pixels of the text above its baseline."""
    (width, height), _ = cv2.getTextSize(drawable(text), FONT, scale, thickness)
    return width, height


def fitting_scale(text: str, scale: float, max_width: int) -> float:
    """The largest font scale, at most `scale`, at which the text is no wider than `max_width` pixels."""
    width, _ = text_size(text, scale)
    return scale if width <= max_width else scale * max(max_width, 1) / width


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an image atomically in the format of the path's suffix (.png, .jpg); its folder is created.

    Raises OSError if the image cannot be encoded or the file cannot be written.
    """
    path = Path(path)
    try:
        encoded, data = cv2.imencode(drawable(path.suffix), image)
    except cv2.error as error:
        raise OSError(f"cannot write {path}: no image format for an array {image.dtype} {image.shape}") from error
    if not encoded:
        raise OSError(f"cannot write {path}: encoding failed")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data.tobytes())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
