"""Images as callers hand them in: converted, or refused with a line that says what to do."""

import cv2
import numpy as np
import pytest
from PIL import Image

from db import DataError, UnreadableImage
from nnet.detection.inputs import to_bgr

BGR = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = BGR[..., 0]
ALPHA = np.dstack([BGR, GREY])


@pytest.mark.parametrize(
    "image, channels, expected",
    [
        (BGR, "bgr", BGR),
        (BGR[..., ::-1], "rgb", BGR),
        (ALPHA, "bgr", BGR),
        (ALPHA[..., [2, 1, 0, 3]], "rgb", BGR),
        (GREY, "bgr", np.dstack([GREY] * 3)),
        (GREY[..., None], "bgr", np.dstack([GREY] * 3)),
        (BGR.astype(np.uint16) * 257, "bgr", BGR),
        (np.zeros((5, 7), np.uint16), "bgr", np.zeros_like(BGR)),
        (BGR / 255, "bgr", BGR),
        ((BGR / 255).astype(np.float32), "bgr", BGR),
        (np.asfortranarray(BGR)[:, ::-1], "bgr", BGR[:, ::-1]),
    ],
)
def test_arrays(image, channels, expected):
    before = image.copy()
    found = to_bgr(image, channels)
    assert found.dtype == np.uint8 and found.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "image, words",
    [
        (BGR.astype(np.float32), "float32 with values from"),
        (np.full((5, 7, 3), np.nan), "with values from nan to nan"),
        (BGR / 255 - 0.1, "where 0 to 1 is expected"),
        (BGR.astype(np.uint16), "uint16 with no value above 255"),
        (BGR.astype(np.int64), "is int64"),
        (BGR > 9, "is bool"),
        (BGR.transpose(2, 0, 1), "image.transpose(1, 2, 0)"),
        (BGR[None], "detector(list(images))"),
        (np.zeros((5, 7, 2), np.uint8), "got (5, 7, 2)"),
        (np.zeros((0, 7, 3), np.uint8), "no pixels"),
        (np.zeros(5, np.uint8), "got (5,)"),
    ],
)
def test_arrays_that_are_refused(image, words):
    with pytest.raises(DataError) as error:
        to_bgr(image)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_other_values_are_refused():
    torch = pytest.importorskip("torch")
    for value, words in ((3, "got int"), (torch.zeros(3, 5, 7), "image.permute(1, 2, 0)")):
        with pytest.raises(TypeError) as error:
            to_bgr(value)
        assert words in str(error.value)
    with pytest.raises(DataError, match="expected 'bgr' or 'rgb'"):
        to_bgr(BGR, "RGB")


def test_pil_images_are_as_their_files(tmp_path):
    """Of any mode, and turned by their EXIF tag."""
    picture = Image.fromarray(BGR[..., ::-1])
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: turn by 90 degrees
    picture.save(tmp_path / "turned.jpg", exif=turned, quality=95)
    files = {"turned.jpg": None}
    for mode in ("RGB", "L", "RGBA", "P", "1"):
        picture.convert(mode).save(tmp_path / f"{mode}.png")
        files[f"{mode}.png"] = mode
    cv2.imwrite(str(tmp_path / "16.png"), GREY.astype(np.uint16) * 257)
    for name in (*files, "16.png"):
        with Image.open(tmp_path / name) as image:
            found = to_bgr(image)
        from_file = to_bgr(tmp_path / name)
        assert found.shape == from_file.shape == ((7, 5, 3) if name == "turned.jpg" else (5, 7, 3))
        tolerance = 4 if name.endswith("jpg") else 0  # two JPEG decoders
        assert np.abs(found.astype(int) - from_file).max() <= tolerance, name
    np.testing.assert_array_equal(to_bgr(str(tmp_path / "RGB.png")), BGR)
    with pytest.raises(DataError, match="mode 'F'"):
        to_bgr(Image.new("F", (3, 4)))


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    for path in (tmp_path / "text.jpg", tmp_path / "none.jpg"):
        with pytest.raises(UnreadableImage, match=path.name):
            to_bgr(path)
