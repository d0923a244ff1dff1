"""Videos, written frame by frame."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from nnet.drawing.images import drawable

CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "XVID"}


def video_name(name: Path) -> Path:
    """The name of a video as it can be written: with ".mp4" behind a suffix that cannot."""
    return name if name.suffix.lower() in CODECS else name.with_name(f"{name.name}.mp4")


class VideoFile:
    """A video that is written. The first image gives its size; its sides are rounded down to even numbers.

    What has been written so far can be played after `close`.
    """

    def __init__(self, path: Path, rate: float):
        """path: with a suffix of CODECS; its folder is created. rate: frames per second."""
        self.path, self.rate = path, rate
        self.size: tuple[int, int] = (0, 0)  # width, height
        self.writer: cv2.VideoWriter | None = None

    def write(self, image: np.ndarray) -> None:
        """Append an image (H, W, 3) uint8 BGR, resized if it is not as the first. Raises OSError."""
        if self.writer is None:
            self.size = image.shape[1::-1]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if drawable(str(self.path)) != str(self.path):
                raise OSError(f"cannot write {self.path}: OpenCV needs a name in UTF-8")
            codec = cv2.VideoWriter_fourcc(*CODECS[self.path.suffix.lower()])
            self.writer = cv2.VideoWriter(str(self.path), codec, self.rate, self.size)
            if not self.writer.isOpened():
                raise OSError(f"cannot write {self.path}: this OpenCV cannot encode {self.path.suffix} videos there")
        self.writer.write(image if image.shape[1::-1] == self.size else cv2.resize(image, self.size))

    def close(self) -> None:
        if self.writer is not None:
            self.writer.release()
