# SPDX-License-Identifier: Apache-2.0
"""RandAugment (Cubuk et al. 2020): a few random operations, all of one magnitude, on a training image.

The fourteen operations are the paper's (section 3.1), their largest strengths AutoAugment's (Cubuk et al. 2019, table
6). Magnitude 0 leaves the image as it is (but for identity, auto_contrast and equalize, which have no strength),
magnitude 10 is the largest strength, and what lies between is linear. Where a change has two directions, each is as
likely. The geometric operations move pixels without mixing them and fill with grey.

All operations take and give [H, W, 3] uint8 and are within a grey level or two of Pillow's.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import tensorflow as tf

from deeplab_axial.data import autoaugment
from deeplab_axial.data.transforms import PADDING_VALUE

MAX_MAGNITUDE = 10
_MAX_DEGREES = 30.0
_MAX_SHEAR = 0.3
_MAX_TRANSLATION = 0.45  # of the side: AutoAugment's 150 pixels of 331
_MAX_FACTOR_CHANGE = 0.9
_MAX_LOST_BITS = 4


def auto_contrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches each channel so that its least value becomes 0 and its largest 255."""
    low = tf.cast(tf.reduce_min(image, axis=(0, 1)), tf.float64)[:, None]  # [3, 1]
    high = tf.cast(tf.reduce_max(image, axis=(0, 1)), tf.float64)[:, None]
    value = tf.range(256, dtype=tf.float64)
    # In this order and precision, as Pillow: others are off by one at the values that come out whole.
    scale = 255 / tf.maximum(high - low, 1)
    stretched = tf.cast(tf.clip_by_value(value * scale - low * scale, 0, 255), tf.uint8)  # [3, 256]
    table = tf.where(high > low, stretched, tf.cast(value, tf.uint8))
    return tf.gather(tf.reshape(table, [-1]), tf.cast(image, tf.int32) + 256 * tf.range(3))


def posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
    """Keeps the upper `bits` (0 to 8) of each value."""
    return tf.bitwise.bitwise_and(image, tf.constant(256 - 2 ** (8 - bits), tf.uint8))


def contrast(image: tf.Tensor, factor: tf.Tensor | float) -> tf.Tensor:
    """Moves the image towards the mean of its grey values: 0 gives this grey, 1 the image."""
    grey = tf.image.rgb_to_grayscale(image)
    # float64: the sum over a photograph passes float32's 24 bits.
    mean = tf.cast(tf.reduce_mean(tf.cast(grey, tf.float64)) + 0.5, tf.uint8)
    return autoaugment.blend(tf.reshape(mean, [1, 1, 1]), image, factor)


def rotate(image: tf.Tensor, degrees: tf.Tensor | float) -> tf.Tensor:
    """Turns counter-clockwise about the centre of the image."""
    angle = tf.cast(degrees, tf.float32) * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
    x, y = width / 2, height / 2
    return _transform(image, (cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y))


def shear_x(image: tf.Tensor, shear: tf.Tensor | float) -> tf.Tensor:
    """Moves each row to the left by `shear` times its y."""
    return _transform(image, (1.0, shear, 0.0), (0.0, 1.0, 0.0))


def shear_y(image: tf.Tensor, shear: tf.Tensor | float) -> tf.Tensor:
    """Moves each column up by `shear` times its x."""
    return _transform(image, (1.0, 0.0, 0.0), (shear, 1.0, 0.0))


def translate_x(image: tf.Tensor, share: tf.Tensor | float) -> tf.Tensor:
    """Moves the image to the left by a share of its width."""
    return _transform(image, (1.0, 0.0, share * tf.cast(tf.shape(image)[1], tf.float32)), (0.0, 1.0, 0.0))


def translate_y(image: tf.Tensor, share: tf.Tensor | float) -> tf.Tensor:
    """Moves the image up by a share of its height."""
    return _transform(image, (1.0, 0.0, 0.0), (0.0, 1.0, share * tf.cast(tf.shape(image)[0], tf.float32)))


