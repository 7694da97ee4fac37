# SPDX-License-Identifier: Apache-2.0
"""Convolutions with batch normalisation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from deeplab_axial.layers import normalization


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class ConvBN(tf_keras.layers.Layer):
    """Convolution without bias, batch normalisation and, if asked for, ReLU.

    A strided convolution pads (kernel - 1) * dilation / 2 zeros to both sides, so that output i is centred on input
    i * stride for odd and even sizes alike.

    Args:
      filters: output channels; None: a depthwise convolution, which keeps the channels.
      kernel_size: odd side of the kernel.
      stride: step along both axes.
      dilation: atrous rate.
      activate: whether ReLU follows.
      gamma_initializer: of the batch normalisation ("zeros" at the end of a residual branch).
      kernel_initializer: of the convolution.
      norm: momentum, epsilon and synchronized of the batch normalisation; None: those of Keras.

    Call arguments:
      inputs: [B, H, W, C].
      training: whether batch normalisation uses the statistics of the batch.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), filters].
    """

    def __init__(
        self,
        filters: int | None,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        activate: bool = True,
        gamma_initializer: str = "ones",
        kernel_initializer: str = "he_normal",
        norm: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd. Received: {kernel_size}")
        self.filters = filters
        self.kernel_size = kernel_size
        self.stride = stride
        self.dilation = dilation
        self.activate = activate
        self.gamma_initializer = gamma_initializer
        self.kernel_initializer = kernel_initializer
        self.norm = dict(norm or {})
        shared = {
            "kernel_size": kernel_size,
            "strides": stride,
            "dilation_rate": dilation,
            "padding": "same" if stride == 1 else "valid",
            "use_bias": False,
            "name": "conv",
        }
        if filters is None:
            self.conv = tf_keras.layers.DepthwiseConv2D(depthwise_initializer=kernel_initializer, **shared)
        else:
            self.conv = tf_keras.layers.Conv2D(filters, kernel_initializer=kernel_initializer, **shared)
        self.batch_norm = normalization.batch_norm(norm, gamma_initializer=gamma_initializer, name="batch_norm")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if self.stride > 1 and self.kernel_size > 1:
            margin = (self.kernel_size - 1) * self.dilation // 2
            inputs = tf.pad(inputs, [[0, 0], [margin, margin], [margin, margin], [0, 0]])
        x = self.conv(inputs)
        if self.batch_norm is None:
            normalization.refuse_training(training)
            x = tf.nn.bias_add(x, tf.cast(self.bias, x.dtype))
        else:
            x = self.batch_norm(x, training=training)
        return tf.nn.relu(x) if self.activate else x

    def fold_batch_norm(self) -> None:
        """Brings the normalisation into the kernel and a bias."""
        if self.batch_norm is None:
            return
        scale, shift = normalization.scale_and_shift(self.batch_norm)
        [kernel] = self.conv.weights  # [k, k, C, filters], depthwise [k, k, C, 1]
        scale = scale[:, None] if self.filters is None else scale
        kernel.assign((np.float64(kernel.numpy()) * scale).astype(np.float32))
        self.bias = normalization.constant(shift, "bias")
        self.batch_norm = None

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "dilation": self.dilation,
            "activate": self.activate,
            "gamma_initializer": self.gamma_initializer,
            "kernel_initializer": self.kernel_initializer,
            "norm": self.norm,
        }


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class SeparableConvBN(tf_keras.layers.Layer):
    """Depthwise and then 1x1 convolution, each with batch normalisation and ReLU.

    Args:
      filters: output channels.
      kernel_size: odd side of the depthwise kernel.
      norm: as for `ConvBN`.

    Call arguments:
      inputs: [B, H, W, C].
      training: whether batch normalisation uses the statistics of the batch.

    Returns:
      [B, H, W, filters].
    """

    def __init__(self, filters: int, kernel_size: int = 5, norm: Mapping[str, Any] | None = None, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.norm = dict(norm or {})
        self.depthwise = ConvBN(None, kernel_size, kernel_initializer="glorot_uniform", norm=norm, name="depthwise")
        self.pointwise = ConvBN(filters, 1, norm=norm, name="pointwise")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.pointwise(self.depthwise(inputs, training=training), training=training)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "norm": self.norm,
        }
