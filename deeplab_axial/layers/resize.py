# SPDX-License-Identifier: Apache-2.0
"""Resizing of feature maps."""

import math

import tensorflow as tf

from deeplab_axial.layers import target


def resize_bilinear(x: tf.Tensor, size: tuple | tf.Tensor) -> tf.Tensor:
    """Bilinear resize that maps corner pixels onto corner pixels.

    Computed in float32 whatever the input, because interpolated logits decide pixels by small differences.

    Args:
      x: [B, h, w, C].
      size: (H, W), numbers or a tensor.

    Returns:
      [B, H, W, C] in the dtype of `x`.
    """
    known = tf.get_static_value(size) if tf.is_tensor(size) else size
    old = tuple(x.shape[1:3])
    if known is None or None in old:
        return tf.cast(_by_operation(tf.cast(x, tf.float32), size), x.dtype)
    new = tuple(int(n) for n in known)
    if old == new:
        return x
    out = tf.cast(x, tf.float32)
    # For a TPU XLA turns the operation into a gather of 3 x 3 pixels for each pixel, with channels filled up to 128.
    if all(_has_exact_steps(*sides) for sides in zip(old, new)) and not target.is_accelerator():
        out = _by_operation(out, new)
    else:
        # Rows last: they lie side by side, so that a TPU repeats them without moving them.
        for axis in (2, 1):
            before, after = old[axis - 1], new[axis - 1]
            stretches = 1 < before < after and (after - 1) % (before - 1) == 0
            out = (_stretch_axis if stretches else _resize_axis)(out, axis, before, after)
    return tf.cast(out, x.dtype)


def _by_operation(x: tf.Tensor, size: tuple | tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.ResizeBilinear(images=x, size=size, align_corners=True)


def _has_exact_steps(old: int, new: int) -> bool:
    """Whether float32 holds (old - 1) / (new - 1), and so every position between two pixels, exactly.

    Where it does not, ResizeBilinear compiled by XLA (TensorFlow 2.21) may read the wrong pixel: from 129 to 385 it is
    a whole pixel off in places. Sides stride * k + 1 always have exact steps.
    """
    divisor = max(new - 1, 1)
    divisor //= math.gcd(old - 1, divisor)
    return divisor & (divisor - 1) == 0


def _stretch_axis(x: tf.Tensor, axis: int, old: int, new: int) -> tf.Tensor:
    """Interpolates along one axis, 1 or 2, by a whole factor: without gathers, which a TPU does slowly."""
    factor = (new - 1) // (old - 1)
    shape = [s if s is not None else tf.shape(x)[i] for i, s in enumerate(x.shape)]
    below, above = tf.split(x, [old - 1, 1], axis)[0], tf.split(x, [1, old - 1], axis)[1]
    weight = tf.range(factor, dtype=tf.float32) / float(factor)
    weight = tf.reshape(weight, [-1, *([1] * (3 - axis))])
    below, above = tf.expand_dims(below, axis + 1), tf.expand_dims(above, axis + 1)
    between = below + (above - below) * weight  # [..., old - 1, factor, ...]
    between = tf.reshape(between, [*shape[:axis], new - 1, *shape[axis + 1 :]])
    return tf.concat([between, tf.split(x, [old - 1, 1], axis)[1]], axis)


def _resize_axis(x: tf.Tensor, axis: int, old: int, new: int) -> tf.Tensor:
    """Interpolates along one axis, 1 or 2, by whole-number arithmetic."""
    divisor = max(new - 1, 1)
    position = tf.range(new) * (old - 1)
    low = position // divisor
    weight = tf.cast(position % divisor, tf.float32) / float(divisor)
    below = tf.gather(x, low, axis=axis)
    above = tf.gather(x, tf.minimum(low + 1, old - 1), axis=axis)
    return below + (above - below) * tf.reshape(weight, [-1, 1, 1] if axis == 1 else [-1, 1])
