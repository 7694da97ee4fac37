# SPDX-License-Identifier: Apache-2.0
"""Decoder of Panoptic-DeepLab (Cheng et al. 2020)."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab_axial.layers import aspp, convolution, resize


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class Decoder(tf_keras.layers.Layer):
    """ASPP on the coarsest features, fused step by step with finer ones.

    At each step the running features are resized to the finer map, concatenated with its 1x1 projection and mixed by a
    5x5 depthwise-separable convolution.

    Args:
      feature_key: endpoint that ASPP takes, as "res5".
      low_level: (endpoint, channels of its projection) in the order of fusion, coarse to fine; empty for ASPP alone.
      channels: output channels of each fusion.
      aspp_channels: output channels of ASPP.
      atrous_rates: as for `ASPP`.
      pool_size: as for `ASPP`.
      norm: momentum, epsilon and synchronized of the batch normalisations; None: those of Keras.

    Call arguments:
      endpoints: {endpoint: [B, h, w, C]}.
      training: whether batch normalisation uses the statistics of the batch and dropout is on.
      seed: as for `ASPP`.
      scale: as for `ASPP`.

    Returns:
      [B, h, w, channels] at the size of the last low-level endpoint; without any, [B, h, w, aspp_channels].
    """

    def __init__(
        self,
        feature_key: str,
        low_level: Sequence[tuple[str, int]],
        channels: int,
        aspp_channels: int,
        atrous_rates: Sequence[int] = (),
        pool_size: Sequence[int] | None = None,
        norm: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.feature_key = feature_key
        self.low_level = [tuple(entry) for entry in low_level]
        self.channels = channels
        self.aspp_channels = aspp_channels
        self.atrous_rates = list(atrous_rates)
        self.pool_size = None if pool_size is None else list(pool_size)
        self.norm = dict(norm or {})
        self.aspp = aspp.ASPP(aspp_channels, atrous_rates, pool_size, norm=norm, name="aspp")
        self.projections, self.fusions = [], []
        for key, depth in self.low_level:
            self.projections.append(convolution.ConvBN(depth, 1, norm=norm, name=f"project_{key}"))
            self.fusions.append(convolution.SeparableConvBN(channels, 5, norm=norm, name=f"fuse_{key}"))

    def call(
        self,
        endpoints: Mapping[str, tf.Tensor],
        training: bool = False,
        seed: tf.Tensor | None = None,
        scale: float = 1.0,
    ) -> tf.Tensor:
        x = self.aspp(endpoints[self.feature_key], training=training, seed=seed, scale=scale)
        for (key, _), project, fuse in zip(self.low_level, self.projections, self.fusions):
            finer = project(endpoints[key], training=training)
            x = resize.resize_bilinear(x, _size(finer))
            x = fuse(tf.concat([x, finer], axis=-1), training=training)
        return x

    def get_config(self):
        return {
            **super().get_config(),
            "feature_key": self.feature_key,
            "low_level": self.low_level,
            "channels": self.channels,
            "aspp_channels": self.aspp_channels,
            "atrous_rates": self.atrous_rates,
            "pool_size": self.pool_size,
            "norm": self.norm,
        }


def _size(x: tf.Tensor) -> tuple | tf.Tensor:
    """(height, width), static where it is known."""
    height, width = x.shape[1:3]
    return tf.shape(x)[1:3] if height is None or width is None else (height, width)
