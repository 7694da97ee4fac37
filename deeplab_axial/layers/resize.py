# SPDX-License-Identifier: Apache-2.0
"""Resizing of feature maps."""

import tensorflow as tf


def resize_bilinear(x: tf.Tensor, size: tuple | tf.Tensor) -> tf.Tensor:
    """Bilinear resize that maps corner pixels onto corner pixels.

    Computed in float32 whatever the input, because interpolated logits decide pixels by small differences.

    Args:
      x: [B, h, w, C].
      size: (H, W), numbers or a tensor.

    Returns:
      [B, H, W, C] in the dtype of `x`.
    """
    if not tf.is_tensor(size) and tuple(x.shape[1:3]) == tuple(size):
        return x
    out = tf.raw_ops.ResizeBilinear(images=tf.cast(x, tf.float32), size=size, align_corners=True)
    return tf.cast(out, x.dtype)
