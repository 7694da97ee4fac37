# SPDX-License-Identifier: Apache-2.0
"""Which of the values of a 16-bit image are black and white.

Cameras, microscopes and scanners write 8, 10, 12 or 14 bits into 16: read as 16 bits, such an image is nearly black.
The file does not say how many bits are meant, so the user does: (low, high), the values that become 0 and 255.
"""

import re

import numpy as np
import tensorflow as tf

from deeplab_axial.errors import InputError

ValueRange = tuple[int, int]
FULL: ValueRange = (0, 2**16 - 1)
# Where nobody said the range, a largest value below this (14 bits, a quarter of the range) tells of unused bits.
LEAST_MAXIMUM = 2**14
_USUAL_BITS = (8, 10, 12, 14)


class DarkImage(ValueError):
    """The values of a 16-bit image are so small that another range must be meant; the message says what to do."""


def parse(text: str) -> ValueRange:
    """The range that "0:4095" means.

    Raises:
      InputError: it is no range.
    """
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text.strip())
    if not match:
        raise InputError(f"--value_range must be LOW:HIGH, as 0:4095 for 12 bits. Received: {text!r}. Correct it.")
    return checked((int(match[1]), int(match[2])), "--value_range")


def checked(value_range: ValueRange | None, name: str) -> ValueRange | None:
    """The range as a tuple of integers; `name` stands for it in messages.

    Raises:
      InputError: it is not two integers with 0 <= low < high <= 65535.
    """
    if value_range is None:
        return None
    try:
        low, high = value_range
        if low == int(low) and high == int(high) and FULL[0] <= low < high <= FULL[1]:
            return int(low), int(high)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(
        f"{name} must be two whole numbers with 0 <= low < high <= {FULL[1]}. Received: {value_range!r}. Give the "
        "values of 16 bits that are black and white, as 0 and 4095 for 12 bits."
    )


def check_brightness(largest: int) -> None:
    """Refuses an image of 16 bits, of no known range, that uses too few of them. One that is black throughout passes.

    Raises:
      DarkImage: see there.
    """
    if 0 < largest < LEAST_MAXIMUM:
        high = next(2**bits - 1 for bits in _USUAL_BITS if largest < 2**bits)
        raise DarkImage(
            f"its largest value of 16 bits is {largest}, of {FULL[1]}, so that it would be nearly black. Say which "
            f"values are black and white in all images alike, as --value_range=0:{high} (in Python value_range=(0, "
            f"{high})), or 0:{FULL[1]} if it is meant to be dark"
        )


def to_8_bits(values: np.ndarray, value_range: ValueRange | None) -> np.ndarray:
    """Values of 16 bits as uint8 of the same shape: of n bits, the upper 8.

    Args:
      values: integers, 0 to 65535.
      value_range: what becomes 0 and 255, and what is beyond becomes either; None for all 16 bits.

    Raises:
      DarkImage: there is no range, and `check_brightness` refuses the image.
    """
    if value_range is None:
        check_brightness(int(values.max(initial=0)))
    low, high = value_range or FULL
    factor, width = _scale(low, high)
    return ((np.clip(values.astype(np.int32), low, high) - low) * factor // width).astype(np.uint8)


def _scale(low: int, high: int) -> tuple[int, int]:
    """(factor, divisor) that leave the upper 8 bits where there are 8 or more, and make `high` 255 in any case."""
    count = high - low + 1
    return (256, count) if count >= 256 else (255, count - 1)


def to_8_bits_tf(values: tf.Tensor, value_range: ValueRange | None) -> tf.Tensor:
    """`to_8_bits` in a graph; what it refuses is an InvalidArgumentError there."""
    values = tf.cast(values, tf.int32)
    check = None
    if value_range is None:
        largest = tf.reduce_max(values)
        message = (
            f"the largest value of an image of 16 bits is below {LEAST_MAXIMUM}, and its value range is not known: "
            "convert the data set with --value_range and export again, or send 8 bits"
        )
        is_bright = tf.logical_or(largest == 0, largest >= LEAST_MAXIMUM)
        check = tf.debugging.assert_equal(is_bright, True, message)
    low, high = value_range or FULL
    factor, width = _scale(low, high)
    with tf.control_dependencies([] if check is None else [check]):
        scaled = (tf.clip_by_value(values, low, high) - low) * factor // width
    return tf.cast(scaled, tf.uint8)
