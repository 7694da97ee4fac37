# SPDX-License-Identifier: Apache-2.0
"""What attention along an axis and attention in a window share: weights, normalisation, and the order of things."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from deeplab_axial.layers import normalization


class PositionSensitiveAttention(tf_keras.layers.Layer, abc.ABC):
    """Projects to queries, keys and values, lets a subclass attend, and adds up what it retrieved.

    Args:
      key_depth: depth of queries and of keys, all heads together.
      value_depth: depth of values and of the output, all heads together.
      num_heads: heads N; must divide both depths.
      span: positions along a side of the window.
      query_position: whether the term q.rq takes part (ablation, Table 6).
      key_position: whether the term k.rk takes part.
      value_position: whether the term rv takes part.
      use_batch_norm: whether the three batch normalisations take part.
      norm: momentum, epsilon and synchronized of the batch normalisations; None: those of Keras.
      logits_at_once: how many logits are held at a time; None: as the subclass says.

    Call arguments:
      inputs: [B, H, W, C], any H and W at each call.
      training: whether batch normalisation uses the statistics of the batch.

    Returns:
      [B, H, W, value_depth].

    Raises:
      ValueError: an argument is outside its range; the message names it.
    """

    def __init__(
        self,
        key_depth: int,
        value_depth: int,
        num_heads: int,
        span: int | None,
        query_position: bool,
        key_position: bool,
        value_position: bool,
        use_batch_norm: bool,
        norm: Mapping[str, Any] | None,
        logits_at_once: int | None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_heads < 1:
            raise ValueError(f"num_heads must be at least 1. Received: {num_heads}")
        for what, depth in (("key_depth", key_depth), ("value_depth", value_depth)):
            if depth <= 0 or depth % num_heads:
                raise ValueError(
                    f"{what} must be a positive multiple of num_heads={num_heads}. Received: {depth}. "
                    "Widen the layer (its width multiplier) or use fewer heads."
                )
        self.key_depth = key_depth
        self.value_depth = value_depth
        self.num_heads = num_heads
        self.span = span
        self.query_position = query_position
        self.key_position = key_position
        self.value_position = value_position
        self.use_batch_norm = use_batch_norm
        self.norm = dict(norm or {})
        self.logits_at_once = logits_at_once
        self.folded = False
        if use_batch_norm:
            num_terms = 1 + query_position + key_position
            self.qkv_norm = normalization.batch_norm(norm, name="qkv_norm")
            self.logit_norm = normalization.LogitNormalization(num_terms, num_heads, norm, name="logit_norm")
            self.retrieved_norm = normalization.batch_norm(norm, name="retrieved_norm")

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(f"The channels of the input must be known. Received shape: {input_shape}")
        self.qkv_kernel = self.add_weight(
            name="qkv_kernel",
            shape=(channels, 2 * self.key_depth + self.value_depth),
            initializer=tf_keras.initializers.TruncatedNormal(stddev=channels**-0.5),
        )
        self.query_table = self._add_table("query_table", self.key_depth) if self.query_position else None
        self.key_table = self._add_table("key_table", self.key_depth) if self.key_position else None
        self.value_table = self._add_table("value_table", self.value_depth) if self.value_position else None
        super().build(input_shape)

    def _add_table(self, name: str, depth: int) -> tf.Variable:
        return self.add_weight(
            name=name,
            shape=(*self._table_shape(), depth // self.num_heads),
            initializer=tf_keras.initializers.TruncatedNormal(stddev=1.0),
        )

    @abc.abstractmethod
    def _table_shape(self) -> tuple[int, ...]:
        """Sizes of a table of relative positions, its depth apart."""

    @abc.abstractmethod
    def _attend(self, qkv: tf.Tensor, training: bool) -> tf.Tensor:
        """[B, H, W, 2K + V] -> retrieved terms side by side, [B, H, W, V or 2V]."""

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        # Not matmul: for several images of one row, its broadcasting corrupts memory on CPUs in TensorFlow 2.21
        # (tensorflow/tensorflow issue 117700).
        qkv = tf.tensordot(inputs, tf.cast(self.qkv_kernel, inputs.dtype), 1)
        return self._sum_of_terms(self._attend(self._normalised(qkv, training), training), training)

    def _normalised(self, qkv: tf.Tensor, training: bool) -> tf.Tensor:
        if self.folded:
            normalization.refuse_training(training)
            return qkv + tf.cast(self.qkv_bias, qkv.dtype)
        return self.qkv_norm(qkv, training=training) if self.use_batch_norm else qkv

    def _sum_of_terms(self, retrieved: tf.Tensor, training: bool) -> tf.Tensor:
        """[B, H, W, V or 2V] -> [B, H, W, V], normalised."""
        if self.use_batch_norm and not self.folded:
            # One batch normalisation over the channels of both retrieved terms is one for each term.
            retrieved = self.retrieved_norm(retrieved, training=training)
        if not self.value_position:
            return retrieved
        content, position = tf.split(retrieved, 2, axis=-1)
        return content + (position * tf.cast(self.position_scale, position.dtype) if self.folded else position)

    def _scales(self, moments: Sequence[tf.Tensor] | None, dtype: tf.DType) -> dict[str, tf.Tensor]:
        """{"scales": [T, N]}, the factors of the logit terms, or {} without batch normalisation.

        Args:
          moments: mean and mean square of each logit term in this batch, [T, N]; None in inference.
          dtype: of the result.
        """
        if not self.use_batch_norm:
            return {}
        if self.folded:
            return {"scales": tf.cast(self.logit_scales, dtype)}
        return {"scales": tf.cast(self.logit_norm(*(moments or (None, None)), training=moments is not None), dtype)}

    def fold_batch_norm(self) -> None:
        """Brings the three normalisations into the projection and into one factor per logit term and head.

        The attention weights of a query add up to 1, so that the scale and shift of the retrieved content go into the
        values; of the retrieved positions only the scale remains.
        """
        if not self.use_batch_norm or self.folded:
            return
        scale, shift = normalization.scale_and_shift(self.qkv_norm)
        retrieved_scale, retrieved_shift = normalization.scale_and_shift(self.retrieved_norm)
        terms = 2 if self.value_position else 1
        content_scale = retrieved_scale[: self.value_depth]
        values = slice(2 * self.key_depth, None)
        scale[values] *= content_scale
        shift[values] = shift[values] * content_scale + retrieved_shift.reshape(terms, -1).sum(0)
        self.qkv_kernel.assign((np.float64(self.qkv_kernel.numpy()) * scale).astype(np.float32))
        self.qkv_bias = normalization.constant(shift, "qkv_bias")
        self.logit_scales = normalization.constant(self.logit_norm.scales(), "logit_scales")
        if self.value_position:
            self.position_scale = normalization.constant(retrieved_scale[self.value_depth :], "position_scale")
        self.qkv_norm = self.logit_norm = self.retrieved_norm = None
        self.folded = True

    def get_config(self):
        return {
            **super().get_config(),
            "key_depth": self.key_depth,
            "value_depth": self.value_depth,
            "num_heads": self.num_heads,
            "span": self.span,
            "query_position": self.query_position,
            "key_position": self.key_position,
            "value_position": self.value_position,
            "use_batch_norm": self.use_batch_norm,
            "norm": self.norm,
            "logits_at_once": self.logits_at_once,
        }
