# SPDX-License-Identifier: Apache-2.0
"""The orientation that a camera noted in an image file (EXIF): pixels count as stored, and users are told of it."""

import numpy as np
from PIL import Image

from deeplab_axial.data import image_bytes

UPRIGHT = 1
_FIRST_SIDEWAYS = 5  # orientations 5 to 8 swap height and width
_TAG = 0x0112


def orientation_of_file(data: bytes) -> int:
    """EXIF orientation, 1 (upright) to 8, of the bytes of an image file; 1 where there is none that can be read."""
    if b"Exif\0\0" not in data and b"eXIf" not in data:
        return UPRIGHT
    try:
        with image_bytes.opened(data) as image:
            return orientation(image)
    except image_bytes.UnreadableImage:  # the pixels decode, and a broken header is not used
        return UPRIGHT


def orientation(image: Image.Image) -> int:
    """`orientation_of_file` of an image that Pillow has opened."""
    try:
        value = image.getexif().get(_TAG, UPRIGHT)
    except Exception:  # Pillow answers broken EXIF data in many ways, and they are not used
        return UPRIGHT
    return value if value in range(1, 9) else UPRIGHT


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(height, width) of an image of that stored size after `turn`."""
    return size[::-1] if orientation >= _FIRST_SIDEWAYS else size


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """An image [H, W, ...] as a viewer shows it: turned and mirrored by its orientation, 1 to 8."""
    x = pixels
    return {
        1: lambda: x,
        2: lambda: x[:, ::-1],
        3: lambda: x[::-1, ::-1],
        4: lambda: x[::-1],
        5: lambda: x.swapaxes(0, 1),
        6: lambda: np.rot90(x, -1),
        7: lambda: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda: np.rot90(x),
    }[orientation]()
