# SPDX-License-Identifier: Apache-2.0
"""Changes of an image and its panoptic map: pure functions, random ones with a stateless seed."""

from collections.abc import Sequence

import tensorflow as tf

# Grey that the network's normalisation turns into 0.
PADDING_VALUE = 127.5


def resized_size(
    size: tf.Tensor,
    min_size: int | Sequence[int] | None,
    max_size: int | Sequence[int] | None,
    factor: int | None = None,
) -> tf.Tensor:
    """Size of an image after resizing into a range, keeping its aspect ratio.

    The image gets the smallest size whose sides are min_size or more, unless a side would exceed max_size; then it gets
    the largest size that does not.

    Args:
      size: [2] int32 (height, width), pixels.
      min_size: least sides, one number for both or (height, width); None keeps the size.
      max_size: largest sides, likewise; None for no limit.
      factor: round both sides up to factor * k + 1, still not beyond max_size.

    Returns:
      [2] int32 (height, width).
    """
    exact = tf.cast(size, tf.float32)
    scale = tf.constant(1.0)
    if min_size is not None:
        scale = tf.reduce_max(tf.cast(min_size, tf.float32) / exact)
    if max_size is not None:
        limit = tf.cast(max_size, tf.int32)
        if factor is not None:
            limit -= (limit - 1) % factor
        scale = tf.minimum(scale, tf.reduce_min(tf.cast(limit, tf.float32) / exact))
    if min_size is not None or max_size is not None:
        # The scale is a quotient of these very numbers: the side that made it must come out whole.
        size = tf.cast(tf.floor(exact * scale + 1e-3), tf.int32)
    if factor is not None:
        size = size + (factor - (size - 1) % factor) % factor
    return size


def resize(image: tf.Tensor, panoptic: tf.Tensor | None, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Resizes with corners onto corners: the image bilinearly, the map to the nearest pixel.

    Args:
      image: [H, W, 3] float32.
      panoptic: [H, W] int32, or None.
      size: [2] int32 (height, width).
    """
    image = tf.raw_ops.ResizeBilinear(images=image[None], size=size, align_corners=True)[0]
    if panoptic is not None:
        panoptic = resize_nearest(panoptic, size)
    return image, panoptic


def resize_nearest(label: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """[H, W] int32 to the size [2], each pixel taking the nearest one's value."""
    label = label[None, ..., None]
    return tf.raw_ops.ResizeNearestNeighbor(images=label, size=size, align_corners=True)[0, ..., 0]


def random_scale(size: tf.Tensor, min_factor: float, max_factor: float, step: float, seed: tf.Tensor) -> tf.Tensor:
    """A size scaled by a random factor out of min, min + step, ..., max (step 0: any between).

    Args:
      size: [2] int32 (height, width).
      min_factor: smallest factor.
      max_factor: largest factor.
      step: between two factors.
      seed: [2] integers.

    Returns:
      [2] int32.
    """
    if min_factor == max_factor:
        factor = tf.constant(min_factor)
    elif step == 0:
        factor = tf.random.stateless_uniform([], seed, min_factor, max_factor)
    else:
        # A config's floats have 24 bits: 1.5 / 0.1 falls a little short of 15.
        count = int((max_factor - min_factor) / step + 1e-3) + 1
        choice = tf.random.stateless_uniform([], seed, 0, count, tf.int32)
        factor = tf.linspace(min_factor, max_factor, count)[choice]
    return tf.cast(tf.cast(size, tf.float32) * tf.cast(factor, tf.float32), tf.int32)


def random_flip(image: tf.Tensor, panoptic: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mirrors image [H, W, 3] and map [H, W] left to right with probability one half."""
    flip = tf.random.stateless_uniform([], seed) < 0.5
    return tf.cond(flip, lambda: (image[:, ::-1], panoptic[:, ::-1]), lambda: (image, panoptic))


def pad_to(x: tf.Tensor, height: int, width: int, value: float | int) -> tf.Tensor:
    """Pads [H, W] or [H, W, C] below and to the right to at least height x width."""
    size = tf.shape(x)
    below, right = tf.maximum(height - size[0], 0), tf.maximum(width - size[1], 0)
    paddings = [[0, below], [0, right]] + [[0, 0]] * (len(x.shape) - 2)
    return tf.pad(x, paddings, constant_values=value)


def random_crop(
    image: tf.Tensor, panoptic: tf.Tensor, height: int, width: int, void_id: int, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """A random window, after padding with grey and void where the image is smaller.

    Args:
      image: [H, W, 3] float32.
      panoptic: [H, W] int32.
      height: of the window, pixels.
      width: of the window, pixels.
      void_id: panoptic id of the padding.
      seed: [2] integers.

    Returns:
      [height, width, 3] and [height, width].
    """
    image, panoptic = pad_to(image, height, width, PADDING_VALUE), pad_to(panoptic, height, width, void_id)
    room = tf.shape(panoptic) - [height, width] + 1
    chance = tf.random.stateless_uniform([2], seed)
    top, left = tf.unstack(tf.minimum(tf.cast(chance * tf.cast(room, tf.float32), tf.int32), room - 1))
    image = tf.slice(image, tf.stack([top, left, 0]), [height, width, 3])
    return image, tf.slice(panoptic, tf.stack([top, left]), [height, width])
