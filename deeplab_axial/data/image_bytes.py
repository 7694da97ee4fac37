# SPDX-License-Identifier: Apache-2.0
"""From the bytes of an image file to pixels: the one place where images are opened.

Pillow and TensorFlow read what strangers send, so formats and sizes are limited here. Pillow would run Ghostscript for
an EPS file whatever its name, and a PNG of 17 kB may hold 144 million pixels: what is opened is one of FORMATS, and its
header says at most MAX_PIXELS, before anything is decoded.
"""

import contextlib
import io
import re
import struct
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from PIL import Image, features

from deeplab_axial.choices import MAX_PIXELS
from deeplab_axial.data import value_range as ranges
from deeplab_axial.data.value_range import ValueRange
from deeplab_axial.errors import InputError

# As Pillow calls them. AVIF needs Pillow 11.3.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
if "avif" in features.get_supported():
    FORMATS += ("AVIF",)
JPEG_SIGNATURE = b"\xff\xd8\xff"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The next marker of a JPEG that has a length, past what lies between, as libjpeg finds it.
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that tell the size
_LAST_MARKERS = (0xD9, 0xDA)  # end of the image, start of its data
_HEADER_BYTES = 32
_BIT_DEPTH = 24  # where a PNG says how many bits a channel has
_RULE = f"an image may have at most {MAX_PIXELS:,} pixels"
_UNKNOWN = "an image must be a JPEG, PNG, BMP or GIF file whose header tells its size: save it as JPEG or PNG"


class UnreadableImage(ValueError):
    """Bytes are no image that this library opens; the message says why, to stand in parentheses."""


class TooLarge(UnreadableImage):
    """An image has more than MAX_PIXELS."""


def check_size(height: int, width: int) -> None:
    """Refuses an image of too many pixels.

    Raises:
      TooLarge: says how many.
    """
    if height * width > MAX_PIXELS:
        raise TooLarge(f"{_RULE}, and it has {height} x {width}, height x width: make it smaller, or cut it up")


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """An image file, opened by Pillow, which decodes it when its pixels are asked for.

    Args:
      data: the file's bytes.

    Raises:
      UnreadableImage: they are of none of FORMATS, or the image is too large; or Pillow fails on them, inside the
        `with` block, too.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_size(image.height, image.width)
            yield image
    except (UnreadableImage, InputError):
        raise
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage(f"{len(data)} bytes of no known image format") from error
    except Image.DecompressionBombError as error:
        raise TooLarge(f"{_RULE}, and it has more: make it smaller, or cut it up") from error
    except Exception as error:  # Pillow's readers raise many kinds for bytes that are damaged
        raise UnreadableImage(str(error) or type(error).__name__) from error


def is_wide_png(data: bytes) -> bool:
    """Whether the bytes are a PNG of 16 bits a channel."""
    return data.startswith(PNG_SIGNATURE) and data[_BIT_DEPTH : _BIT_DEPTH + 1] == b"\x10"


def decode(data: bytes, value_range: ValueRange | None = None) -> np.ndarray:
    """A JPEG or PNG file as TensorFlow decodes it, on the host.

    Args:
      data: the file's bytes.
      value_range: of the values of 16 bits, see `value_range.to_8_bits`.

    Returns:
      uint8 [H, W, 3], RGB.

    Raises:
      TooLarge: the header says more than MAX_PIXELS.
      value_range.DarkImage: 16 bits are not used, and there is no range.
      tf.errors.OpError: it does not decode.
    """
    check_size(*_size_in_header(data))
    if is_wide_png(data):
        return ranges.to_8_bits(decode_wide(data), value_range)
    return tf.io.decode_image(data, channels=3, expand_animations=False).numpy()


def decode_wide(data: bytes) -> np.ndarray:
    """The values of a PNG of 16 bits a channel, uint16 [H, W, 3]; see `decode`."""
    check_size(*_size_in_header(data))
    return tf.io.decode_png(data, channels=3, dtype=tf.uint16).numpy()


def _size_in_header(data: bytes) -> tuple[int, int]:
    """(height, width) that a JPEG or PNG file says; zeros where its header is damaged, so that it does not decode."""
    if data.startswith(PNG_SIGNATURE):
        width, height = struct.unpack(">II", data[16:24].ljust(8, b"\0"))
        return height, width
    place = 2
    while (match := _MARKER.search(data, place)) and match[1][0] not in _LAST_MARKERS:
        start = match.end()
        if match[1][0] in _FRAMES:
            return struct.unpack(">HH", data[start + 3 : start + 7].ljust(4, b"\0"))
        place = start + int.from_bytes(data[start : start + 2], "big")
    return 0, 0


def decode_tf(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes an image file in a graph; of 16 bits the upper 8 stay.

    Args:
      encoded: string [], a JPEG or PNG file (BMP and GIF are taken, too).

    Returns:
      [H, W, 3] uint8, RGB; InvalidArgumentError for another format, what does not decode and what has more than
      MAX_PIXELS.
    """
    pixels = tf.io.decode_image(_checked(encoded), channels=3, expand_animations=False)
    return tf.ensure_shape(pixels, [None, None, 3])


