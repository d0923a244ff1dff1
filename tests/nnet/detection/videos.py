"""Videos for tests."""

import cv2
import numpy as np
import pytest


def write_video(path, count=12, rate=12.5, size=(48, 64), seed=0):
    """A video of noise, its frames getting brighter."""
    codec = cv2.VideoWriter_fourcc(*{".mp4": "mp4v", ".avi": "XVID", ".mkv": "mp4v"}[path.suffix])
    writer = cv2.VideoWriter(str(path), codec, rate, size[::-1])
    if not writer.isOpened():
        pytest.skip(f"this OpenCV cannot encode {path.suffix}")
    rng = np.random.default_rng(seed)
    for i in range(count):
        writer.write(rng.integers(0, 80, (*size, 3), dtype=np.uint8) + np.uint8(150 * i / count))
    writer.release()
