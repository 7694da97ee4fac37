# SPDX-License-Identifier: Apache-2.0
"""Prediction heads of Panoptic-DeepLab (Cheng et al. 2020)."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab_axial.layers import convolution


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class Head(tf_keras.layers.Layer):
    """A 5x5 depthwise-separable convolution and a 1x1 convolution with bias, without activation.

    Args:
      output_channels: classes, 1 (centre heatmap) or 2 (offsets).
      head_channels: channels between the two.
      norm: momentum, epsilon and synchronized of the batch normalisations; None: those of Keras.

    Call arguments:
      inputs: [B, h, w, C].
      training: whether batch normalisation uses the statistics of the batch.

    Returns:
      [B, h, w, output_channels], float32 whatever the compute type.
    """

    def __init__(self, output_channels: int, head_channels: int, norm: Mapping[str, Any] | None = None, **kwargs):
        super().__init__(**kwargs)
        self.output_channels = output_channels
        self.head_channels = head_channels
        self.norm = dict(norm or {})
        self.conv = convolution.SeparableConvBN(head_channels, 5, norm=norm, name="conv")
        self.last = tf_keras.layers.Conv2D(
            output_channels,
            1,
            kernel_initializer=tf_keras.initializers.TruncatedNormal(stddev=0.01),
            dtype="float32",
            name="last",
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.last(tf.cast(self.conv(inputs, training=training), tf.float32))

    def get_config(self):
        return {
            **super().get_config(),
            "output_channels": self.output_channels,
            "head_channels": self.head_channels,
            "norm": self.norm,
        }
