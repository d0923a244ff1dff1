"""Images that the tests of drawing share, and what they look for in them."""

import numpy as np


def grey(height: int, width: int) -> np.ndarray:
    """A uniform image (height, width, 3) of value 128."""
    return np.full((height, width, 3), 128, np.uint8)


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """Whether any pixel of the picture has exactly this colour."""
    return bool((picture == colour).all(axis=2).any())