def decode_scaled_tf(encoded: tf.Tensor, value_range: ValueRange | None) -> tf.Tensor:
    """`decode_tf`, but a PNG of 16 bits is scaled by its range, or refused: see `value_range.to_8_bits`."""

    def wide():
        values = tf.io.decode_png(_checked(encoded), channels=3, dtype=tf.uint16)
        return ranges.to_8_bits_tf(values, value_range)

    head = _header(encoded)
    is_png = tf.equal(tf.strings.substr(head, 0, len(PNG_SIGNATURE)), PNG_SIGNATURE)
    is_wide = tf.logical_and(is_png, tf.equal(tf.strings.substr(head, _BIT_DEPTH, 1), b"\x10"))
    return tf.ensure_shape(tf.cond(is_wide, wide, lambda: decode_tf(encoded)), [None, None, 3])


def stored_size(encoded: tf.Tensor) -> tf.Tensor:
    """The size that the header of an image file says, without decoding it.

    Args:
      encoded: string [].

    Returns:
      [2] int64 (height, width), pixels; zeros where it is no JPEG, PNG, BMP or GIF.
    """
    head = _header(encoded)

    def field(start: int, length: int, kind: tf.DType, little_endian: bool) -> tf.Tensor:
        part = tf.strings.substr(head, start, length)
        return tf.cast(tf.io.decode_raw(part, kind, little_endian=little_endian), tf.int64)

    def starts(*signatures: bytes) -> tf.Tensor:
        return tf.reduce_any([tf.equal(tf.strings.substr(head, 0, len(start)), start) for start in signatures])

    def from_header():
        size = tf.zeros([2], tf.int64)
        size = tf.where(starts(b"GIF87a", b"GIF89a"), field(6, 4, tf.uint16, True), size)
        size = tf.where(starts(b"BM"), tf.abs(field(18, 8, tf.int32, True)), size)
        return tf.where(starts(PNG_SIGNATURE), field(16, 8, tf.int32, False), size)[::-1]

    def from_jpeg():
        return tf.cast(tf.image.extract_jpeg_shape(encoded)[:2], tf.int64)

    return tf.ensure_shape(tf.cond(tf.io.is_jpeg(encoded), from_jpeg, from_header), [2])


def _header(encoded: tf.Tensor) -> tf.Tensor:
    """The first bytes of a file, zeros after its end."""
    return tf.strings.join([tf.strings.substr(encoded, 0, _HEADER_BYTES), b"\0" * _HEADER_BYTES])


def size_checks(encoded: tf.Tensor, most: tf.Tensor | int, message: str) -> list[tf.Operation | None]:
    """Refuses an image file in a graph before its pixels take memory.

    TensorFlow decodes more formats from version to version, WebP and JPEG XL among them, whatever the name of the op:
    where `stored_size` knows no size, there is no limit either.

    Args:
      encoded: string [].
      most: integer [], pixels.
      message: of the InvalidArgumentError where it has more.

    Returns:
      What the decoding must depend on.
    """
    size = stored_size(encoded)
    is_known = tf.debugging.assert_positive(size, _UNKNOWN)
    is_small = tf.debugging.assert_less_equal(tf.reduce_prod(size), tf.cast(most, tf.int64), message)
    return [is_known, is_small]


def _checked(encoded: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies(size_checks(encoded, MAX_PIXELS, f"{_RULE}, and it has more")):
        return tf.identity(encoded)
