# SPDX-License-Identifier: Apache-2.0
"""The first layers of a backbone."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab_axial.layers import convolution

KINDS = ("conv7x7", "three_conv", "conv3x3", "none")


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class Stem(tf_keras.layers.Layer):
    """Convolutions with total stride 2, and a 3x3 max pool with stride 2 if asked for. The output is not activated.

    Args:
      kind: "conv7x7" (64 filters, the stem of ResNet), "three_conv" (3x3 convolutions of 64, 64 and 128 filters, the
        first with stride 2: the "inception" stem of Axial-DeepLab), "conv3x3" (64 filters, of Wide-ResNet), or "none":
        the image itself, for networks whose first blocks take the place of the stem.
      width_multiplier: scales the filters.
      max_pool: whether a 3x3/2 max pool follows.
      norm: momentum, epsilon and synchronized of the batch normalisations; None: those of Keras.

    Attributes:
      convs: `ConvBN`s, in order; empty for "none".

    Call arguments:
      inputs: [B, H, W, 3].
      training: whether batch normalisation uses the statistics of the batch.

    Returns:
      [B, ceil(H / 2), ceil(W / 2), 64 or 128 times width_multiplier], or a quarter of H and W after the max pool; the
      input for "none".
    """

    def __init__(
        self,
        kind: str,
        width_multiplier: float = 1.0,
        max_pool: bool = False,
        norm: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}. Received: {kind!r}")
        if kind == "none" and max_pool:
            raise ValueError('kind "none" has no max pool, which would pool the image. Received: max_pool=True')
        self.kind = kind
        self.width_multiplier = width_multiplier
        self.max_pool = max_pool
        self.norm = dict(norm or {})
        # DeepLab2 rounds the width of a single convolution, but cuts off those of the three.
        single, narrow, wide = round(64 * width_multiplier), int(64 * width_multiplier), int(128 * width_multiplier)
        self.convs = []
        if kind == "three_conv":
            self.convs = [
                convolution.ConvBN(narrow, 3, 2, norm=norm, name="conv1"),
                convolution.ConvBN(narrow, 3, norm=norm, name="conv2"),
                convolution.ConvBN(wide, 3, activate=False, norm=norm, name="conv3"),
            ]
        elif kind != "none":
            side = 7 if kind == "conv7x7" else 3
            self.convs = [convolution.ConvBN(single, side, 2, activate=False, norm=norm, name="conv1")]

    @property
    def stride(self) -> int:
        """Input pixels to an output position."""
        return 1 if self.kind == "none" else 4 if self.max_pool else 2

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = inputs
        for conv in self.convs:
            x = conv(x, training=training)
        if self.max_pool:
            # The first block activates what it gets, and max pooling and ReLU commute.
            lowest = x.dtype.min
            x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=lowest)
            x = tf.nn.max_pool2d(x, 3, 2, "VALID")
        return x

    def get_config(self):
        return {
            **super().get_config(),
            "kind": self.kind,
            "width_multiplier": self.width_multiplier,
            "max_pool": self.max_pool,
            "norm": self.norm,
        }
