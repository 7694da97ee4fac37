# SPDX-License-Identifier: Apache-2.0
"""Self-attention in a square window: what the paper compares axial attention with (section 3.1, Tables 1 and 6)."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab_axial.layers import attention, axial_core, row_chunks

LOGITS_AT_ONCE = 1 << 27


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class LocalAttention(attention.PositionSensitiveAttention):
    """2D local self-attention (Ramachandran et al. 2019), with the position terms of Axial-DeepLab.

    For each head and each position o, over the positions p of the span x span window centred on o, inside the image:

        y_o = sum_p softmax_p(q_o . k_p + q_o . rq_{p-o} + k_p . rk_{p-o}) (v_p + rv_{p-o})

    with batch normalisation on q, k and v, on each of the three logit terms and on the two retrieved terms. There is no
    1/sqrt(d), no output projection and no activation. The tables rq, rk, rv, one row per offset (y, x), are shared by
    the heads. The layer of the paper without position-sensitivity has `query_position` alone.

    Cost: O(H W span^2). The queries go in blocks of 2 x 2, each against the (span + 1)^2 keys around it.

    Args:
      key_depth: depth of queries and of keys, all heads together.
      value_depth: depth of values and of the output, all heads together.
      num_heads: heads N; must divide both depths.
      span: odd side of the window, positions.
      query_position: whether the term q.rq takes part (ablation, Tables 1 and 6).
      key_position: whether the term k.rk takes part.
      value_position: whether the term rv takes part.
      use_batch_norm: whether the three batch normalisations take part.
      norm: momentum, epsilon and synchronized of the batch normalisations; None: those of Keras.
      logits_at_once: how many logits are held at a time; more are computed some images at a time, forward and again in
        the backward pass. None: 2^27, 512 MiB in float32.

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
        num_heads: int = 8,
        span: int = 7,
        query_position: bool = True,
        key_position: bool = True,
        value_position: bool = True,
        use_batch_norm: bool = True,
        norm: Mapping[str, Any] | None = None,
        logits_at_once: int | None = None,
        **kwargs,
    ):
        if span is None or span < 3 or span % 2 == 0:
            raise ValueError(
                f"span must be odd and at least 3; a local window is never the whole map. Received: {span}"
            )
        super().__init__(
            key_depth,
            value_depth,
            num_heads,
            span,
            query_position,
            key_position,
            value_position,
            use_batch_norm,
            norm,
            logits_at_once,
            **kwargs,
        )

    def _table_shape(self) -> tuple[int, ...]:
        return self.span, self.span

    def _attend(self, qkv: tf.Tensor, training: bool) -> tf.Tensor:
        batch, height, width = _sizes(qkv)
        rows, columns = (height + 1) // 2, (width + 1) // 2
        images = {"qkv": qkv}
        tables = {
            name: tf.cast(_pairs(table), qkv.dtype)  # [Q, K, d or e]
            for name, table in (("query", self.query_table), ("key", self.key_table), ("value", self.value_table))
            if table is not None
        }
        if "key" in tables:
            tables["key"] = tf.transpose(tables["key"], [1, 2, 0])  # [K, d, Q]
        mask = _mask(height, width, self.span)  # [G, Q, K]
        logits_in_image = self.num_heads * rows * columns * 4 * (self.span + 1) ** 2
        at_once = row_chunks.rows_within(self.logits_at_once or LOGITS_AT_ONCE, logits_in_image)
        uses_moments = training and self.use_batch_norm and not self.logit_norm.is_held
        moments = self._logit_moments(images, tables, mask, at_once) if uses_moments else None
        shared = {**tables, **self._scales(moments, qkv.dtype)}

        def attend(images, shared):
            factors, v = self._factors(images["qkv"], shared)
            scales = tf.unstack(shared["scales"]) if "scales" in shared else None
            return axial_core.attend(factors, scales, v, shared.get("value"), mask)

        retrieved = row_chunks.map_rows(attend, images, shared, at_once, qkv.dtype)
        # [B, G, Q, 1 or 2, N, e] -> [B, H, W, 1 or 2 times V], the padding of the last blocks cut off.
        channels = self.value_depth * (1 if self.value_table is None else 2)
        x = tf.reshape(retrieved, [batch, rows, columns, 2, 2, channels])
        x = tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]), [batch, 2 * rows, 2 * columns, channels])
        return x[:, :height, :width]

    def _factors(self, qkv: tf.Tensor, tables: Mapping[str, tf.Tensor]) -> tuple[axial_core.Factors, tf.Tensor]:
        """Factors of the logits, [B, G, Q, N, d] and [B, G, K, N, d], and values [B, G, K, N, e].

        G blocks of Q = 4 queries and K = (span + 1)^2 keys.
        """
        q, kv = tf.split(qkv, [self.key_depth, self.key_depth + self.value_depth], axis=-1)
        k, v = tf.split(_key_blocks(kv, self.span), [self.key_depth, self.value_depth], axis=-1)
        q, k, v = (self._heads(x) for x in (_query_blocks(q), k, v))
        return axial_core.Factors(q, k, {name: tables[name] for name in ("query", "key") if name in tables}), v

    def _heads(self, x: tf.Tensor) -> tf.Tensor:
        """[B, G, Q, D] -> [B, G, Q, N, D / N]."""
        return tf.reshape(x, [*_sizes(x), self.num_heads, x.shape[-1] // self.num_heads])

    def _logit_moments(self, images: dict, tables: dict, mask: tf.Tensor, at_once: int | tf.Tensor) -> list[tf.Tensor]:
        """Mean and mean square of the logit terms of this batch, [T, N] each."""
        sums = row_chunks.map_rows(
            lambda images, tables: axial_core.moments_in_rows(self._factors(images["qkv"], tables)[0], mask),
            images,
            {name: table for name, table in tables.items() if name != "value"},
            at_once,
            tf.float32,
        )  # [B, 2, T, N]
        pairs = tf.cast(tf.shape(sums)[0], tf.float32) * tf.reduce_sum(tf.cast(mask, tf.float32))
        return tf.unstack(tf.reduce_sum(sums, axis=0) / pairs)


def _sizes(x: tf.Tensor) -> list[int | tf.Tensor]:
    """The first three sizes, static where they are known."""
    shape = tf.shape(x)
    return [shape[i] if x.shape[i] is None else x.shape[i] for i in range(3)]


def _query_blocks(x: tf.Tensor) -> tf.Tensor:
    """[B, H, W, D] -> [B, G, 4, D]: blocks of 2 x 2 positions, zeros behind the end."""
    batch, height, width = _sizes(x)
    rows, columns = (height + 1) // 2, (width + 1) // 2
    x = tf.pad(x, [[0, 0], [0, 2 * rows - height], [0, 2 * columns - width], [0, 0]])
    x = tf.reshape(x, [batch, rows, 2, columns, 2, x.shape[-1]])
    return tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]), [batch, rows * columns, 4, x.shape[-1]])


