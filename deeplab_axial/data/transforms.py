# SPDX-License-Identifier: Apache-2.0
"""Changes of an image and its panoptic map: pure functions, random ones with a stateless seed."""

from collections.abc import Sequence
from typing import NamedTuple

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
    the largest size that does not. No side falls below a pixel, however thin the image is.

    Args:
      size: [2] int32 (height, width), pixels, each at least 1.
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
        size = tf.maximum(tf.cast(tf.floor(exact * scale + 1e-3), tf.int32), 1)
    if factor is not None:
        size = size + (factor - (size - 1) % factor) % factor
    return size


def resize(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Resizes [H, W, 3], any type, bilinearly to the size [2], corners onto corners; gives float32."""
    return tf.raw_ops.ResizeBilinear(images=image[None], size=size, align_corners=True)[0]


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
      [2] int32; no side falls below a pixel.
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
    return tf.maximum(tf.cast(tf.cast(size, tf.float32) * tf.cast(factor, tf.float32), tf.int32), 1)


def random_flip(image: tf.Tensor, panoptic: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mirrors image [H, W, 3] and map [H, W] left to right with probability one half."""
    flip = tf.random.stateless_uniform([], seed) < 0.5
    # image[:, ::-1] takes ten times as long.
    return tf.cond(flip, lambda: (tf.reverse(image, [1]), tf.reverse(panoptic, [1])), lambda: (image, panoptic))


def pad_to(x: tf.Tensor, height: int, width: int, value: float | int, place: tf.Tensor | None = None) -> tf.Tensor:
    """Pads [H, W] or [H, W, C] to at least height x width.

    Args:
      x: what to pad.
      height: pixels.
      width: pixels.
      value: of the padding.
      place: [2] float32 (y, x), 0 to 1: the share of the padding that goes above and to the left; None for none of it.
    """
    room = tf.maximum([height, width] - tf.shape(x)[:2], 0)
    # One place for each pixel of room, and one more.
    before = tf.zeros_like(room) if place is None else tf.cast(place * tf.cast(room + 1, tf.float32), tf.int32)
    before = tf.minimum(before, room)
    paddings = tf.stack([before, room - before], axis=1)
    return tf.pad(x, tf.pad(paddings, [[0, len(x.shape) - 2], [0, 0]]), constant_values=value)


def pad_border(
    images: tf.Tensor, size: tuple[int, int] | tf.Tensor, padded: tuple[int, int] | tf.Tensor, stride: int
) -> tf.Tensor:
    """Pads images below and to the right: with their last row and column up to stride * k + 1, with grey beyond.

    To a network, one row of grey below a dark image is a bright line, and is seen as an object at the border.

    Args:
      images: [B, H, W, 3] float32.
      size: (H, W), numbers where they are known, or a tensor.
      padded: (H', W'), likewise: at least H and W rounded up to stride * k + 1.
      stride: the output stride of the network; 1 pads with grey alone.

    Returns:
      [B, H', W', 3].
    """
    rest = []
    for axis in (1, 2):
        repeated = (1 - size[axis - 1]) % stride
        if tf.is_tensor(repeated) or repeated > 0:
            last = images[:, -1:] if axis == 1 else images[:, :, -1:]
            times = [1, repeated, 1, 1] if axis == 1 else [1, 1, repeated, 1]
            images = tf.concat([images, tf.tile(last, times)], axis)
        rest.append(padded[axis - 1] - size[axis - 1] - repeated)
    return tf.pad(images, [[0, 0], [0, rest[0]], [0, rest[1]], [0, 0]], constant_values=PADDING_VALUE)


class Window(NamedTuple):
    """A part of an image.

    Attributes:
      corner: [2] int32 (top, left), pixels.
      size: [2] int32 (height, width), pixels.
    """

    corner: tf.Tensor
    size: tf.Tensor


def random_window(size: tf.Tensor, height: int, width: int, seed: tf.Tensor) -> Window:
    """A random window of height x width, or as much of it as the image fills.

    Args:
      size: [2] int32 (height, width) of the image, pixels.
      height: of the window, pixels.
      width: of the window, pixels.
      seed: [2] integers.
    """
    filled = tf.minimum(size, [height, width])
    room = size - filled + 1
    chance = tf.random.stateless_uniform([2], seed)
    # A float just below 1 times a large room may round up to it.
    corner = tf.minimum(tf.cast(chance * tf.cast(room, tf.float32), tf.int32), room - 1)
    return Window(corner, filled)


def cut(x: tf.Tensor, window: Window) -> tf.Tensor:
    """The window of [H, W] or [H, W, C]."""
    rest = [0] * (len(x.shape) - 2)
    size = tf.concat([window.size, tf.shape(x)[2:]], axis=0)
    return tf.ensure_shape(tf.slice(x, tf.concat([window.corner, rest], axis=0), size), [None, None, *x.shape[2:]])
