# SPDX-License-Identifier: Apache-2.0
"""Reads image files for records, and refuses what training could not decode.

Records keep the original bytes, so these rules are those of training (`tf.io.decode_image` with three channels):
JPEG and PNG only; pixels count as stored, whatever EXIF says of the orientation; grey becomes three equal channels;
alpha is dropped; of 16 bits the upper 8 stay; a palette is looked up; CMYK is converted as TensorFlow's decoder does.
"""

import contextlib
import io
import os
from collections.abc import Iterable
from typing import NamedTuple

import tensorflow as tf
from PIL import Image

from deeplab_axial.data import exif
from deeplab_axial.errors import InputError

JPEG = "jpeg"
PNG = "png"
_SIGNATURES = {b"\xff\xd8\xff": JPEG, b"\x89PNG\r\n\x1a\n": PNG}
_FIRST_SIDEWAYS = 5  # orientations 5 to 8 swap height and width


class Remark(NamedTuple):
    """Something odd that does not stop a conversion; all of a kind become one warning.

    Attributes:
      what: the kind, as in "images have an EXIF orientation, which is not applied".
      count: how often.
      example: the first one.
    """

    what: str
    count: int
    example: str


class ImageFile(NamedTuple):
    """An image file that decodes.

    Attributes:
      data: the file's bytes.
      format: JPEG or PNG.
      height: pixels, as stored.
      width: pixels, as stored.
      remarks: what is odd about it.
    """

    data: bytes
    format: str
    height: int
    width: int
    remarks: tuple[Remark, ...] = ()


def read_bytes(path: str) -> bytes:
    """The bytes of a file.

    Raises:
      InputError: the file cannot be read.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    except (tf.errors.OpError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}). Check the file.") from error


def read_image(path: str, size: tuple[int, int] | None = None) -> ImageFile:
    """Reads and decodes an image as training will.

    Args:
      path: JPEG or PNG file; anything that `tf.io.gfile` takes.
      size: (height, width) that the annotation says, pixels; None if it says nothing.

    Returns:
      The file, with its size.

    Raises:
      InputError: the file cannot be read, is no JPEG or PNG, does not decode or has another size.
    """
    return decode_image(read_bytes(path), path, size)


def decode_image(data: bytes, path: str, size: tuple[int, int] | None = None) -> ImageFile:
    """`read_image` for bytes that are read already; `path` names them in messages."""
    image_format = next((name for start, name in _SIGNATURES.items() if data.startswith(start)), None)
    if image_format is None:
        raise InputError(f"{path} must be a JPEG or PNG image. Received: {_describe(data)}. Replace the file.")
    try:
        height, width, _ = tf.io.decode_image(data, channels=3, expand_animations=False).shape
    except tf.errors.OpError as error:
        raise InputError(
            f"{path} must be a JPEG or PNG image that decodes. Received: {len(data)} bytes of a damaged "
            f"{image_format.upper()}. Replace the file."
        ) from error
    orientation = exif.orientation_of_file(data)
    if size is not None and (height, width) != size:
        raise InputError(
            f"{path} must be as large as the annotation says, {size[0]} x {size[1]} (height x width). Received: "
            f"{height} x {width}. {_size_remedy((height, width), size, orientation)}"
        )
    remark = Remark(
        "images have an EXIF orientation, which is not applied: pixels count as stored",
        1,
        f"{path} with orientation {orientation}",
    )
    return ImageFile(data, image_format, height, width, (remark,) if orientation != exif.UPRIGHT else ())


def _describe(data: bytes) -> str:
    """What the bytes are instead."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return f"a {image.format} image"
    except Exception:  # Pillow's readers raise many kinds for bytes that are no image
        return f"{len(data)} bytes of no known image format"


def _size_remedy(size: tuple[int, int], expected: tuple[int, int], orientation: int) -> str:
    if size == expected[::-1] and orientation >= _FIRST_SIDEWAYS:
        return (
            f"The annotation was made on the image turned by its EXIF orientation ({orientation}), which is not "
            "applied here. Save the image turned, without that tag."
        )
    return "Correct the file or the annotation."


def check_files(paths: Iterable[str], folder: str, option: str) -> None:
    """Checks that files exist, with one listing a folder: a question per file is slow over a network.

    Args:
      paths: the files.
      folder: where the user says they lie.
      option: the option that says so, as "--image_dir".

    Raises:
      InputError: the folder or files are missing; names the first and counts them.
    """
    if not tf.io.gfile.isdir(folder):
        raise InputError(f"{option} must be a folder. Received: {folder}. Correct the path.")
    paths = list(paths)
    listed = set()
    for parent in {os.path.dirname(path) for path in paths}:
        # A name that is no UTF-8 spoils the listing, even of a file that nobody asked for; then each path is asked for.
        with contextlib.suppress(tf.errors.OpError, UnicodeDecodeError):
            listed.update(os.path.join(parent, name) for name in tf.io.gfile.listdir(parent))
    missing = [path for path in paths if path not in listed and not tf.io.gfile.exists(path)]
    if missing:
        raise InputError(
            f"{missing[0]} does not exist, though the data set names it ({len(missing)} of {len(paths)} files are "
            f"missing). Correct {option} or complete the data set."
        )
