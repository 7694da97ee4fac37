# SPDX-License-Identifier: Apache-2.0
"""The residual bottleneck block, with a 3x3 convolution or with axial attention in its middle."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab_axial.layers import axial_attention, convolution, drop_path, squeeze_excite


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class BottleneckBlock(tf_keras.layers.Layer):
    """1x1 convolution, a spatial layer, 1x1 convolution, added to a shortcut.

    The input is the sum that the block before left, not activated; the block activates it first, and branch and
    shortcut both start from the activated tensor. The output is again not activated. The shortcut is a 1x1 convolution
    where the channels change, every stride-th position where only the size changes, and else the tensor itself.

    Args:
      filters: width of the block; branch widths are those of `filters` (convolution) or as below (attention).
      stride: of the spatial layer.
      dilation: atrous rate of the 3x3 convolution; attention has none.
      attention: keyword arguments of `AxialAttention`, for an axial block: both depths and what else differs from the
        defaults; None: a 3x3 convolution.
      expansion: width of the first 1x1 convolution over `filters`: 1, or 2 in axial blocks.
      striding: of the attention, "average_pool" or "subsample".
      keep_prob: probability of keeping the branch in training (drop path).
      use_squeeze_and_excite: whether squeeze-and-excite ends the branch.
      norm: momentum, epsilon and synchronized of the batch normalisations; None: those of Keras.

    Call arguments:
      inputs: [B, H, W, C].
      training: whether batch normalisation uses the statistics of the batch and drop path is on.
      seed: [2] integers, of drop path; None draws them.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), 4 * filters].
    """

    def __init__(
        self,
        filters: int,
        stride: int = 1,
        dilation: int = 1,
        attention: Mapping[str, Any] | None = None,
        expansion: int = 1,
        striding: str = "average_pool",
        keep_prob: float = 1.0,
        use_squeeze_and_excite: bool = False,
        norm: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.stride = stride
        self.dilation = dilation
        self.attention = None if attention is None else dict(attention)
        self.expansion = expansion
        self.striding = striding
        self.keep_prob = keep_prob
        self.use_squeeze_and_excite = use_squeeze_and_excite
        self.norm = dict(norm or {})
        self.conv1 = convolution.ConvBN(filters * expansion, 1, norm=norm, name="conv1")
        if attention is None:
            self.conv2 = convolution.ConvBN(filters, 3, stride, dilation, norm=norm, name="conv2")
        else:
            self.attention_layer = axial_attention.AxialAttention2D(
                {**attention, "norm": self.norm}, stride, striding, name="attention"
            )
        self.conv3 = convolution.ConvBN(
            4 * filters, 1, activate=False, gamma_initializer="zeros", norm=norm, name="conv3"
        )
        self.squeeze_excite = squeeze_excite.SqueezeExcite(name="squeeze_excite") if use_squeeze_and_excite else None
        self.drop_path = drop_path.DropPath(keep_prob, name="drop_path") if keep_prob < 1 else None

    def build(self, input_shape):
        self.shortcut = None
        if input_shape[-1] != 4 * self.filters:
            self.shortcut = convolution.ConvBN(
                4 * self.filters, 1, self.stride, activate=False, norm=self.norm, name="shortcut"
            )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        x = tf.nn.relu(inputs)
        if self.shortcut is not None:
            shortcut = self.shortcut(x, training=training)
        else:
            shortcut = x[:, :: self.stride, :: self.stride] if self.stride > 1 else x
        x = self.conv1(x, training=training)
        if self.attention is None:
            x = self.conv2(x, training=training)
        else:
            x = tf.nn.relu(self.attention_layer(x, training=training))
        x = self.conv3(x, training=training)
        if self.squeeze_excite is not None:
            x = self.squeeze_excite(x)
        if self.drop_path is not None:
            x = self.drop_path(x, training=training, seed=seed)
        return x + shortcut

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "stride": self.stride,
            "dilation": self.dilation,
            "attention": self.attention,
            "expansion": self.expansion,
            "striding": self.striding,
            "keep_prob": self.keep_prob,
            "use_squeeze_and_excite": self.use_squeeze_and_excite,
            "norm": self.norm,
        }
