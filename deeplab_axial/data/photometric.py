# SPDX-License-Identifier: Apache-2.0
"""Photometric distortion: random brightness, contrast, saturation and hue (Liu et al. 2016, SSD).

Each of the four happens with probability one half. Brightness comes first; contrast comes next or last, by a coin;
saturation and hue come between. As in SSD's own code, every step's result is cut to 0..255 before the next one; unlike
there, it is not rounded to bytes, and the hue goes round the circle. SSD's code turns the hue by up to 18 of OpenCV's
180 steps, which are the 36 degrees of our defaults.
"""

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class PhotometricOptions:
    """How far the colours may move.

    Attributes:
      brightness_delta: at most so much is added to all channels, of 255.
      contrast_range: channels are multiplied by a factor in [1 - x, 1 + x].
      saturation_range: likewise the saturation.
      hue_delta: the hue is turned by at most so many degrees.
    """

    brightness_delta: float = 32.0
    contrast_range: float = 0.5
    saturation_range: float = 0.5
    hue_delta: float = 36.0


def distort(image: tf.Tensor, options: PhotometricOptions, seed: tf.Tensor) -> tf.Tensor:
    """Changes the colours at random. Padding is to be added afterwards, as it would not stay grey.

    Args:
      image: [H, W, 3] float32, 0 to 255.
      options: see `PhotometricOptions`.
      seed: [2] integers.

    Returns:
      [H, W, 3] float32, 0 to 255.
    """
    coin_seed, amount_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    coins = tf.random.stateless_uniform([5], coin_seed) < 0.5
    amounts = tf.random.stateless_uniform([4], amount_seed, -1.0, 1.0)
    limits = [options.brightness_delta, options.contrast_range, options.saturation_range, options.hue_delta]
    brightness, contrast, saturation, hue = tf.unstack(tf.where(coins[:4], amounts * limits, 0.0))
    return adjust(image, brightness, 1.0 + contrast, 1.0 + saturation, hue, contrast_first=coins[4])


def adjust(
    image: tf.Tensor,
    brightness: tf.Tensor,
    contrast: tf.Tensor,
    saturation: tf.Tensor,
    hue: tf.Tensor,
    contrast_first: tf.Tensor,
) -> tf.Tensor:
    """Changes the colours as told.

    Args:
      image: [H, W, 3] float32, 0 to 255.
      brightness: [] float32, added to all channels.
      contrast: [] float32, factor of all channels.
      saturation: [] float32, factor of the saturation (of hue, saturation and value).
      hue: [] float32, degrees that the hue is turned by, from red towards green.
      contrast_first: [] boolean, whether the contrast is changed before saturation and hue or after them.

    Returns:
      [H, W, 3] float32, 0 to 255.
    """
    image = tf.clip_by_value(image + brightness, 0.0, 255.0)
    image = tf.clip_by_value(image * tf.where(contrast_first, contrast, 1.0), 0.0, 255.0)
    unchanged = (saturation == 1.0) & (hue == 0.0)
    image = tf.cond(unchanged, lambda: image, lambda: _turn(image, saturation, hue))
    return tf.clip_by_value(image * tf.where(contrast_first, 1.0, contrast), 0.0, 255.0)


def _turn(image: tf.Tensor, saturation: tf.Tensor, hue: tf.Tensor) -> tf.Tensor:
    """Changes saturation and hue; the largest channel keeps its value."""
    hsv = tf.image.rgb_to_hsv(image / 255.0)
    turned = tf.math.floormod(hsv[..., :1] + hue / 360.0, 1.0)
    saturated = tf.minimum(hsv[..., 1:2] * saturation, 1.0)
    return 255.0 * tf.image.hsv_to_rgb(tf.concat([turned, saturated, hsv[..., 2:]], axis=-1))
