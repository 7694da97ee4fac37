# SPDX-License-Identifier: Apache-2.0
"""Reads image files for records, and refuses what training could not decode.

Records keep the original bytes, so these rules are those of training (`tf.io.decode_image` with three channels):
JPEG and PNG only; pixels count as stored, whatever EXIF says of the orientation; grey becomes three equal channels;
alpha is dropped; of 16 bits the upper 8 stay; a palette is looked up; CMYK is converted as TensorFlow's decoder does.
What is turned upright or scaled from a value range of 16 bits becomes a PNG of 8 bits.
"""

import contextlib
import os
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab_axial import files
from deeplab_axial.choices import UPRIGHT
from deeplab_axial.data import exif, image_bytes, records
from deeplab_axial.data import value_range as ranges
from deeplab_axial.data.value_range import ValueRange
from deeplab_axial.errors import InputError

JPEG = "jpeg"
PNG = "png"
_SIGNATURES = {image_bytes.JPEG_SIGNATURE: JPEG, image_bytes.PNG_SIGNATURE: PNG}


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
      data: the file's bytes, or those of the PNG that it became.
      format: JPEG or PNG.
      height: pixels, as in `data`.
      width: pixels, as in `data`.
      remarks: what is odd about it.
      labels_turn: EXIF orientation by which its labels must be turned to fit; 1 if they fit.
      source_bytes: bytes of the original file.
    """

    data: bytes
    format: str
    height: int
    width: int
    remarks: tuple[Remark, ...] = ()
    labels_turn: int = exif.UPRIGHT
    source_bytes: int = 0

    @property
    def label_size(self) -> tuple[int, int]:
        """(height, width) that its labels must have before they are turned, pixels."""
        return exif.turned_size((self.height, self.width), self.labels_turn)


def check_upright(upright: str | None) -> None:
    """Checks the option of this name; raises InputError if it is none of UPRIGHT."""
    if upright is not None and upright not in UPRIGHT:
        raise InputError(f"--upright must be one of {', '.join(UPRIGHT)}. Received: {upright!r}. Pass one of them.")


def changes(upright: str | None, value_range: ValueRange | None = None) -> tuple[str, ...]:
    """What these options add to the fingerprint of a conversion: nothing where they are not given."""
    options = {"upright": upright, "value_range": value_range}
    return tuple(f"{name}={value}" for name, value in options.items() if value is not None)


def read_bytes(path: str) -> bytes:
    """The bytes of a file.

    Raises:
      InputError: the file cannot be read.
    """
    try:
        return files.read(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}). Check the file.") from error


def read_image(
    path: str,
    size: tuple[int, int] | None = None,
    *,
    has_labels: bool = False,
    upright: str | None = None,
    value_range: ValueRange | None = None,
) -> ImageFile:
    """Reads and decodes an image as training will.

    Args:
      path: JPEG or PNG file; anything that `tf.io.gfile` takes.
      size: (height, width) that the annotation says, pixels; None if it says nothing.
      has_labels: whether a map of labels goes with it, which must lie as the image does.
      upright: one of UPRIGHT; None where the user said nothing.
      value_range: of images of 16 bits a channel, see `value_range.to_8_bits`.

    Returns:
      The file, with its size.

    Raises:
      InputError: the file cannot be read, is no JPEG or PNG, is too large, does not decode or has another size; it has
        an EXIF orientation, and nothing tells whether the labels were made on pixels as stored; or it has 16 bits that
        it does not use, and there is no range.
    """
    options = {"has_labels": has_labels, "upright": upright, "value_range": value_range}
    return decode_image(read_bytes(path), path, size, **options)


def decode_image(
    data: bytes,
    path: str,
    size: tuple[int, int] | None = None,
    *,
    has_labels: bool = False,
    upright: str | None = None,
    value_range: ValueRange | None = None,
) -> ImageFile:
    """`read_image` for bytes that are read already; `path` names them in messages."""
    image_format = next((name for start, name in _SIGNATURES.items() if data.startswith(start)), None)
    if image_format is None:
        raise InputError(f"{path} must be a JPEG or PNG image. Received: {_describe(data)}. Replace the file.")
    pixels, largest = _decode(data, path, image_format, value_range)
    orientation = exif.orientation_of_file(data)
    stored = pixels.shape[:2]
    turn = orientation if upright in ("image", "both") else exif.UPRIGHT
    expected = exif.turned_size(stored, orientation) if upright == "image" else stored
    if size is not None and expected != size:
        raise InputError(
            f"{path} must be as large as the annotation says, {size[0]} x {size[1]} (height x width). Received: "
            f"{expected[0]} x {expected[1]}. {_size_remedy(stored, size, orientation, upright)}"
        )
    if has_labels and upright is None:
        _check_orientation(path, stored, orientation)
    remarks = _remarks(data, path, orientation if turn == exif.UPRIGHT else exif.UPRIGHT, largest, value_range)
    is_new = turn != exif.UPRIGHT or (value_range is not None and image_bytes.is_wide_png(data))
    pixels = exif.turn(pixels, turn)
    return ImageFile(
        data=records.encode_png(pixels) if is_new else data,
        format=PNG if is_new else image_format,
        height=pixels.shape[0],
        width=pixels.shape[1],
        remarks=remarks,
        labels_turn=turn if upright == "both" else exif.UPRIGHT,
        source_bytes=len(data),
    )


def _decode(data: bytes, path: str, image_format: str, value_range: ValueRange | None) -> tuple[np.ndarray, int]:
    """The pixels as stored, uint8 [H, W, 3], and the largest value in the file."""
    try:
        is_wide = image_bytes.is_wide_png(data)
        values = image_bytes.decode_wide(data) if is_wide else image_bytes.decode(data)
        return ranges.to_8_bits(values, value_range) if is_wide else values, int(values.max(initial=0))
    except (image_bytes.TooLarge, ranges.DarkImage) as error:
        raise InputError(f"{path} is not converted: {error}.") from error
    except tf.errors.OpError as error:
        raise InputError(
            f"{path} must be a JPEG or PNG image that decodes. Received: {len(data)} bytes of a damaged "
            f"{image_format.upper()}. Replace the file."
        ) from error


def _describe(data: bytes) -> str:
    """What the bytes are instead."""
    try:
        with image_bytes.opened(data) as image:
            return f"a {image.format} image"
    except image_bytes.UnreadableImage as error:
        return str(error)


def _size_remedy(stored: tuple[int, int], expected: tuple[int, int], orientation: int, upright: str | None) -> str:
    turned = exif.turned_size(stored, orientation)
    if turned == stored or expected not in (stored, turned):
        return "Correct the file or the annotation."
    if upright == "image":
        return (
            f"The annotation was made on pixels as stored, before its EXIF orientation ({orientation}) turned the "
            "image: pass --upright=both or --upright=none."
        )
    return (
        f"The annotation was made on the image turned by its EXIF orientation ({orientation}), which is not "
        "applied here. Pass --upright=image, or save the image turned, without that tag."
    )


def _check_orientation(path: str, stored: tuple[int, int], orientation: int) -> None:
    """Refuses a labelled image that may lie otherwise than its labels: its size does not tell."""
    if orientation != exif.UPRIGHT and exif.turned_size(stored, orientation) == stored:
        raise InputError(
            f"{path} has EXIF orientation {orientation}, and its size, {stored[0]} x {stored[1]} (height x width), "
            "does not tell whether labels were made on pixels as stored or on what viewers show. If on what viewers "
            "show, pass --upright=image, which turns images; if on pixels as stored, --upright=both turns both and "
            "--upright=none neither."
        )


def _remarks(
    data: bytes, path: str, orientation: int, largest: int, value_range: ValueRange | None
) -> tuple[Remark, ...]:
    """What is odd; `orientation` is the one that is not applied, `largest` the largest value in the file."""
    found = []
    if orientation != exif.UPRIGHT:
        what = "images have an EXIF orientation, which is not applied: pixels count as stored"
        found.append(Remark(what, 1, f"{path} with orientation {orientation}"))
    if value_range is not None and image_bytes.is_wide_png(data) and largest > value_range[1]:
        what = "images have values above --value_range, which become white"
        found.append(Remark(what, 1, f"{path} with {largest}"))
    return tuple(found)


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
