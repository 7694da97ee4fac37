# SPDX-License-Identifier: Apache-2.0
"""Atrous spatial pyramid pooling (Chen et al. 2017)."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab_axial.layers import convolution, resize

_DROPOUT = 0.1


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class ASPP(tf_keras.layers.Layer):
    """Five parallel branches (1x1, three atrous 3x3, pooled) and a projection, or the projection alone.

    Args:
      channels: output channels, and those of each branch.
      atrous_rates: three rates, or none for the projection alone (as axial backbones need no wider context).
      pool_size: (height, width) of the window of the pooled branch, in positions of the input; larger maps get the
        means of sliding windows, and the window is cut to smaller ones. None: the whole map.
      norm: momentum, epsilon and synchronized of the batch normalisations; None: those of Keras.

    Call arguments:
      inputs: [B, h, w, C].
      training: whether batch normalisation uses the statistics of the batch and dropout (0.1, after the branches) is
        on.
      seed: [2] integers, of dropout, which depends on nothing else; None draws them.
      scale: of the image, against those that pool_size is meant for; the window becomes int((n - 1) * scale + 1).

    Returns:
      [B, h, w, channels].
    """

    def __init__(
        self,
        channels: int,
        atrous_rates: Sequence[int] = (),
        pool_size: Sequence[int] | None = None,
        norm: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if len(atrous_rates) not in (0, 3):
            raise ValueError(f"atrous_rates must be three rates, or none. Received: {list(atrous_rates)}")
        self.channels = channels
        self.atrous_rates = list(atrous_rates)
        self.pool_size = None if pool_size is None else list(pool_size)
        self.norm = dict(norm or {})
        self.projection = convolution.ConvBN(channels, 1, norm=norm, name="projection")
        if self.atrous_rates:
            self.branches = [convolution.ConvBN(channels, 1, norm=norm, name="branch_1x1")]
            for rate in self.atrous_rates:
                name = f"branch_rate{rate}"
                self.branches.append(convolution.ConvBN(channels, 3, dilation=rate, norm=norm, name=name))
            self.pooled_branch = convolution.ConvBN(channels, 1, norm=norm, name="branch_pooled")

    def call(
        self, inputs: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None, scale: float = 1.0
    ) -> tf.Tensor:
        if not self.atrous_rates:
            return self.projection(inputs, training=training)
        size = tf.shape(inputs)[1:3]
        if self.pool_size is None:
            pooled = tf.reduce_mean(inputs, axis=[1, 2], keepdims=True)
        else:
            # Rounded first: 100 * 0.29 is less than 29 in floating point.
            pooled = _window_means(inputs, [int(round((n - 1) * scale, 6)) + 1 for n in self.pool_size])
        pooled = resize.resize_bilinear(self.pooled_branch(pooled, training=training), size)
        branches = [branch(inputs, training=training) for branch in self.branches]
        x = self.projection(tf.concat([*branches, pooled], axis=-1), training=training)
        return _dropout(x, seed) if training else x

    def get_config(self):
        return {
            **super().get_config(),
            "channels": self.channels,
            "atrous_rates": self.atrous_rates,
            "pool_size": self.pool_size,
            "norm": self.norm,
        }


def _dropout(x: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
    """Zeros a share of the numbers and scales up the others."""
    if seed is None:
        seed = tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32)
    kept = tf.random.stateless_uniform(tf.shape(x), seed) >= _DROPOUT
    return x * (tf.cast(kept, x.dtype) / (1.0 - _DROPOUT))


def _window_means(x: tf.Tensor, window: Sequence[int]) -> tf.Tensor:
    """Means [B, h', w', C] of the sliding windows of a map; a window larger than the map is cut to it."""
    size = tf.shape(x)[1:3]
    # The size may be known only when the graph runs, the window must be known before: add zeros, which add nothing.
    missing = tf.maximum(window - size, 0)
    means = tf.nn.avg_pool2d(tf.pad(x, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]]), window, 1, "VALID")
    return means * tf.cast(window[0] * window[1] / tf.reduce_prod(tf.minimum(window, size)), means.dtype)
