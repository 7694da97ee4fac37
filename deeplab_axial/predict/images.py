# SPDX-License-Identifier: Apache-2.0
"""Images of every kind become uint8 RGB arrays, by the rules of training.

JPEG and PNG are decoded by TensorFlow, as in training, evaluation and an export's signature `encoded`: pixels count as
stored, whatever EXIF says of the orientation; grey becomes three equal channels; alpha is dropped; of 16 bits the upper
8 stay. All else that Pillow reads (BMP, WebP, PIL images in memory) is converted by the same rules.
"""

import glob
import io
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab_axial.data import exif
from deeplab_axial.data.diagnosis import reason
from deeplab_axial.errors import InputError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
VIDEO_EXTENSIONS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".gif")
_DECODED_BY_TENSORFLOW = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
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
        x = self.pixels
        return {
            1: lambda: x,
            2: lambda: x[:, ::-1],
            3: lambda: x[::-1, ::-1],
            4: lambda: x[::-1],
            5: lambda: x.transpose(1, 0, 2),
            6: lambda: np.rot90(x, -1),
            7: lambda: x[::-1, ::-1].transpose(1, 0, 2),
            8: lambda: np.rot90(x),
        }[self.orientation]()


def is_video(path: str) -> bool:
    """Whether the file's name says that it is a video; GIFs count as videos."""
    return path.lower().endswith(VIDEO_EXTENSIONS)


def find_inputs(patterns: Sequence[str]) -> list[str]:
    """Images and videos behind files, folders and globs ("**" for any depth), sorted within each pattern.

    Of folders, those files count whose names end as IMAGE_EXTENSIONS or VIDEO_EXTENSIONS; a file or glob is taken at
    its word.

    Raises:
      InputError: a pattern leads to no image.
    """
    known = (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS)
    paths: list[str] = []
    for pattern in patterns:
        if os.path.isdir(pattern):
            found = [
                os.path.join(pattern, name) for name in sorted(os.listdir(pattern)) if name.lower().endswith(known)
            ]
        else:
            found = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern, recursive=True))
        found = [path for path in found if os.path.isfile(path)]
        if not found:
            raise InputError(f"--input={pattern} leads to no image ({', '.join(known)}). Correct the path.")
        paths.extend(found)
    return paths


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Reads an image as uint8 [H, W, 3] RGB, as stored.

    Raises:
      InputError: there is no such file, or it is no image that decodes.
    """
    return decode_file(path).pixels


def decode_file(path: str | os.PathLike) -> Decoded:
    """`read_image`, with the orientation that EXIF tells.

    Raises:
      InputError: there is no such file, or it is no image that decodes.
    """
    path = os.fspath(path)
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            data = file.read()
    except (tf.errors.OpError, OSError) as error:
        text = reason(error) if isinstance(error, tf.errors.OpError) else str(error)
        raise InputError(f"{path} cannot be read ({text}). Correct the path.") from error
    return decode_bytes(data, path)


def decode_bytes(data: bytes, name: str) -> Decoded:
    """Decodes the bytes of an image file; `name` stands for it in messages.

    Raises:
      InputError: the bytes are no image that decodes, or an animation.
    """
    if data.startswith(_DECODED_BY_TENSORFLOW):
        try:
            pixels = tf.io.decode_image(data, channels=3, expand_animations=False).numpy()
        except tf.errors.OpError as error:
            raise InputError(f"{name} is no readable image ({reason(error)}). {_REMEDY}") from error
        return Decoded(pixels, exif.orientation_of_file(data))
    try:
        with Image.open(io.BytesIO(data)) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise InputError(
                    f"{name} must be one image. Received: {image.format} with {image.n_frames} frames. Predict it with "
                    "`deeplab-axial predict` as a video, or frame by frame."
                )
            return from_pil(image, name)
    except InputError:
        raise
    except Exception as error:  # Pillow's readers raise many kinds for bytes that are no image
        text = (
            f"{len(data)} bytes of no known image format" if isinstance(error, Image.UnidentifiedImageError) else error
        )
        raise InputError(f"{name} is no readable image ({text}). {_REMEDY}") from error


def from_pil(image: Image.Image, name: str) -> Decoded:
    """A PIL image by the rules of training; `name` stands for it in messages.

    Raises:
      InputError: its mode holds no colours of 8 or 16 bits.
    """
    orientation = exif.orientation(image)
    if image.mode.startswith("I"):  # 16 bits: "I;16" and its kin, "I" in older releases
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise InputError(f"{name} must have 8 or 16 bits a channel. Received: {values.min()} to {values.max()}.")
        grey = (values >> 8).astype(np.uint8)
        return Decoded(np.repeat(grey[..., None], 3, axis=-1), orientation)
    if image.mode == "F":
        raise InputError(f"{name} must have 8 or 16 bits a channel. Received: floating point. Scale it to 0 to 255.")
    return Decoded(np.array(image.convert("RGB")), orientation)


def from_array(values: Any, name: str) -> Decoded:
    """An array by the rules of training.

    Args:
      values: uint8 or uint16, [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGBA).
      name: stands for it in messages.

    Raises:
      ValueError: it is another array.
    """
    array = np.asarray(values)
    channels = array.shape[2] if array.ndim == 3 else 1
    if (
        array.ndim not in (2, 3)
        or channels not in (1, 3, 4)
        or 0 in array.shape
        or array.dtype
        not in (
            np.uint8,
            np.uint16,
        )
    ):
        raise ValueError(
            f"{name} must be a uint8 array [H, W, 3] in RGB order (grey, RGBA and uint16 are converted). Received: "
            f"{array.dtype} {array.shape}. Convert it, and give several images as a list."
        )
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    array = array.reshape(*array.shape[:2], channels)
    return Decoded(np.repeat(array, 3, axis=-1) if channels == 1 else np.ascontiguousarray(array[..., :3]))


def decode(image: Any, name: str = "The image") -> Decoded:
    """Whatever `PanopticModel.predict` takes: a path, the bytes of a file, a PIL image or an array.

    Raises:
      InputError: a file or its bytes are no image that decodes.
      ValueError: it is something else, or an array of another shape or type.
    """
    if isinstance(image, (str, os.PathLike)):
        return decode_file(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return decode_bytes(bytes(image), name)
    if isinstance(image, Image.Image):
        return from_pil(image, name)
    if hasattr(image, "__array__"):
        return from_array(image, name)
    raise ValueError(
        f"{name} must be a path, the bytes of an image file, a PIL image or a uint8 array [H, W, 3]. "
        f"Received: {type(image).__name__}."
    )
