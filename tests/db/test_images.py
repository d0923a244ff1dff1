"""Reading image files."""

import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

import configs
from db import DataError, UnreadableImage, read_image
from db.coco import read_json
from db.images import header_size


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_read_image(tmp_path):
    image = picture(20, 30)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    assert np.array_equal(read_image(tmp_path / "a.png", (20, 30)), image)
    with pytest.raises(UnreadableImage, match=r"a\.png: is 30x20 pixels, where its annotations say 20x30"):
        read_image(tmp_path / "a.png", (30, 20))
    with pytest.raises(DataError, match=r"none\.jpg: No such file"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(UnreadableImage):
        read_image(tmp_path)
    for content, reason in ((b"", "empty"), (b"GIF? no", "not an image")):
        (tmp_path / "bad.jpg").write_bytes(content)
        with pytest.raises(UnreadableImage, match=reason):
            read_image(tmp_path / "bad.jpg")


def jpeg(image, *options):
    return cv2.imencode(".jpg", image, options)[1].tobytes()


@pytest.mark.parametrize("progressive", [0, 1])
def test_truncated_jpeg(tmp_path, progressive):
    data = jpeg(picture(120, 160), cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    thumbnail = jpeg(picture(16, 16))
    exif = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = data[:2] + exif + data[2:]  # a thumbnail in the header, with an end marker of its own
    path = tmp_path / "a.jpg"
    for whole in (data, data + b"what some cameras append", data[:2] + b"\xff" + data[2:]):
        path.write_bytes(whole)
        assert read_image(path).shape == (120, 160, 3)
    for length in (len(data) - 2, len(data) * 3 // 4, len(data) // 2, len(exif) // 2):
        path.write_bytes(data[:length])
        with pytest.raises(UnreadableImage):
            read_image(path)


@pytest.mark.parametrize("ending", [".jpg", ".png", ".bmp", ".gif", ".webp", ".tif", ".ppm"])
def test_the_size_is_read_from_the_header(ending):
    assert header_size(io.BytesIO(cv2.imencode(ending, picture(48, 64))[1].tobytes())) == (48, 64)


@pytest.mark.parametrize("size, reason", [(None, "declares 32767x32767 pixels"), ((48, 64), "is 32767x32767 pixels")])
def test_a_small_file_that_declares_a_huge_image_is_not_decoded(tmp_path, monkeypatch, size, reason):
    """It would take 3 GB."""
    data = jpeg(picture(48, 64))
    frame = data.index(b"\xff\xc0") + 5  # height and width, 2 bytes each
    (tmp_path / "a.jpg").write_bytes(data[:frame] + b"\x7f\xff" * 2 + data[frame + 4 :])
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(UnreadableImage, match=reason):
        read_image(tmp_path / "a.jpg", size)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no FIFOs")
@pytest.mark.parametrize("read", [read_image, read_json, configs.load], ids=["image", "annotations", "config"])
def test_only_regular_files_are_opened(tmp_path, read):
    """A FIFO without a writer would be waited for, and /dev/zero has no end."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path / "../../../../../../../dev/zero", Path("/dev/zero")):
        with pytest.raises(ValueError, match="not a regular file"):
            read(path)
    for path in ("a\0b", "a" * 5000):
        with pytest.raises(ValueError, match="file name|File name"):
            read(path)


def test_a_png_whose_chunk_is_longer_than_the_file_is_not_decoded(tmp_path, monkeypatch):
    """OpenCV would reserve 4 GB for it."""
    data = cv2.imencode(".png", picture(20, 30))[1].tobytes()
    at = data.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(data[:at] + b"\xff\xff" + data[at + 2 :])
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(UnreadableImage, match="cut short"):
        read_image(tmp_path / "a.png")


def test_truncated_png(tmp_path):
    data = cv2.imencode(".png", picture(120, 160))[1].tobytes()
    path = tmp_path / "a.png"
    for length in (len(data) - 12, len(data) // 2):
        path.write_bytes(data[:length])
        with pytest.raises(UnreadableImage):
            read_image(path)


def test_real_images_are_readable(shared_data):
    paths = sorted((shared_data / "coco_tiny").glob("*/*.jpg")) + sorted((shared_data / "bccd").glob("*/*.jpg"))
    assert len(paths) > 100
    for path in paths:
        read_image(path)


def test_images_turned_by_their_exif_tag(tmp_path):
    """The annotated size tells whether an image was annotated as stored or as turned."""
    stored = picture(20, 30)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6: 90 degrees
    data = jpeg(stored)
    data = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    (tmp_path / "a.jpg").write_bytes(data)
    assert read_image(tmp_path / "a.jpg", (20, 30)).shape == (20, 30, 3)
    assert read_image(tmp_path / "a.jpg", (30, 20)).shape == (30, 20, 3)
    assert read_image(tmp_path / "a.jpg").shape == (30, 20, 3)


@pytest.mark.parametrize("bits, shift", [(8, 0), (9, 2), (10, 2), (12, 4), (13, 6), (14, 6), (16, 8)])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_images_of_more_than_8_bits_are_scaled_by_their_own_range(tmp_path, bits, shift, ending):
    grey = np.random.default_rng(0).integers(0, 2**bits, (20, 30), dtype=np.uint16)
    grey[0, 0] = 2**bits - 1
    path = tmp_path / f"a.{ending}"
    cv2.imwrite(str(path), grey)
    expected = (grey >> shift).astype(np.uint8)
    assert np.array_equal(read_image(path, (20, 30)), np.stack([expected] * 3, 2))
