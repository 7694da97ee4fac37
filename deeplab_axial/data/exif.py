# SPDX-License-Identifier: Apache-2.0
"""The orientation that a camera noted in an image file (EXIF): pixels count as stored, and users are told of it."""

import io

from PIL import Image

UPRIGHT = 1
_TAG = 0x0112


def orientation_of_file(data: bytes) -> int:
    """EXIF orientation, 1 (upright) to 8, of the bytes of an image file; 1 where there is none that can be read."""
    if b"Exif\0\0" not in data and b"eXIf" not in data:
        return UPRIGHT
    try:
        with Image.open(io.BytesIO(data)) as image:
            return orientation(image)
    except Exception:  # the pixels decode, and a broken header, which Pillow answers in many ways, is not used
        return UPRIGHT


def orientation(image: Image.Image) -> int:
    """`orientation_of_file` of an image that Pillow has opened."""
    try:
        value = image.getexif().get(_TAG, UPRIGHT)
    except Exception:  # as above
        return UPRIGHT
    return value if value in range(1, 9) else UPRIGHT
