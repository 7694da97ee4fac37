# SPDX-License-Identifier: Apache-2.0
"""Switchable atrous convolution (Qiao et al., DetectoRS, CVPR 2021), as DeepLab2 builds it."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab_axial.layers import normalization

# The larger of the two atrous rates over the smaller one.
RATE_RATIO = 3
# Side of the window over which the switch averages its input.
_SWITCH_WINDOW = 5


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class GlobalContext(tf_keras.layers.Layer):
    """Adds a 1x1 convolution of the channels' means to every position. It starts as the identity.

    Attributes:
      convolution: the `Conv2D`.

    Call arguments:
      inputs: [B, H, W, C].

    Returns:
      [B, H, W, C].
    """

    def build(self, input_shape):
        self.convolution = tf_keras.layers.Conv2D(input_shape[-1], 1, kernel_initializer="zeros", name="convolution")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs + self.convolution(tf.reduce_mean(inputs, axis=[1, 2], keepdims=True))


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class SwitchableConvBN(tf_keras.layers.Layer):
    """`ConvBN` at two atrous rates with one kernel, mixed at each position by a learned switch.

        s * conv(x, rate 3 * dilation) + (1 - s) * conv(x, rate dilation)

    between two global contexts, then batch normalisation and, if asked for, ReLU. The switch s is a 1x1 convolution of
    the 5x5 means of x; it is not limited to [0, 1]. Switch and contexts start at 0, so the layer starts as `ConvBN`.
    With a stride there is no switch, but the contexts stay, as in DeepLab2.

    Args:
      filters: output channels.
      kernel_size: odd side of the kernel.
      stride: step along both axes.
      dilation: smaller atrous rate.
      activate: whether ReLU follows.
      gamma_initializer: of the batch normalisation ("zeros" at the end of a residual branch).
      norm: momentum, epsilon and synchronized of the batch normalisation; None: those of Keras.

    Attributes:
      pre_context, post_context: `GlobalContext`.
      conv: the `Conv2D` whose kernel both rates share.
      switch: the `Conv2D` of the switch; None with a stride.
      batch_norm: the batch normalisation.

    Call arguments:
      inputs: [B, H, W, C].
      training: whether batch normalisation uses the statistics of the batch.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), filters].
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        activate: bool = True,
        gamma_initializer: str = "ones",
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
        self.norm = dict(norm or {})
        self.pre_context = GlobalContext(name="pre_context")
        self.conv = tf_keras.layers.Conv2D(
            filters,
            kernel_size,
            strides=stride,
            padding="same" if stride == 1 else "valid",
            dilation_rate=dilation,
            use_bias=False,
            kernel_initializer="he_normal",
            name="conv",
        )
        self.switch = tf_keras.layers.Conv2D(1, 1, kernel_initializer="zeros", name="switch") if stride == 1 else None
        self.post_context = GlobalContext(name="post_context")
        self.batch_norm = normalization.batch_norm(norm, gamma_initializer=gamma_initializer, name="batch_norm")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = self.pre_context(inputs)
        if self.switch is None:
            margin = (self.kernel_size - 1) * self.dilation // 2
            x = self.conv(tf.pad(x, [[0, 0], [margin, margin], [margin, margin], [0, 0]]))
        else:
            share = self.switch(tf.nn.avg_pool2d(x, _SWITCH_WINDOW, 1, "SAME"))  # [B, H, W, 1]
            narrow = self.conv(x)
            # Not conv2d, whose gradient with a rate above 1 needs oneDNN, which TensorFlow leaves off on older CPUs.
            wide = tf.nn.convolution(x, self.conv.kernel, 1, "SAME", dilations=RATE_RATIO * self.dilation)
            x = share * wide + (1.0 - share) * narrow
        x = self.post_context(x)
        if self.batch_norm is None:
            normalization.refuse_training(training)
            x = x * tf.cast(self.scale, x.dtype) + tf.cast(self.shift, x.dtype)
        else:
            x = self.batch_norm(x, training=training)
        return tf.nn.relu(x) if self.activate else x

    def fold_batch_norm(self) -> None:
        """Reduces the normalisation to a scale and a shift; the context between keeps it out of the kernel."""
        if self.batch_norm is None:
            return
        scale, shift = normalization.scale_and_shift(self.batch_norm)
        self.scale = normalization.constant(scale, "scale")
        self.shift = normalization.constant(shift, "shift")
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
            "norm": self.norm,
        }