def _transform(image: tf.Tensor, x_row, y_row) -> tf.Tensor:
    """Takes each pixel from the one nearest to (a x + b y + c, d x + e y + f), or grey from outside.

    Args:
      image: [H, W, 3] uint8.
      x_row: (a, b, c), numbers or tensors []. (x, y) counts from the image's corner, so that the first pixel's centre
        lies at (0.5, 0.5).
      y_row: (d, e, f).
    """
    # The op counts from the centre of the first pixel.
    rows = [(across, down, offset + 0.5 * (across + down) - 0.5) for across, down, offset in (x_row, y_row)]
    matrix = tf.stack([tf.cast(value, tf.float32) for value in (*rows[0], *rows[1], 0.0, 0.0)])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=matrix[None],
        output_shape=tf.shape(image)[:2],
        fill_value=float(math.floor(PADDING_VALUE)),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0]


def _factor(strength: float, sign: tf.Tensor) -> tf.Tensor:
    return 1.0 + sign * (_MAX_FACTOR_CHANGE * strength)


# name -> what it does to an image, with the strength (0 to 1, a Python number) and the direction (-1 or 1, float32 [])
OPERATIONS: dict[str, Callable[[tf.Tensor, float, tf.Tensor], tf.Tensor]] = {
    "identity": lambda image, strength, sign: tf.identity(image),
    "auto_contrast": lambda image, strength, sign: auto_contrast(image),
    "equalize": lambda image, strength, sign: autoaugment.equalize(image),
    "rotate": lambda image, strength, sign: rotate(image, sign * (_MAX_DEGREES * strength)),
    "solarize": lambda image, strength, sign: autoaugment.solarize(image, round(256 * (1 - strength))),
    "color": lambda image, strength, sign: autoaugment.color(image, _factor(strength, sign)),
    "posterize": lambda image, strength, sign: posterize(image, 8 - round(_MAX_LOST_BITS * strength)),
    "contrast": lambda image, strength, sign: contrast(image, _factor(strength, sign)),
    "brightness": lambda image, strength, sign: autoaugment.brightness(image, _factor(strength, sign)),
    "sharpness": lambda image, strength, sign: autoaugment.sharpness(image, _factor(strength, sign)),
    "shear_x": lambda image, strength, sign: shear_x(image, sign * (_MAX_SHEAR * strength)),
    "shear_y": lambda image, strength, sign: shear_y(image, sign * (_MAX_SHEAR * strength)),
    "translate_x": lambda image, strength, sign: translate_x(image, sign * (_MAX_TRANSLATION * strength)),
    "translate_y": lambda image, strength, sign: translate_y(image, sign * (_MAX_TRANSLATION * strength)),
}


@dataclasses.dataclass(frozen=True)
class RandAugmentOptions:
    """How much RandAugment changes.

    Attributes:
      num_layers: operations an image, the paper's N.
      magnitude: their strength, the paper's M, 0 to 10.
    """

    num_layers: int = 2
    magnitude: float = 10

    def __post_init__(self):
        if self.num_layers < 1:
            raise ValueError(
                f"num_layers must be at least 1. Received: {self.num_layers}. Leave RandAugment out instead."
            )
        if not 0 <= self.magnitude <= MAX_MAGNITUDE:
            raise ValueError(f"magnitude must lie in [0, {MAX_MAGNITUDE}]. Received: {self.magnitude}. Correct it.")


def rand_augment(image: tf.Tensor, options: RandAugmentOptions, seed: tf.Tensor) -> tf.Tensor:
    """Does operations one after the other, each drawn from all fourteen alike.

    Args:
      image: [H, W, 3] uint8.
      options: see `RandAugmentOptions`.
      seed: [2] integers.

    Returns:
      [H, W, 3] uint8.
    """
    num_layers, strength = options.num_layers, options.magnitude / MAX_MAGNITUDE
    seeds = tf.random.experimental.stateless_split(seed, 2)
    choices = tf.random.stateless_uniform([num_layers], seeds[0], 0, len(OPERATIONS), tf.int32)
    signs = tf.where(tf.random.stateless_uniform([num_layers], seeds[1]) < 0.5, -1.0, 1.0)
    shape = image.shape
    for i in range(num_layers):
        branches = [functools.partial(change, image, strength, signs[i]) for change in OPERATIONS.values()]
        image = tf.ensure_shape(tf.switch_case(choices[i], branches), shape)
    return image
