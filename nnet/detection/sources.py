"""Pictures, folders, lists, videos and cameras as a stream of frames, which are read beside the network."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from db import DataError, UnreadableImage, read_image
from db.files import read_bytes
from nnet.runtime.background import read_ahead

IMAGES = frozenset(".jpg .jpeg .jpe .jfif .png .bmp .dib .webp .tif .tiff .pbm .pgm .ppm .pnm .jp2 .gif .avif".split())
VIDEOS = frozenset(".mp4 .m4v .mov .avi .mkv .webm .mpg .mpeg .wmv .flv .mts .m2ts .3gp .ogv".split())
LISTS = frozenset((".txt", ".lst"))

# No messages of the decoders on the console. OpenCV reads this once, when the first video is opened or written.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


@dataclass(frozen=True)
class Source:
    """A picture, a video or a camera.

    path: of the file, or the camera's number. name: path of its picture or video below an output folder.
    """

    kind: Literal["image", "video", "camera"]
    path: str
    name: Path


class Frame(NamedTuple):
    """A picture, or a frame of a video."""

    source: Source
    image: np.ndarray  # (H, W, 3) uint8, BGR
    number: int = 0  # of the frame in its video, from 0
    rate: float | None = None  # frames per second of the video; None: a picture


def find_sources(texts: Sequence[str], leave_out: Path | None = None) -> list[Source]:
    """What the texts name, each file once, with unique names.

    Args:
        texts: pictures, videos, folders (searched recursively), glob patterns, text files (.txt, .lst) with a path per
            line, and numbers of cameras.
        leave_out: a folder that is not searched.

    Raises:
        DataError: a text names nothing.
    """
    found: dict[str, Source] = {}
    for text in texts:
        for source in expand(text, leave_out):
            found.setdefault(source.path, source)
    sources = list(found.values())
    if len({source.name for source in sources}) < len(sources):  # files of the same name in several folders
        parts = [os.path.abspath(source.path) for source in sources]
        top = os.path.commonpath(parts)
        sources = [
            replace(source, name=Path(os.path.relpath(part, top))) for source, part in zip(sources, parts, strict=True)
        ]
    return sources


def expand(text: str, leave_out: Path | None) -> list[Source]:
    """What one text names. Raises DataError if it names nothing."""
    if os.path.isdir(text):
        return in_folder(text, leave_out)
    if os.path.isfile(text):
        return in_list(Path(text)) if Path(text).suffix.lower() in LISTS else [of_file(text)]
    if text.isdecimal():
        return [Source("camera", text, Path(f"camera{text}.mp4"))]
    if glob.has_magic(text):
        matches = sorted(glob.glob(text, recursive=True))
        files = [of_file(path) for path in matches if Path(path).suffix.lower() in IMAGES | VIDEOS]
        folders = [] if "**" in text else [path for path in matches if os.path.isdir(path)]
        files += [source for path in folders for source in in_folder(path, leave_out, required=False)]
        if not files:
            none = f"matches {len(matches)} files, none of them a picture or video" if matches else "matches no file"
            raise DataError(f"{text}: {none}")
        return files
    raise DataError(f"{text}: no such picture, video, folder, list or camera")


def of_file(path: str) -> Source:
    return Source("video" if Path(path).suffix.lower() in VIDEOS else "image", path, Path(os.path.basename(path)))


def in_folder(folder: str, leave_out: Path | None, required: bool = True) -> list[Source]:
    """The pictures and videos below a folder, in the order of their paths, without hidden ones."""

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: {error.strerror}")

    left_out = os.path.realpath(leave_out) if leave_out else None
    paths = []
    for at, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(at, name)) != left_out]
        paths += [os.path.join(at, name) for name in names if not name.startswith(".")]
    paths = sorted(path for path in paths if Path(path).suffix.lower() in IMAGES | VIDEOS)
    if not paths and required:
        raise DataError(f"{folder}: no pictures or videos in this folder, nor in those below it")
    return [replace(of_file(path), name=Path(os.path.relpath(path, folder))) for path in paths]


def in_list(path: Path) -> list[Source]:
    """The files that a text file names, one per line; relative paths start at its folder. Raises DataError."""
    try:
        lines = read_bytes(path).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a list of pictures: {getattr(error, 'strerror', None) or 'not text'}") from None
    sources = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        file = os.path.join(path.parent, line.strip())
        if not os.path.isfile(file):
            raise DataError(f"{path}:{number}: no such file: {file}; a text file lists one picture or video per line")
        sources.append(of_file(file))
    if not sources:
        raise DataError(f"{path}: an empty list of pictures")
    return sources


def count_frames(sources: Sequence[Source]) -> int | None:
    """Number of frames of the sources, as far as videos state it. None: not known."""
    total = 0
    for source in sources:
        if source.kind == "image":
            total += 1
            continue
        if source.kind == "camera":
            return None
        with opened(source) as capture:
            total += max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    return total


def read_sources(sources: Sequence[Source], skipped: Callable[[str], None], workers: int = 2) -> Iterator[Frame]:
    """The frames of the sources, in their order, read ahead in threads.

    Args:
        skipped: called with a message for each source that cannot be read, or not to its end.
        workers: number of threads. 0: each frame is read when it is asked for.
    """
    for pictures, group in itertools.groupby(sources, key=lambda source: source.kind == "image"):
        if not pictures:
            for source in group:
                yield from read_video(source, skipped, workers)
            continue
        with closing(read_ahead(group, read_picture, workers, 2 * workers)) as readings:
            for frames, unreadable in readings:
                for message in unreadable:
                    skipped(message)
                yield from frames


class Reading(NamedTuple):
    """A picture, or a message if it cannot be read."""

    frames: list[Frame]
    unreadable: list[str]


def read_picture(source: Source) -> Reading:
    """Read the file of a picture."""
    try:
        return Reading([Frame(source, read_image(source.path))], [])
    except UnreadableImage as error:
        return Reading([], [str(error)])


def read_video(source: Source, skipped: Callable[[str], None], workers: int) -> Iterator[Frame]:
    """The frames of a video or of a camera."""
    what = "camera " * (source.kind == "camera") + source.path
    with opened(source) as capture:
        if not capture.isOpened():
            if source.kind == "video" and not is_text(source.path):
                what = f"{what} (its name is not UTF-8, which OpenCV needs)"
            skipped(f"{what}: not a video that OpenCV can decode" if source.kind == "video" else f"{what}: not found")
            return
        rate, expected = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        rate = rate if 0 < rate < 1000 else 25.0  # unknown
        number = 0
        # More than one thread would change the order
        with closing(read_ahead(itertools.repeat(capture), cv2.VideoCapture.read, min(workers, 1))) as frames:
            for decoded, image in frames:
                if not decoded:
                    break
                yield Frame(source, image, number, rate)
                number += 1
    if number == 0:
        skipped(f"{what}: no frame of this video can be decoded")
    elif number < 0.99 * expected:  # the number of frames is often an estimate
        skipped(f"the end of {what}: only {number} of {expected:.0f} frames can be decoded")


def is_text(name: str) -> bool:
    """Whether a file name is UTF-8. Python gives other bytes as lone surrogates."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


@contextmanager
def opened(source: Source) -> Iterator[cv2.VideoCapture]:
    """A video or camera, opened without messages on the console if that is impossible."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        if source.kind == "camera":
            capture = cv2.VideoCapture(int(source.path))
        elif os.path.isfile(source.path) and is_text(source.path):
            capture = cv2.VideoCapture(source.path)
        else:  # OpenCV would wait for a FIFO, and crash on a name that is not UTF-8
            capture = cv2.VideoCapture()
    finally:
        cv2.utils.logging.setLogLevel(level)
    try:
        yield capture
    finally:
        capture.release()
