"""Images as callers hand them in (paths, arrays, PIL images) -> uint8 (H, W, 3) BGR, or an error that says why not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, Union

import cv2
import numpy as np

from db import DataError, read_image
from db.images import to_8_bits

if TYPE_CHECKING:
    from PIL import Image

ImageLike = Union[str, "os.PathLike[str]", np.ndarray, "Image.Image"]
Channels = Literal["bgr", "rgb"]


def to_bgr(image: ImageLike, channels: Channels = "bgr") -> np.ndarray:
    """An image as uint8 (H, W, 3), BGR.

    Args:
        image: a path; a PIL image, which is turned by its EXIF tag, as files are; or an array, see `array_to_bgr`.
        channels: order of the colours of an array.

    Raises:
        DataError: the file cannot be read, or the array is not an image.
        TypeError: no such kind of image.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if isinstance(image, np.ndarray):
        return array_to_bgr(image, channels)
    if type(image).__module__.partition(".")[0] == "PIL" or hasattr(image, "getbands"):
        return pil_to_bgr(image)
    hint = "; for a tensor: image.permute(1, 2, 0).cpu().numpy()" if hasattr(image, "permute") else ""
    raise TypeError(f"expected an image as path, NumPy array or PIL image, got {type(image).__name__}{hint}")


def array_to_bgr(image: np.ndarray, channels: Channels = "bgr") -> np.ndarray:
    """An array as uint8 (H, W, 3), BGR.

    Args:
        image: grey (H, W) or (H, W, 1), colour (H, W, 3), or with alpha (H, W, 4), which is dropped; uint8, uint16
            (scaled by its own range, as files are), or floating point in 0..1.
        channels: order of the colours.

    Raises:
        DataError: another shape or type, or values out of range. The message says how to convert them.
    """
    if channels not in ("bgr", "rgb"):
        raise DataError(f"channels={channels!r}: expected 'bgr' or 'rgb'")
    shape, count = image.shape, image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or count not in (1, 3, 4):
        hint = ""
        if image.ndim == 4:
            hint = "; pass several images as a list: detector(list(images))"
        elif image.ndim == 3 and shape[0] in (1, 3, 4):
            hint = "; with the channels first, convert it: image.transpose(1, 2, 0)"
        raise DataError(f"expected an image of shape (H, W), (H, W, 3) or (H, W, 4), got {shape}{hint}")
    if 0 in shape:
        raise DataError(f"the image has no pixels: its shape is {shape}")
    image = to_bytes(image)
    if count == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    image = image[..., :3]
    return np.ascontiguousarray(image[..., ::-1] if channels == "rgb" else image)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """An array of any accepted type as uint8. Raises DataError."""
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        if 0 < image.max() < 256:
            raise DataError("the image is uint16 with no value above 255: if these are 8 bits, image.astype(np.uint8)")
        return to_8_bits(image)
    if np.issubdtype(image.dtype, np.floating):
        low, high = float(image.min()), float(image.max())
        if not (0 <= low and high <= 1):  # also if any is NaN
            raise DataError(
                f"the image is {image.dtype} with values from {low:g} to {high:g}, where 0 to 1 is expected: scale it, "
                "or image.round().clip(0, 255).astype(np.uint8) if it has values from 0 to 255"
            )
        return np.rint(image * np.float64(255)).astype(np.uint8)
    raise DataError(f"the image is {image.dtype}, where uint8, uint16 or floating point in 0..1 is expected")


def pil_to_bgr(image: Image.Image) -> np.ndarray:
    """A PIL image of any mode as uint8 (H, W, 3), BGR, turned by its EXIF tag."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return array_to_bgr(np.asarray(image).astype(np.uint16))
    if image.mode in ("I", "F"):
        raise DataError(f"the PIL image has mode {image.mode!r}, whose range is not known: convert it to 'L' or 'RGB'")
    return array_to_bgr(np.asarray(image.convert("RGB")), "rgb")
