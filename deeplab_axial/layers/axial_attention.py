# SPDX-License-Identifier: Apache-2.0
"""Position-sensitive axial attention (Axial-DeepLab, ECCV 2020, sections 3.2 and 3.3)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras

from deeplab_axial.layers import normalization, relative_position

# Distances that a table without a span tells apart: -254 to 254, whatever the length of the axis. Longer ones share
# the last row.
LARGEST_DISTANCE = 254
# Up to this length the moments of the logits come from the logits themselves: one pass over little is cheaper than many
# small matrix products.
SHORT_AXIS = 20
# Finite, so that a query whose keys are all masked (padding) gives numbers, not NaN.
MASKED = -1e9


class Windows(NamedTuple):
    """How queries and keys are cut into blocks: G blocks of Q queries, each with the K keys around it."""

    num_blocks: int | tf.Tensor
    num_queries: int | tf.Tensor
    num_keys: int | tf.Tensor
    flange: int  # blocks of keys to each side of a block of queries
    mask: tf.Tensor | None  # [G, Q, K] bool, keys that a query may see; None: all


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class AxialAttention(tf_keras.layers.Layer):
    """Self-attention along the height or the width axis.

    For each head and each position o of the axis, over the positions p of the window centred on o:

        y_o = sum_p softmax_p(q_o . k_p + q_o . rq_{p-o} + k_p . rk_{p-o}) (v_p + rv_{p-o})

    with batch normalisation on q, k and v, on each of the three logit terms and on the two retrieved terms. There is no
    1/sqrt(d), no output projection and no activation. The tables rq, rk, rv are shared by the heads.

    Cost: O(H W L) for the whole axis of length L; with a span m, O(H W m): queries go in blocks of about m / 4, each
    against the keys of its own block and of the m / 2 positions to each side.

    Args:
      axis: "height" or "width".
      key_depth: depth of queries and of keys, all heads together.
      value_depth: depth of values and of the output, all heads together.
      num_heads: heads N; must divide both depths.
      span: odd number of positions of the window, or None for the whole axis.
      query_position: whether the term q.rq takes part (ablation, Table 6).
      key_position: whether the term k.rk takes part.
      value_position: whether the term rv takes part.
      use_batch_norm: whether the three batch normalisations take part.
      norm: momentum, epsilon and synchronized of the batch normalisations; None: those of Keras.

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
        axis: str,
        key_depth: int,
        value_depth: int,
        num_heads: int = 8,
        span: int | None = None,
        query_position: bool = True,
        key_position: bool = True,
        value_position: bool = True,
        use_batch_norm: bool = True,
        norm: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if axis not in ("height", "width"):
            raise ValueError(f'axis must be "height" or "width". Received: {axis!r}')
        if num_heads < 1:
            raise ValueError(f"num_heads must be at least 1. Received: {num_heads}")
        for what, depth in (("key_depth", key_depth), ("value_depth", value_depth)):
            if depth <= 0 or depth % num_heads:
                raise ValueError(
                    f"{what} must be a positive multiple of num_heads={num_heads}. Received: {depth}. "
                    "Widen the layer (its width multiplier) or use fewer heads."
                )
        if span is not None and (span < 3 or span % 2 == 0):
            raise ValueError(f"span must be None (the whole axis) or odd and at least 3. Received: {span}")
        self.axis = axis
        self.key_depth = key_depth
        self.value_depth = value_depth
        self.num_heads = num_heads
        self.span = span
        self.query_position = query_position
        self.key_position = key_position
        self.value_position = value_position
        self.use_batch_norm = use_batch_norm
        self.norm = dict(norm or {})
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

    def _add_table(self, name: str, depth: int):
        rows = self.span or 2 * LARGEST_DISTANCE + 1
        initializer = tf_keras.initializers.TruncatedNormal(stddev=1.0)
        return self.add_weight(name=name, shape=(rows, depth // self.num_heads), initializer=initializer)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        # Not matmul: for several images of one row, its broadcasting corrupts memory on CPUs in TensorFlow 2.21
        # (tensorflow/tensorflow issue 117700).
        x = tf.tensordot(inputs, tf.cast(self.qkv_kernel, inputs.dtype), 1)  # [B, H, W, C] -> [B, H, W, 2K + V]
        if self.use_batch_norm:
            x = self.qkv_norm(x, training=training)
        if self.axis == "height":
            x = tf.transpose(x, [0, 2, 1, 3])  # the axis of attention stands third from here: [B, R, L, 2K + V]
        x = self._attend(x, training)  # [B, R, L, 1 or 2 times V]
        if self.use_batch_norm:
            # One batch normalisation over the channels of both retrieved terms is one for each term.
            x = self.retrieved_norm(x, training=training)
        if self.value_position:
            content, position = tf.split(x, 2, axis=-1)
            x = content + position
        return tf.transpose(x, [0, 2, 1, 3]) if self.axis == "height" else x

    def _attend(self, qkv: tf.Tensor, training: bool) -> tf.Tensor:
        """[B, R, L, 2K + V] -> retrieved terms side by side, [B, R, L, V or 2V]."""
        batch, rows, length = (s if s is not None else t for s, t in zip(qkv.shape[:3], tf.unstack(tf.shape(qkv)[:3])))
        windows = self._windows(length)
        q, k, v = tf.split(qkv, [self.key_depth, self.key_depth, self.value_depth], axis=-1)
        q = self._heads(_query_blocks(q, windows, length))  # [S, Q, N, d], S = B R G sequences
        k = self._heads(_key_blocks(k, windows, length))  # [S, K, N, d]
        v = self._heads(_key_blocks(v, windows, length))  # [S, K, N, e]
        query_table, key_table, value_table = (
            None if table is None else tf.cast(self._pairs(table, windows), q.dtype)  # [Q, K, d or e]
            for table in (self.query_table, self.key_table, self.value_table)
        )
        logits = self._logits(q, k, query_table, key_table, windows.mask, training)
        logits = tf.cast(logits, tf.float32)
        if windows.mask is not None:
            logits = _add_mask(logits, windows.mask)
        weights = tf.cast(tf.nn.softmax(logits), v.dtype)
        retrieved = tf.einsum("snqk,sknd->sqnd", weights, v)
        if value_table is not None:
            retrieved = tf.stack([retrieved, relative_position.retrieve(weights, value_table)], axis=2)
        # [S, Q, (2,) N, e] -> [B, R, G Q, (2) V], the padding of the last block cut off.
        channels = self.value_depth * (1 if value_table is None else 2)
        return tf.reshape(retrieved, [batch, rows, windows.num_blocks * windows.num_queries, channels])[:, :, :length]

    def _heads(self, x: tf.Tensor) -> tf.Tensor:
        """[B, R, G, Q, D] -> [B R G, Q, N, D / N]."""
        queries = x.shape[3] if x.shape[3] is not None else tf.shape(x)[3]
        return tf.reshape(x, [-1, queries, self.num_heads, x.shape[-1] // self.num_heads])

    def _windows(self, length: int | tf.Tensor) -> Windows:
        if self.span is None:
            return Windows(1, length, length, 0, None)
        half = self.span // 2
        size = half // 2 if half % 2 == 0 else half
        if isinstance(length, int):
            if length - 1 <= half:
                return Windows(1, length, length, 0, None)
            if length <= 2 * half + size:  # a block against all keys is no dearer than against its window
                position = tf.range(length)
                near = tf.abs(position[None, :] - position[:, None]) <= half
                return Windows(1, length, length, 0, near[None])
        flange = half // size
        num_blocks = (length + size - 1) // size
        num_keys = (2 * flange + 1) * size
        start = tf.range(num_blocks)[:, None, None] * size
        query = start + tf.range(size)[None, :, None]  # [G, Q, 1]
        key = start + tf.range(num_keys)[None, None, :] - half  # [G, 1, K]
        mask = (tf.abs(key - query) <= half) & (key >= 0) & (key < length) & (query < length)
        return Windows(num_blocks, size, num_keys, flange, mask)

    def _pairs(self, table: tf.Variable, windows: Windows) -> tf.Tensor:
        """The table spread over the pairs of a block: [Q, K, D]."""
        if windows.flange == 0:
            return relative_position.toeplitz(
                relative_position.clipped_rows(tf.convert_to_tensor(table), windows.num_queries),
                windows.num_queries,
                windows.num_keys,
            )
        beyond = windows.num_queries - 1
        return relative_position.toeplitz(
            tf.pad(table, [[beyond, beyond], [0, 0]]), windows.num_queries, windows.num_keys
        )

    def _logits(self, q, k, query_table, key_table, mask, training: bool) -> tf.Tensor:
        """Normalised logits [S, N, Q, K] of queries [S, Q, N, d] and keys [S, K, N, d]."""
        # Each term is linear in its first factor.
        terms = [(q, lambda x: tf.einsum("sqnd,sknd->snqk", x, k))]
        if query_table is not None:
            terms.append((q, lambda x: relative_position.query_logits(x, query_table)))
        if key_table is not None:
            terms.append((k, lambda x: relative_position.key_logits(x, key_table)))
        if not self.use_batch_norm:
            return tf.add_n([logits_of(x) for x, logits_of in terms])
        length = q.shape[1]
        if training and (mask is not None or (length is not None and length <= SHORT_AXIS)):
            logits = [logits_of(x) for x, logits_of in terms]
            scales = self.logit_norm(*_moments_of_logits(logits, mask), training=True)
            return tf.add_n([x * s[:, None, None] for x, s in zip(logits, tf.unstack(tf.cast(scales, q.dtype)))])
        # The factors go into queries and keys, which are smaller than the logits.
        moments = _moments_of_factors(q, k, query_table, key_table) if training else (None, None)
        scales = tf.unstack(tf.cast(self.logit_norm(*moments, training=training), q.dtype))
        return tf.add_n([logits_of(x * s[:, None]) for (x, logits_of), s in zip(terms, scales)])

    def get_config(self):
        return {
            **super().get_config(),
            "axis": self.axis,
            "key_depth": self.key_depth,
            "value_depth": self.value_depth,
            "num_heads": self.num_heads,
            "span": self.span,
            "query_position": self.query_position,
            "key_position": self.key_position,
            "value_position": self.value_position,
            "use_batch_norm": self.use_batch_norm,
            "norm": self.norm,
        }


def _query_blocks(x: tf.Tensor, windows: Windows, length: int | tf.Tensor) -> tf.Tensor:
    """[B, R, L, D] -> [B, R, G, Q, D], zeros behind the end."""
    if windows.flange == 0:
        return x[:, :, None]
    behind = windows.num_blocks * windows.num_queries - length
    x = tf.pad(x, [[0, 0], [0, 0], [0, behind], [0, 0]])
    return _cut(x, windows.num_blocks, windows.num_queries)


def _key_blocks(x: tf.Tensor, windows: Windows, length: int | tf.Tensor) -> tf.Tensor:
    """[B, R, L, D] -> [B, R, G, K, D]: each block with its neighbours, zeros outside."""
    if windows.flange == 0:
        return x[:, :, None]
    size, blocks, flange = windows.num_queries, windows.num_blocks, windows.flange
    behind = (blocks + flange) * size - length
    x = _cut(tf.pad(x, [[0, 0], [0, 0], [flange * size, behind], [0, 0]]), blocks + 2 * flange, size)
    return tf.concat([x[:, :, i : i + blocks] for i in range(2 * flange + 1)], axis=3)


def _cut(x: tf.Tensor, blocks: int | tf.Tensor, size: int) -> tf.Tensor:
    """[B, R, blocks * size, D] -> [B, R, blocks, size, D]."""
    shape = tf.shape(x)
    return tf.reshape(x, [shape[0], x.shape[1] or shape[1], blocks, size, x.shape[-1]])


def _add_mask(logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Hides the keys outside the mask [G, Q, K] in the logits [B R G, N, Q, K]."""
    shape = tf.shape(logits)
    grouped = tf.reshape(logits, tf.concat([[-1, tf.shape(mask)[0]], shape[1:]], axis=0))
    return tf.reshape(tf.where(mask[:, None], grouped, MASKED), shape)


def _moments_of_logits(logits: list[tf.Tensor], mask: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and mean square of logit terms [S, N, Q, K], over the pairs that the mask [G, Q, K] allows: [T, N] each."""
    means, squares = [], []
    for x in logits:
        x = tf.cast(x, tf.float32)
        pairs = tf.cast(tf.size(x) // tf.shape(x)[1], tf.float32)
        if mask is not None:
            shape = tf.shape(x)
            groups = tf.shape(mask)[0]
            pairs = tf.reduce_sum(tf.cast(mask, tf.float32)) * tf.cast(shape[0] // groups, tf.float32)
            x = tf.reshape(x, tf.concat([[-1, groups], shape[1:]], axis=0)) * tf.cast(mask, tf.float32)[:, None]
            x = tf.reshape(x, shape)
        means.append(tf.reduce_sum(x, [0, 2, 3]) / pairs)
        squares.append(tf.reduce_sum(tf.square(x), [0, 2, 3]) / pairs)
    return tf.stack(means), tf.stack(squares)


def _moments_of_factors(
    q: tf.Tensor, k: tf.Tensor, query_table: tf.Tensor | None, key_table: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """The same from sums and Gram matrices of the logits' factors, without forming the logits.

    The sum over all pairs of (a.b)^2 is the inner product of the Gram matrices sum a a^T and sum b b^T: O(L d^2), not
    O(L^2 d).
    """
    q, k = tf.cast(q, tf.float32), tf.cast(k, tf.float32)
    sequences, length = tf.shape(q)[0], tf.shape(q)[1]
    pairs = tf.cast(sequences, tf.float32) * tf.square(tf.cast(length, tf.float32))
    means = [tf.einsum("snd,snd->n", tf.reduce_sum(q, 1), tf.reduce_sum(k, 1))]
    gram_q, gram_k = tf.einsum("sqnd,sqne->snde", q, q), tf.einsum("sknd,skne->snde", k, k)
    squares = [tf.einsum("snde,snde->n", gram_q, gram_k)]
    for x, table, axis, gram in ((q, query_table, 1, "qkd,qke->qde"), (k, key_table, 0, "qkd,qke->kde")):
        if table is not None:
            table = tf.cast(table, tf.float32)
            means.append(tf.einsum("lnd,ld->n", tf.reduce_sum(x, 0), tf.reduce_sum(table, axis)))
            gram_x, gram_table = tf.einsum("slnd,slne->lnde", x, x), tf.einsum(gram, table, table)
            squares.append(tf.einsum("lnde,lde->n", gram_x, gram_table))
    return tf.stack(means) / pairs, tf.stack(squares) / pairs


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class AxialAttention2D(tf_keras.layers.Layer):
    """Attention along the height, then along the width, each followed by its share of the stride.

    Args:
      attention: keyword arguments of both `AxialAttention` layers (all but `axis`).
      stride: 1 or more, along both axes.
      striding: "average_pool" (the paper) or "subsample" (DeepLab2: every stride-th row and column).

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
        self.height_axis = AxialAttention(axis="height", name="height_axis", **attention)
        self.width_axis = AxialAttention(axis="width", name="width_axis", **attention)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = self._shrink(self.height_axis(inputs, training=training), axis=1)
        return self._shrink(self.width_axis(x, training=training), axis=2)

    def _shrink(self, x: tf.Tensor, axis: int) -> tf.Tensor:
        if self.stride == 1:
            return x
        if self.striding == "subsample":
            return x[:, :: self.stride] if axis == 1 else x[:, :, :: self.stride]
        window = [1, self.stride, 1, 1] if axis == 1 else [1, 1, self.stride, 1]
        return tf.nn.avg_pool2d(x, window, window, "SAME")

    def get_config(self):
        return {
            **super().get_config(),
            "attention": self.attention,
            "stride": self.stride,
            "striding": self.striding,
        }
