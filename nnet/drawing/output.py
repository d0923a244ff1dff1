"""Pictures and videos of detections, in an output folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from nnet.detection.sources import Frame, Source
from nnet.drawing.boxes import class_colour, draw_boxes
from nnet.drawing.detected import DetectedObjects
from nnet.drawing.heatmaps import draw_heatmap
from nnet.drawing.images import write_image
from nnet.drawing.video import VideoFile, video_name


class Output:
    """Writes pictures below a folder, under the names and in the size of their sources.

    pictures/NAME: with boxes. heatmaps/KIND/NAME: with the heatmap of a kind of keypoint. crops/CLASS/: the objects.
    The frames of a video have to come in order; they make a video of its frame rate.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.videos: dict[str, VideoFile] = {}  # of the present source, by kind of picture
        self.source: Source | None = None

    def draw(self, frame: Frame, found: DetectedObjects) -> None:
        """Write the picture with boxes. Raises OSError."""
        self.write("pictures", frame, found.draw())

    def draw_heatmaps(self, frame: Frame, found: DetectedObjects, heatmaps: Mapping[str, np.ndarray]) -> None:
        """Write each kind's heatmap over the image, with the boxes. Raises OSError.

        heatmaps: by kind of keypoint, scores (H, W) at the pixels of the image.
        """
        colours = [class_colour(int(label)) for label in found.labels]
        for kind, scores in heatmaps.items():
            picture = draw_heatmap(frame.image, scores, enlarge=False)
            picture = draw_boxes(picture, found.boxes, [""] * len(found), colours, enlarge=False)
            self.write(f"heatmaps/{kind}", frame, picture)

    def cut(self, frame: Frame, found: DetectedObjects) -> None:
        """Write the objects, as crops/CLASS/NAME_NUMBER, of videos NAME_FRAME_NUMBER. Raises OSError."""
        name = picture_name(frame.source.name) if frame.rate is None else frame.source.name.with_suffix(".jpg")
        stem = name.stem if frame.rate is None else f"{name.stem}_{frame.number:06d}"
        for number, (kind, crop) in enumerate(zip(found.names, found.crops(), strict=True), 1):
            file = name.with_name(f"{stem}_{number}{name.suffix}")
            write_image(self.folder / "crops" / file_name(kind) / file, crop)

    def write(self, kind: str, frame: Frame, picture: np.ndarray) -> None:
        """Write a picture, or append it to its video. Raises OSError."""
        name = frame.source.name
        if frame.rate is None:
            write_image(self.folder / kind / picture_name(name), picture)
            return
        if frame.source != self.source:
            self.close()
            self.source = frame.source
        if kind not in self.videos:
            self.videos[kind] = VideoFile(self.folder / kind / video_name(name), frame.rate)
        self.videos[kind].write(picture)

    def close(self) -> None:
        """Finish the videos."""
        for video in self.videos.values():
            video.close()
        self.videos = {}


def picture_name(name: Path) -> Path:
    """The name of a picture as it can be written: with ".jpg" behind a suffix that OpenCV cannot encode."""
    return name if name.suffix and cv2.haveImageWriter(name.name) else name.with_name(f"{name.name}.jpg")


def file_name(text: str) -> str:
    """A class name as the name of a folder."""
    return re.sub(r"[^\w .-]+", "_", text).strip(". ") or "_"
