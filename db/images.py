"""Reads image files, and rejects those that are damaged or are not the image that was annotated."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

import cv2
import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from .errors import DataError
from .files import read_bytes

# Readers of an image's header, by the first bytes of its file
HEADERS = {
    b"\xff\xd8": JpegImagePlugin.JpegImageFile,
    b"\x89PNG": PngImagePlugin.PngImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"GIF8": GifImagePlugin.GifImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"II": TiffImagePlugin.TiffImageFile,
    b"MM": TiffImagePlugin.TiffImageFile,
    b"P": PpmImagePlugin.PpmImageFile,
}
ORIENTATION = 0x0112  # EXIF tag: values from 5 on exchange height and width
LARGE = 2**24  # pixels: below this, an image is decoded whatever its header says
PIXELS_PER_BYTE = 10_000  # more than any format stores: PNG reaches 8,256 with one bit per pixel
MOST_BYTES = 2**31 - 1  # of an image file: OpenCV counts them in 32 bits


class UnreadableImage(DataError):
    """An image file that is missing, damaged, or not the one that was annotated."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def read_image(path: str | os.PathLike, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode an image file to uint8 (H, W, 3), BGR.

    Images of more than 8 bits are scaled by their own range, see to_8_bits.

    Args:
        size: the (height, width) that the image must have; None accepts any.

    Raises:
        UnreadableImage: the file is missing, truncated, no regular file or not an image, or the image has another size.
        MemoryError: there is not enough memory to decode it.
    """
    path = os.fspath(path)
    try:
        data = read_bytes(path, MOST_BYTES)
    except OSError as error:
        raise UnreadableImage(path, error.strerror or str(error)) from None
    if not data:
        raise UnreadableImage(path, "the file is empty")
    _check_header(path, data, size)
    if _is_truncated(data):
        raise UnreadableImage(path, "the file is cut short")
    image = decode(data)
    if image is not None and size is not None and image.shape[:2] != tuple(size):
        # Some data sets annotate images as stored, others as rotated by their EXIF tag: the size tells which.
        stored = decode(data, cv2.IMREAD_IGNORE_ORIENTATION)
        image = stored if stored is not None and stored.shape[:2] == tuple(size) else image
    if image is None:
        raise UnreadableImage(path, "not an image that OpenCV can decode")
    if size is not None and image.shape[:2] != tuple(size):
        raise UnreadableImage(path, _another_size(image.shape[:2], size))
    return image


def decode(data: bytes, flags: int = 0) -> np.ndarray | None:
    """An encoded image as uint8 (H, W, 3), BGR, or None if OpenCV cannot decode it. Raises MemoryError.

    flags: of cv2.imdecode, beside those for colour.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | flags)
        if image is None or image.dtype == np.uint8:
            return image
        if image.dtype == np.uint16:
            return to_8_bits(image)
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | flags)  # as OpenCV converts it
    except cv2.error as error:  # for example, more pixels than OpenCV's limit
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"decoding an image: {error.err}") from None
        return None


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """A uint16 image as uint8: the upper 8 of the 8, 10, 12, 14 or 16 bits that its largest value needs.

    Cameras and microscopes store 10, 12 or 14 bits in 16-bit files. Their upper byte alone would be nearly black.
    """
    bits = max(8, int(image.max(initial=0)).bit_length())
    return (image >> (bits + bits % 2 - 8)).astype(np.uint8)


def _check_header(path: str, data: bytes, size: tuple[int, int] | None) -> None:
    """Raise UnreadableImage if a large image must be refused. Its pixels are not decoded for that.

    That is an image of another size than the annotated one, in both orientations (of the stored image and of the one
    turned by its EXIF tag), and one that declares more pixels than its file can hold.
    """
    found = header_size(io.BytesIO(data))
    if found is None or found[0] * found[1] < LARGE:
        return
    if size is not None and tuple(size) not in (found, found[::-1]):
        raise UnreadableImage(path, _another_size(found, size))
    if found[0] * found[1] > PIXELS_PER_BYTE * len(data):
        raise UnreadableImage(path, f"declares {found[1]}x{found[0]} pixels in a file of {len(data):,} bytes")


def header_size(file: BinaryIO, turned: bool = False) -> tuple[int, int] | None:
    """(height, width) that the header of an image file declares. None for a header that cannot be read.

    turned: as the image is turned by its EXIF tag.
    """
    file.seek(0)
    first = file.read(4)
    reader = next((reader for start, reader in HEADERS.items() if first.startswith(start)), None)
    if reader is None:
        return None
    file.seek(0)
    try:
        with reader(file) as image:
            if turned and image.getexif().get(ORIENTATION, 1) >= 5:
                return image.width, image.height
            return image.height, image.width
    except Exception:  # Pillow raises many kinds for damaged files; OpenCV decides what is readable
        return None


def _another_size(found: tuple[int, int], size: tuple[int, int]) -> str:
    return f"is {found[1]}x{found[0]} pixels, where its annotations say {size[1]}x{size[0]}"


def _is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG file ends before its end marker. OpenCV decodes some of these and leaves the rest grey.

    Bytes after the end marker are ignored: some cameras append data. A JPEG's header is read segment by segment,
    because the thumbnail in it has an end marker of its own.
    """
    if data.startswith(b"\x89PNG"):
        return _is_truncated_png(data)
    if not data.startswith(b"\xff\xd8"):
        return False
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return False  # not according to the standard: OpenCV decides
        if data[at + 1] == 0xFF:  # fill byte
            at += 1
            continue
        if data[at + 1] == 0xDA:  # start of scan: from here on the end marker cannot occur by chance
            return data.rfind(b"\xff\xd9", at) < 0  # searched from the end, where it is expected
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return True


def _is_truncated_png(data: bytes) -> bool:
    """Whether a chunk of a PNG file is longer than the rest of the file, or the last one is missing.

    OpenCV reserves the memory of a chunk before it reads it: up to 4 GB.
    """
    at = 8
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        at += 12 + length
        if kind == b"IEND":
            return False
    return True
