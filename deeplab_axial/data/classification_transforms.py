# SPDX-License-Identifier: Apache-2.0
"""Crops of whole-image classification: pure functions, random ones with a stateless seed."""

import dataclasses
import math

import tensorflow as tf

from deeplab_axial.data import transforms

# Tries before an Inception crop falls back to the middle of the image.
_TRIES = 10
# Evaluation resizes the short side so that the central crop takes this share of it.
CENTRAL_SHARE = 0.875


@dataclasses.dataclass(frozen=True)
class InceptionCropOptions:
    """A random part of the image (Szegedy et al. 2015, section 6).

    Attributes:
      min_area: smallest share of the image's area.
      max_area: largest share.
      min_aspect_ratio: smallest width over height.
      max_aspect_ratio: largest width over height.
    """

    min_area: float = 0.08
    max_area: float = 1.0
    min_aspect_ratio: float = 3 / 4
    max_aspect_ratio: float = 4 / 3

    def __post_init__(self):
        if not 0 < self.min_area <= self.max_area <= 1:
            raise ValueError(
                "The areas must keep 0 < min_area <= max_area <= 1. "
                f"Received: {self.min_area} and {self.max_area}. Correct them."
            )
        if not 0 < self.min_aspect_ratio <= self.max_aspect_ratio:
            raise ValueError(
                "The aspect ratios must keep 0 < min_aspect_ratio <= max_aspect_ratio. "
                f"Received: {self.min_aspect_ratio} and {self.max_aspect_ratio}. Correct them."
            )


def inception_window(size: tf.Tensor, options: InceptionCropOptions, seed: tf.Tensor) -> tf.Tensor:
    """Draws the part of an image that is trained on.

    Area and aspect ratio are drawn ten times, the area uniformly and the logarithm of the ratio uniformly, so that
    lying and standing windows are alike. The first pair that fits takes a random place. If none fits, it is the largest
    central window whose aspect ratio is allowed.

    Args:
      size: [2] int32 (height, width), pixels.
      options: see `InceptionCropOptions`.
      seed: [2] integers.

    Returns:
      [4] int32 (top, left, height, width), pixels; inside the image and at least 1 x 1.
    """
    seeds = tf.random.experimental.stateless_split(seed, 3)
    height, width = tf.unstack(tf.cast(size, tf.float32))
    area = height * width * tf.random.stateless_uniform([_TRIES], seeds[0], options.min_area, options.max_area)
    low, high = math.log(options.min_aspect_ratio), math.log(options.max_aspect_ratio)
    ratio = tf.exp(tf.random.stateless_uniform([_TRIES], seeds[1], low, high))
    tries = tf.cast(tf.round(tf.sqrt(tf.stack([area / ratio, area * ratio], axis=-1))), tf.int32)  # [10, 2]
    fits = tf.reduce_all((tries >= 1) & (tries <= size), axis=-1)
    first = tries[tf.argmax(tf.cast(fits, tf.int32))]  # argmax takes the first
    room = size - first + 1
    chance = tf.random.stateless_uniform([2], seeds[2])
    # A float just below 1 times a large room may round up to it.
    corner = tf.minimum(tf.cast(chance * tf.cast(room, tf.float32), tf.int32), room - 1)

    allowed = tf.stack([width / options.min_aspect_ratio, height * options.max_aspect_ratio])
    largest = tf.clip_by_value(tf.cast(tf.round(allowed), tf.int32), 1, size)
    fallback = tf.concat([(size - largest) // 2, largest], axis=0)
    return tf.where(tf.reduce_any(fits), tf.concat([corner, first], axis=0), fallback)


def resize(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Resizes [H, W, 3] bilinearly to (height, width), averaging where it shrinks; float32 [height, width, 3]."""
    # Without antialiasing a photograph that shrinks to a third would lose two of three pixels.
    return tf.image.resize(image, size, antialias=True)


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors [H, W, 3] left to right with probability one half."""
    return tf.cond(
        tf.random.stateless_uniform([], seed) < 0.5, lambda: tf.reverse(image, [1]), lambda: tf.identity(image)
    )


def central_crop(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """The crop of evaluation: resizes so that a crop of 7/8 of the short side is `height` x `width`, and takes it.

    Args:
      image: [H, W, 3], any type.
      height: of the crop, pixels.
      width: of the crop, pixels; where it differs from `height`, the image covers both sides divided by 7/8.

    Returns:
      [height, width, 3] float32.
    """
    least = (round(height / CENTRAL_SHARE), round(width / CENTRAL_SHARE))
    size = transforms.resized_size(tf.shape(image)[:2], least, None)
    image = resize(image, size)
    top, left = tf.unstack((size - [height, width]) // 2)
    return tf.ensure_shape(image[top : top + height, left : left + width], [height, width, 3])
