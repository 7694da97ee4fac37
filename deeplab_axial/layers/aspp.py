# SPDX-License-Identifier: Apache-2.0
"""Atrous spatial pyramid pooling (Chen et al. 2017)."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab_axial.layers import convolution, resize


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class ASPP(tf_keras.layers.Layer):
    """Five parallel branches (1x1, three atrous 3x3, pooled) and a projection, or the projection alone.

    Args:
      channels: output channels, and those of each branch.
      atrous_rates: three rates, or none for the projection alone (as axial backbones need no wider context).
      pool_size: (height, width) of the window of the pooled branch, in positions of the input; larger maps get the
        means of sliding windows. None: the whole map.
      norm: momentum, epsilon and synchronized of the batch normalisations; None: those of Keras.

    Call arguments:
      inputs: [B, h, w, C].
      training: whether batch normalisation uses the statistics of the batch and dropout (0.1) is on.

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
            self.dropout = tf_keras.layers.Dropout(0.1, name="dropout")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not self.atrous_rates:
            return self.projection(inputs, training=training)
        size = tf.shape(inputs)[1:3]
        if self.pool_size is None:
            pooled = tf.reduce_mean(inputs, axis=[1, 2], keepdims=True)
        else:
            pooled = tf.nn.avg_pool2d(inputs, self.pool_size, 1, "VALID")
        pooled = resize.resize_bilinear(self.pooled_branch(pooled, training=training), size)
        branches = [branch(inputs, training=training) for branch in self.branches]
        x = self.projection(tf.concat([*branches, pooled], axis=-1), training=training)
        return self.dropout(x, training=training)

    def get_config(self):
        return {
            **super().get_config(),
            "channels": self.channels,
            "atrous_rates": self.atrous_rates,
            "pool_size": self.pool_size,
            "norm": self.norm,
        }