def _key_blocks(x: tf.Tensor, span: int) -> tf.Tensor:
    """[B, H, W, D] -> [B, G, (span + 1)^2, D]: the windows of a block's four queries, joined; zeros outside the map."""
    batch, height, width = _sizes(x)
    rows, columns = (height + 1) // 2, (width + 1) // 2
    half, depth = span // 2, x.shape[-1]
    behind = (2 * rows + half - height, 2 * columns + half - width)
    x = tf.pad(x, [[0, 0], [half, behind[0]], [half, behind[1]], [0, 0]])
    # A block's keys are half + 1 neighbouring pairs of rows, and as many pairs of columns.
    x = tf.reshape(x, [batch, rows + half, 2, 2 * (columns + half), depth])
    x = tf.concat([x[:, i : i + rows] for i in range(half + 1)], axis=2)
    x = tf.reshape(x, [batch, rows, span + 1, columns + half, 2, depth])
    x = tf.concat([x[:, :, :, i : i + columns] for i in range(half + 1)], axis=4)  # [B, rows, s + 1, columns, s + 1, D]
    return tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]), [batch, rows * columns, (span + 1) ** 2, depth])


def _pairs(table: tf.Tensor) -> tf.Tensor:
    """[span, span, D] -> [4, (span + 1)^2, D]: the table seen from each query of a block, zeros outside its window."""
    seen = [tf.pad(table, [[y, 1 - y], [x, 1 - x], [0, 0]]) for y in (0, 1) for x in (0, 1)]
    return tf.reshape(tf.stack(seen), [4, -1, table.shape[-1]])


def _mask(height: int | tf.Tensor, width: int | tf.Tensor, span: int) -> tf.Tensor:
    """[G, 4, (span + 1)^2] bool: keys in the window of a query, both inside the map."""
    near = _pairs(tf.ones([span, span, 1]))[..., 0]  # [Q, K]
    inside = tf.ones([1, height, width, 1])
    queries, keys = _query_blocks(inside)[0], _key_blocks(inside, span)[0]  # [G, Q, 1] and [G, K, 1]
    return near * queries * tf.transpose(keys, [0, 2, 1]) > 0


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class LocalAttention2D(tf_keras.layers.Layer):
    """2D local attention, followed by the stride: a drop-in for `AxialAttention2D`.

    Args:
      attention: keyword arguments of `LocalAttention`.
      stride: 1 or more, along both axes.
      striding: "average_pool" or "subsample" (every stride-th row and column).

    Call arguments:
      inputs: [B, H, W, C].
      training: passed on.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), value_depth].
    """

    def __init__(self, attention: Mapping[str, Any], stride: int = 1, striding: str = "average_pool", **kwargs):
        super().__init__(**kwargs)
        if stride < 1:
            raise ValueError(f"stride must be at least 1. Received: {stride}")
        if striding not in ("average_pool", "subsample"):
            raise ValueError(f'striding must be "average_pool" or "subsample". Received: {striding!r}')
        self.attention = dict(attention)
        self.stride = stride
        self.striding = striding
        self.window = LocalAttention(name="window", **attention)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = self.window(inputs, training=training)
        if self.stride == 1:
            return x
        if self.striding == "subsample":
            return x[:, :: self.stride, :: self.stride]
        return tf.nn.avg_pool2d(x, self.stride, self.stride, "SAME")

    def get_config(self):
        return {
            **super().get_config(),
            "attention": self.attention,
            "stride": self.stride,
            "striding": self.striding,
        }
