# SPDX-License-Identifier: Apache-2.0
"""Squeeze-and-excite in the simplified form of DeepLab2: one layer, no bottleneck."""

import tensorflow as tf
import tf_keras


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class SqueezeExcite(tf_keras.layers.Layer):
    """Scales each channel by a hard sigmoid of a 1x1 convolution of the channels' means (Hu et al. 2018).

    Call arguments:
      inputs: [B, H, W, C].

    Returns:
      [B, H, W, C].
    """

    def build(self, input_shape):
        self.conv = tf_keras.layers.Conv2D(input_shape[-1], 1, kernel_initializer="VarianceScaling", name="conv")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        gate = self.conv(tf.reduce_mean(inputs, axis=[1, 2], keepdims=True))  # [B, 1, 1, C]
        return inputs * tf.nn.relu6(gate + 3.0) * 0.16667
