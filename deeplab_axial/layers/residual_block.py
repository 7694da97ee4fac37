# SPDX-License-Identifier: Apache-2.0
"""Residual blocks: the bottleneck, with a 3x3 convolution or attention in its middle, and two 3x3 convolutions."""

import abc
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab_axial.layers import (
    axial_attention,
    convolution,
    drop_path,
    local_attention,
    squeeze_excite,
    switchable_atrous,
)

_ATTENTION_LAYERS = {"axial": axial_attention.AxialAttention2D, "local": local_attention.LocalAttention2D}


class ResidualBlock(tf_keras.layers.Layer, abc.ABC):
    """What the blocks share: a branch, ended by squeeze-and-excite and drop path, is added to a shortcut.

    The input is the sum that the block before left, not activated; the block activates it first, and branch and
    shortcut both start from the activated tensor. The output is again not activated. The shortcut is a 1x1 convolution
    where the channels change, every stride-th position where only the size changes, and else the tensor itself.

    Attributes:
      shortcut: the `ConvBN` of the shortcut, once the block is built; None if there is none.
      squeeze_excite: the `SqueezeExcite`; None if there is none.
      drop_path: the `DropPath`; None if the branch is always kept.

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
        stride: int,
        keep_prob: float,
        use_squeeze_and_excite: bool,
        use_sac: bool,
        norm: Mapping[str, Any] | None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.stride = stride
        self.keep_prob = keep_prob
        self.use_squeeze_and_excite = use_squeeze_and_excite
        self.use_sac = use_sac
        self.norm = dict(norm or {})
        self.squeeze_excite = squeeze_excite.SqueezeExcite(name="squeeze_excite") if use_squeeze_and_excite else None
        self.drop_path = drop_path.DropPath(keep_prob, name="drop_path") if keep_prob < 1 else None

    def _conv3x3(self, filters: int, stride: int, dilation: int, name: str, **kwargs) -> tf_keras.layers.Layer:
        kind = switchable_atrous.SwitchableConvBN if self.use_sac else convolution.ConvBN
        return kind(filters, 3, stride, dilation, norm=self.norm, name=name, **kwargs)

    @abc.abstractmethod
    def branch(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """The activated input [B, H, W, C] -> the branch, before squeeze-and-excite."""

    def activate(self, inputs: tf.Tensor) -> tf.Tensor:
        """What branch and shortcut start from."""
        return tf.nn.relu(inputs)

    def build(self, input_shape):
        self.shortcut = None
        if input_shape[-1] != 4 * self.filters:
            self.shortcut = convolution.ConvBN(
                4 * self.filters, 1, self.stride, activate=False, norm=self.norm, name="shortcut"
            )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        x = self.activate(inputs)
        if self.shortcut is not None:
            shortcut = self.shortcut(x, training=training)
        else:
            shortcut = x[:, :: self.stride, :: self.stride] if self.stride > 1 else x
        x = self.branch(x, training)
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
            "keep_prob": self.keep_prob,
            "use_squeeze_and_excite": self.use_squeeze_and_excite,
            "use_sac": self.use_sac,
            "norm": self.norm,
        }


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class BottleneckBlock(ResidualBlock):
    """1x1 convolution, a spatial layer, 1x1 convolution, added to a shortcut (see `ResidualBlock`).

    Args:
      filters: width of the block; its parts are multiples of it.
      stride: of the spatial layer.
      dilation: atrous rate of the 3x3 convolution; attention has none.
      attention: keyword arguments of the attention layer, for a block with attention: both depths and what else differs
        from the defaults; None: a 3x3 convolution.
      attention_kind: "axial" (`AxialAttention2D`) or "local" (`LocalAttention2D`).
      expansion: width of the first 1x1 convolution over `filters`.
      conv_expansion: width of the 3x3 convolution over `filters`.
      striding: of the attention, "average_pool" or "subsample".
      keep_prob: probability of keeping the branch in training (drop path).
      use_squeeze_and_excite: whether squeeze-and-excite ends the branch.
      use_sac: whether the 3x3 convolution is a switchable atrous one.
      activate_input: False for a block that starts from the image, of which ReLU would cut off one half.
      norm: momentum, epsilon and synchronized of the batch normalisations; None: those of Keras.

    Attributes:
      conv1: `ConvBN`.
      conv2: `ConvBN` or `SwitchableConvBN`; only without attention.
      attention_layer: `AxialAttention2D` or `LocalAttention2D`; only with attention.
      conv3: `ConvBN`.
      shortcut, squeeze_excite, drop_path: see `ResidualBlock`.
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
        attention_kind: str = "axial",
        conv_expansion: int = 1,
        use_sac: bool = False,
        activate_input: bool = True,
        **kwargs,
    ):
        super().__init__(filters, stride, keep_prob, use_squeeze_and_excite, use_sac, norm, **kwargs)
        if attention_kind not in _ATTENTION_LAYERS:
            raise ValueError(f'attention_kind must be "axial" or "local". Received: {attention_kind!r}')
        self.dilation = dilation
        self.attention = None if attention is None else dict(attention)
        self.attention_kind = attention_kind
        self.expansion = expansion
        self.conv_expansion = conv_expansion
        self.striding = striding
        self.activate_input = activate_input
        self.conv1 = convolution.ConvBN(filters * expansion, 1, norm=norm, name="conv1")
        if attention is None:
            self.conv2 = self._conv3x3(filters * conv_expansion, stride, dilation, "conv2")
        else:
            self.attention_layer = _ATTENTION_LAYERS[attention_kind](
                {**attention, "norm": self.norm}, stride, striding, name="attention"
            )
        self.conv3 = convolution.ConvBN(
            4 * filters, 1, activate=False, gamma_initializer="zeros", norm=norm, name="conv3"
        )

    def activate(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(inputs) if self.activate_input else inputs

    def branch(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        x = self.conv1(x, training=training)
        if self.attention is None:
            x = self.conv2(x, training=training)
        else:
            x = tf.nn.relu(self.attention_layer(x, training=training))
        return self.conv3(x, training=training)

    def get_config(self):
        return {
            **super().get_config(),
            "dilation": self.dilation,
            "attention": self.attention,
            "attention_kind": self.attention_kind,
            "expansion": self.expansion,
            "conv_expansion": self.conv_expansion,
            "striding": self.striding,
            "activate_input": self.activate_input,
        }


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions of 4 * filters, added to a shortcut (see `ResidualBlock`): the block of Wide-ResNets.

    Args:
      filters: a quarter of the width, so that blocks of one stage are named by one number, whatever their kind.
      stride: of the first convolution.
      dilation: atrous rate of the first convolution.
      second_dilation: atrous rate of the second one, which works behind the stride; None: that of the first.
      keep_prob: probability of keeping the branch in training (drop path).
      use_squeeze_and_excite: whether squeeze-and-excite ends the branch.
      use_sac: whether the convolutions are switchable atrous ones.
      norm: momentum, epsilon and synchronized of the batch normalisations; None: those of Keras.

    Attributes:
      conv1, conv2: `ConvBN` or `SwitchableConvBN`.
      shortcut, squeeze_excite, drop_path: see `ResidualBlock`.
    """

    def __init__(
        self,
        filters: int,
        stride: int = 1,
        dilation: int = 1,
        second_dilation: int | None = None,
        keep_prob: float = 1.0,
        use_squeeze_and_excite: bool = False,
        use_sac: bool = False,
        norm: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        super().__init__(filters, stride, keep_prob, use_squeeze_and_excite, use_sac, norm, **kwargs)
        self.dilation = dilation
        self.second_dilation = second_dilation or dilation
        self.conv1 = self._conv3x3(4 * filters, stride, dilation, "conv1")
        self.conv2 = self._conv3x3(
            4 * filters, 1, self.second_dilation, "conv2", activate=False, gamma_initializer="zeros"
        )

    def branch(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        return self.conv2(self.conv1(x, training=training), training=training)

    def get_config(self):
        return {**super().get_config(), "dilation": self.dilation, "second_dilation": self.second_dilation}
