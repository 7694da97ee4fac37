# SPDX-License-Identifier: Apache-2.0
"""Images of every kind become uint8 RGB arrays, by the rules of training.

JPEG and PNG are decoded by TensorFlow, as in training, evaluation and an export's signature `encoded`: pixels count as
stored, whatever EXIF says of the orientation; grey becomes three equal channels; alpha is dropped; of 16 bits the upper
8 stay, or a value range says what is black and white. All else that `image_bytes.FORMATS` has (BMP, WebP, TIFF), and
PIL images in memory, is converted by the same rules.
"""

import os
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab_axial import files
from deeplab_axial.data import exif, image_bytes
from deeplab_axial.data.diagnosis import reason
from deeplab_axial.data.value_range import FULL, LEAST_MAXIMUM, DarkImage, ValueRange, to_8_bits
from deeplab_axial.errors import InputError

_DECODED_BY_TENSORFLOW = (image_bytes.JPEG_SIGNATURE, image_bytes.PNG_SIGNATURE)
_REMEDY = "Replace or remove it."


class Decoded(NamedTuple):
    """An image as it was stored.

    Attributes:
      pixels: uint8 [H, W, 3], RGB.
      orientation: by EXIF, 1 (upright) to 8.
    """

    pixels: np.ndarray
    orientation: int = exif.UPRIGHT

    def turned(self) -> np.ndarray:
        """The pixels as a viewer shows them: turned and mirrored by the orientation."""
        return exif.turn(self.pixels, self.orientation)


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Reads an image as uint8 [H, W, 3] RGB, as stored.

    Raises:
      InputError: there is no such file, or it is no image that decodes.
    """
    return decode_file(path).pixels


def decode_file(path: str | os.PathLike, value_range: ValueRange | None = None) -> Decoded:
    """`read_image`, with the orientation that EXIF tells.

    Args:
      path: of the file.
      value_range: of images of 16 bits a channel, see `value_range.to_8_bits`.

    Raises:
      InputError: there is no such file, or it is no image that decodes.
    """
    path = os.fspath(path)
    try:
        data = files.read(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}). Correct the path.") from error
    return decode_bytes(data, path, value_range)


def decode_bytes(data: bytes, name: str, value_range: ValueRange | None = None) -> Decoded:
    """Decodes the bytes of an image file; `name` stands for it in messages, `value_range` as in `decode_file`.

    Raises:
      InputError: the bytes are no image that decodes, are too large an image or an animation, or have 16 bits that they
        do not use while there is no range.
    """
    try:
        if data.startswith(_DECODED_BY_TENSORFLOW):
            return Decoded(image_bytes.decode(data, value_range), exif.orientation_of_file(data))
        with image_bytes.opened(data) as image:
            frames = getattr(image, "n_frames", 1)
            decoded = from_pil(image, name, value_range) if frames == 1 else None
    except tf.errors.OpError as error:
        raise InputError(f"{name} is no readable image ({reason(error)}). {_REMEDY}") from error
    except image_bytes.UnreadableImage as error:
        raise InputError(f"{name} is no readable image ({error}). {_REMEDY}") from error
    except DarkImage as error:
        raise InputError(f"{name} is not predicted: {error}.") from error
    if decoded is None:
        raise InputError(
            f"{name} must be one image. Received: {image.format} with {frames} frames. Predict it with "
            "`deeplab-axial predict` as a video, or frame by frame."
        )
    return decoded


def from_pil(image: Image.Image, name: str, value_range: ValueRange | None = None) -> Decoded:
    """A PIL image by the rules of training; `name` stands for it in messages, `value_range` as in `decode_file`.

    Raises:
      InputError: its mode holds no colours of 8 or 16 bits, it is too large, or it has 16 bits that it does not use
        while there is no range.
    """
    try:
        image_bytes.check_size(image.height, image.width)
        is_wide = _loses_bits(image)  # told by the file, which is forgotten when its pixels are read
        orientation = exif.orientation(image)
        if image.mode.startswith("I"):  # 16 bits: "I;16" and its kin, "I" in older releases
            values = np.asarray(image)
            if values.size and (values.min() < 0 or values.max() > FULL[1]):
                raise InputError(
                    f"{name} must have 8 or 16 bits a channel. Received: {values.min()} to {values.max()}."
                )
            grey = to_8_bits(values, value_range)
            return Decoded(np.repeat(grey[..., None], 3, axis=-1), orientation)
        if image.mode == "F":
            raise InputError(
                f"{name} must have 8 or 16 bits a channel. Received: floating point. Scale it to 0 to 255."
            )
        pixels = np.array(image.convert("RGB"))
    except (image_bytes.UnreadableImage, DarkImage) as error:
        raise InputError(f"{name} is not predicted: {error}.") from error
    except (OSError, SyntaxError) as error:  # Pillow reads the pixels here
        raise InputError(f"{name} is no readable image ({error}). {_REMEDY}") from error
    if is_wide and (value_range is not None or 0 < pixels.max(initial=0) < LEAST_MAXIMUM >> 8):
        raise InputError(
            f"{name} has colours of 16 bits, of which Pillow reads the upper 8 alone, and they are nearly black or to "
            "be scaled by a value range. Save it as a PNG and give that file, or an array of uint16."
        )
    return Decoded(pixels, orientation)


def _loses_bits(image: Image.Image) -> bool:
    """Whether Pillow is going to read the upper 8 of 16 bits, as it does where a pixel has several channels."""
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", None) or ())


def from_array(values: Any, name: str, value_range: ValueRange | None = None) -> Decoded:
    """An array by the rules of training.

    Args:
      values: uint8, uint16 or floats from 0 to 1; [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGBA).
      name: stands for it in messages.
      value_range: of uint16, see `value_range.to_8_bits`.

    Raises:
      InputError: uint16 is not used, and there is no range.
      ValueError: it is another array.
    """
    array = np.asarray(values)
    channels = array.shape[2] if array.ndim == 3 else 1
    is_float = array.dtype.kind == "f"
    is_known = is_float or array.dtype in (np.uint8, np.uint16)
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape or not is_known:
        raise ValueError(
            f"{name} must be a uint8 array [H, W, 3] in RGB order (grey, RGBA, uint16 and floats from 0 to 1 are "
            f"converted). Received: {array.dtype} {array.shape}. Convert it, and give several images as a list."
        )
    array = array.reshape(*array.shape[:2], channels)[..., : min(channels, 3)]
    try:
        image_bytes.check_size(*array.shape[:2])
        if array.dtype == np.uint16:
            array = to_8_bits(array, value_range)
    except (image_bytes.UnreadableImage, DarkImage) as error:
        raise InputError(f"{name} is not predicted: {error}.") from error
    if is_float:
        array = _from_floats(array, name)
    return Decoded(np.repeat(array, 3, axis=-1) if channels == 1 else np.ascontiguousarray(array))


def _from_floats(array: np.ndarray, name: str) -> np.ndarray:
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # not a number is refused, too
        raise ValueError(
            f"{name}: an array of floats must lie in [0, 1], black to white. Received: {low:g} to {high:g}. Scale it, "
            "or convert it to uint8 if it lies in [0, 255]."
        )
    return np.round(array.astype(np.float32) * 255).astype(np.uint8)


def decode(image: Any, name: str = "The image", value_range: ValueRange | None = None) -> Decoded:
    """Whatever `PanopticModel.predict` takes: a path, the bytes of a file, a file object, a PIL image or an array.

    Raises:
      InputError: a file or its bytes are no image that decodes, or the image has 16 bits that it does not use while
        `value_range` is None.
      ValueError: it is something else, or an array of another shape or type.
    """
    if isinstance(image, str | os.PathLike):
        return decode_file(image, value_range)
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_bytes(bytes(image), name, value_range)
    if isinstance(image, Image.Image):
        return from_pil(image, name, value_range)
    if hasattr(image, "__array__"):
        return from_array(image, name, value_range)
    if callable(getattr(image, "read", None)):
        return decode_bytes(_read(image, name), name, value_range)
    raise ValueError(
        f"{name} must be a path, the bytes of an image file, a file object, a PIL image or a uint8 array [H, W, 3]. "
        f"Received: {type(image).__name__}."
    )


def _read(file: Any, name: str) -> bytes:
    """What is left to read in a file object."""
    data = file.read()
    if not isinstance(data, bytes):
        close = getattr(data, "close", None)  # of a coroutine, which would complain that nobody awaited it
        if close is not None:
            close()
        raise ValueError(
            f"{name}: `read` of a file object must return bytes. Received: {type(data).__name__}. Open the file in "
            "binary mode, or await what it returns and give the bytes."
        )
    if not data:
        raise InputError(f"{name} is a file object with nothing left to read. Go back to its start: seek(0).")
    return data
