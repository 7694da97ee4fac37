# SPDX-License-Identifier: Apache-2.0
"""Position-sensitive axial attention (Axial-DeepLab, ECCV 2020, sections 3.2 and 3.3)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras

from deeplab_axial.layers import attention, axial_core, axial_kernel, recompute, relative_position, row_chunks, target

# Distances that a table tells apart: -254 to 254, whatever the length of the axis. Longer ones share
# the last row.
LARGEST_DISTANCE = 254
# On a CPU what a few rows need stays in its cache; an accelerator wants much work at once.
LOGITS_AT_ONCE_ON_CPU = 1 << 19
LOGITS_AT_ONCE_ON_ACCELERATOR = 1 << 27


class Windows(NamedTuple):
    """How queries and keys are cut into blocks: G blocks of Q queries, each with the K keys around it."""

    num_blocks: int | tf.Tensor
    num_queries: int | tf.Tensor
    num_keys: int | tf.Tensor
    flange: int  # blocks of keys to each side of a block of queries
    mask: tf.Tensor | None  # [G, Q, K] bool, keys that a query may see; None: all


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class AxialAttention(attention.PositionSensitiveAttention):
    """Self-attention along the height or the width axis.

    For each head and each position o of the axis, over the positions p of the window centred on o:

        y_o = sum_p softmax_p(q_o . k_p + q_o . rq_{p-o} + k_p . rk_{p-o}) (v_p + rv_{p-o})

    with batch normalisation on q, k and v, on each of the three logit terms and on the two retrieved terms. There is no
    1/sqrt(d), no output projection and no activation. The tables rq, rk, rv are shared by the heads.

    Cost: O(H W L) for the whole axis of length L; with a span m, O(H W m): queries go in blocks of about m / 4, each
    against the keys of its own block and of the m / 2 positions to each side. Memory of inference grows with L, not
    with its square.

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
      logits_at_once: how many logits are held at a time; more are computed in a loop over rows of the map, forward and
        again in the backward pass; where one row has more, inference also takes a few queries of it at a time. None:
        2^19 on a CPU, 2^27 if TensorFlow sees an accelerator.
      kernel: "AUTO": the fused kernel on TPUs where it can be had (v4 and later, with JAX), else operations of
        TensorFlow; "XLA": those everywhere; "PALLAS": the kernel or an error. All compute the same, beyond rounding.

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
        logits_at_once: int | None = None,
        kernel: str = "AUTO",
        **kwargs,
    ):
        if axis not in ("height", "width"):
            raise ValueError(f'axis must be "height" or "width". Received: {axis!r}')
        if span is not None and (span < 3 or span % 2 == 0):
            raise ValueError(f"span must be None (the whole axis) or odd and at least 3. Received: {span}")
        if kernel not in axial_kernel.KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(axial_kernel.KERNELS)}. Received: {kernel!r}")
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
        self.axis = axis
        self.kernel = kernel

    def _table_shape(self) -> tuple[int, ...]:
        # Whatever the span, as the published numbers of parameters say (Table 7); so weights fit every span.
        return (2 * LARGEST_DISTANCE + 1,)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        layer = self._kernel_layer(inputs)
        if layer is None or not axial_kernel.is_built(self.kernel, layer):
            return super().call(inputs, training=training)
        # The kernel's positions come first, then all its rows; images, often eight, are innermost, a full tile.
        order = [1, 2, 0, 3] if self.axis == "height" else [2, 1, 0, 3]
        x = tf.transpose(inputs, order)
        sizes = x.shape[:3]
        x = tf.reshape(x, [1, sizes[0], -1, x.shape[3]])
        # Not tensordot: XLA chooses a layout for these dimensions, rows innermost, and not for a matrix of them.
        qkv = tf.einsum("blrc,cd->blrd", x, tf.cast(self.qkv_kernel, x.dtype))
        qkv = tf.cast(self._normalised(qkv, training), x.dtype)  # a normalisation may have a policy of its own
        retrieved = self._attend_by_kernel(layer, qkv, training)
        x = tf.reshape(self._sum_of_terms(retrieved, training), [*sizes, self.value_depth])
        return tf.transpose(x, [order.index(i) for i in range(4)])

    def _attend(self, qkv: tf.Tensor, training: bool) -> tf.Tensor:
        if self.axis == "width":
            return self._attend_along_width(qkv, training)
        return tf.transpose(self._attend_along_width(tf.transpose(qkv, [0, 2, 1, 3]), training), [0, 2, 1, 3])

    def _kernel_layer(self, inputs: tf.Tensor) -> axial_kernel.Layer | None:
        """What the kernel would be built for; None where sizes are not known yet."""
        if not inputs.shape.is_fully_defined():
            return None
        batch, height, width, _ = inputs.shape
        length, rows = (height, batch * width) if self.axis == "height" else (width, batch * height)
        depths = self.key_depth // self.num_heads, self.value_depth // self.num_heads
        terms = self.query_position, self.key_position, self.value_position
        shape = 1, length, rows, 2 * self.key_depth + self.value_depth
        return axial_kernel.Layer(shape, inputs.dtype.name, self.num_heads, *depths, self.span, terms)

    def _attend_by_kernel(self, layer: axial_kernel.Layer, qkv: tf.Tensor, training: bool) -> tf.Tensor:
        """[1, L, R, 2K + V] -> retrieved terms side by side, [1, L, R, V or 2V]."""
        moments = None
        if training and self.use_batch_norm and not self.logit_norm.is_held:
            moments = self._moments_of_rows(tf.transpose(qkv[0], [1, 0, 2]))
        scales = self._scales(moments, tf.float32).get("scales")
        if scales is None:
            scales = tf.ones([1 + self.query_position + self.key_position, self.num_heads])
        tables = {
            name: tf.cast(relative_position.clipped_rows(tf.convert_to_tensor(table), qkv.shape[1]), tf.float32)
            for name, table in self._tables()
        }
        return axial_kernel.attend(layer, qkv, scales, tables)

    def _moments_of_rows(self, rows: tf.Tensor) -> Sequence[tf.Tensor]:
        """Mean and mean square of the logit terms of rows [R, L, 2K + V], [T, N] each.

        In a way that suits an accelerator.
        """
        length = rows.shape[1]
        whole = Windows(1, length, length, 0, None)
        tables = {name: x for name, x in self._spread_tables(whole, rows.dtype).items() if name != "value"}

        def moments(qkv, *of_tables):
            factors, _ = self._factors(qkv, dict(zip(tables, of_tables)), whole)
            if self.span is None or self.span // 2 >= length - 1:
                return tf.stack(axial_core.moments_from_factors(factors))
            position = tf.range(length)
            near = tf.abs(position[None, :] - position[:, None]) <= self.span // 2
            if length > (self.key_depth // self.num_heads) ** 2:  # a Gram matrix is smaller than a query's logits
                return axial_core.moments_in_band(factors, tf.cast(near, tf.float32))
            sums = tf.reduce_sum(axial_core.moments_in_rows(factors, near[None]), axis=0)
            return sums / (tf.cast(tf.shape(qkv)[0], tf.float32) * tf.reduce_sum(tf.cast(near, tf.float32)))

        # The backward pass makes the factors again from qkv, which is kept anyway.
        return tf.unstack(recompute.recompute(moments, rows, *tables.values()))

    def _attend_along_width(self, qkv: tf.Tensor, training: bool) -> tf.Tensor:
        """[B, R, L, 2K + V] -> retrieved terms side by side, [B, R, L, V or 2V]."""
        batch, num_rows, length = (s if s is not None else tf.shape(qkv)[i] for i, s in enumerate(qkv.shape[:3]))
        windows = self._windows(length)
        rows = {"qkv": tf.reshape(qkv, [-1, length, qkv.shape[-1]])}  # S = B R of them
        channels = self.value_depth * (1 if self.value_table is None else 2)
        limit = self.logits_at_once or _logits_at_once()
        uses_moments = training and self.use_batch_norm and not self.logit_norm.is_held
        queries_at_once = row_chunks.rows_within(limit, self.num_heads * length)
        fits = isinstance(length, int) and queries_at_once >= length
        # The backward pass of a training would keep the tables of all blocks.
        if windows.mask is None and not training and not fits:
            retrieved = self._attend_in_blocks(rows["qkv"], length, queries_at_once)
            return tf.reshape(retrieved, [batch, num_rows, length, channels])
        tables = self._spread_tables(windows, qkv.dtype)
        logits_in_row = self.num_heads * windows.num_blocks * windows.num_queries * windows.num_keys
        rows_at_once = row_chunks.rows_within(limit, logits_in_row)
        moments = self._logit_moments(rows, tables, windows, rows_at_once) if uses_moments else None

        def attend(rows, shared):
            factors, v = self._factors(rows["qkv"], shared, windows)
            scales = tf.unstack(shared["scales"]) if "scales" in shared else None
            return axial_core.attend(factors, scales, v, shared.get("value"), windows.mask)

        retrieved = row_chunks.map_rows(
            attend, rows, {**tables, **self._scales(moments, qkv.dtype)}, rows_at_once, qkv.dtype
        )
        # [S, G, Q, 1 or 2, N, e] -> [B, R, G Q, 1 or 2 times V], the padding of the last block cut off.
        positions = windows.num_blocks * windows.num_queries
        retrieved = tf.reshape(retrieved, [batch, num_rows, positions, channels])
        return retrieved if windows.flange == 0 else retrieved[:, :, :length]

    def _attend_in_blocks(self, qkv: tf.Tensor, length: int | tf.Tensor, queries_at_once: int | tf.Tensor) -> tf.Tensor:
        """Inference along a long axis: some queries of every row at a time, each against the whole axis.

        So no more logits, nor pairs of positions, are held than for a few short rows.

        Args:
          qkv: [S, L, 2K + V].
          length: L.
          queries_at_once: of a row, at most.

        Returns:
          [S, L, 1 or 2 times V].
        """
        num_blocks = (length - 1) // queries_at_once + 1  # G
        size = (length + num_blocks - 1) // num_blocks  # Q
        q, kv = tf.split(qkv, [self.key_depth, self.key_depth + self.value_depth], axis=-1)
        q = tf.transpose(_cut(q, 0, num_blocks, size), [1, 0, 2, 3])  # [G, S, Q, K]
        # Rows for every distance, and in front those of the queries that fill up the last block.
        behind = num_blocks * size - length
        rows_of = {
            name: tf.pad(tf.cast(relative_position.clipped_rows(table, length), qkv.dtype), [[behind, 0], [0, 0]])
            for name, table in self._tables()
        }
        scales = self._scales(None, qkv.dtype)

        def attend(rows, shared):
            k, v = tf.split(rows["kv"], [self.key_depth, self.value_depth], axis=-1)
            q, k, v = (self._heads(x[:, None]) for x in (rows["q"], k, v))
            factors = axial_core.Factors(q, k, {name: shared[name] for name in ("query", "key") if name in shared})
            scales = tf.unstack(shared["scales"]) if "scales" in shared else None
            return axial_core.attend(factors, scales, v, shared.get("value"), None)

        def attend_block(index):
            first = (num_blocks - 1 - index) * size
            tables = {
                # Not rows[first : ...], whose size XLA does not see.
                name: relative_position.toeplitz(
                    tf.slice(rows, [first, 0], [size + length - 1, rows.shape[1]]), size, length
                )
                for name, rows in rows_of.items()
            }
            if "key" in tables:
                tables["key"] = tf.transpose(tables["key"], [1, 2, 0])  # [L, d, Q]
            rows = {"q": q[index], "kv": kv}
            return row_chunks.map_rows(attend, rows, {**tables, **scales}, queries_at_once // size, qkv.dtype)

        retrieved = tf.map_fn(
            attend_block, tf.range(num_blocks), fn_output_signature=qkv.dtype, parallel_iterations=1
        )  # [G, S, 1, Q, 1 or 2, N, e]
        retrieved = tf.transpose(retrieved, [1, 0, 2, 3, 4, 5, 6])
        channels = self.value_depth * (1 if self.value_table is None else 2)
        return tf.reshape(retrieved, [-1, num_blocks * size, channels])[:, :length]

    def _tables(self) -> list[tuple[str, tf.Variable]]:
        tables = (("query", self.query_table), ("key", self.key_table), ("value", self.value_table))
        return [(name, table) for name, table in tables if table is not None]

    def _spread_tables(self, windows: Windows, dtype: tf.DType) -> dict[str, tf.Tensor]:
        """ "query" [Q, K, d], "key" [K, d, Q] and "value" [Q, K, e], where they take part."""
        tables = dict(self._tables())
        if not tables:
            return {}
        # Side by side, one spreading does for all.
        pairs = tf.cast(self._pairs(tf.concat(list(tables.values()), axis=-1), windows), dtype)
        pairs = tf.split(pairs, [table.shape[-1] for table in tables.values()], axis=-1)
        tables = dict(zip(tables, pairs))
        if "key" in tables:
            tables["key"] = tf.transpose(tables["key"], [1, 2, 0])
        return tables

    def _factors(
        self, qkv: tf.Tensor, tables: Mapping[str, tf.Tensor], windows: Windows
    ) -> tuple[axial_core.Factors, tf.Tensor]:
        """Rows [S, L, 2K + V], cut into blocks: factors of the logits, and values [S, G, K, N, e]."""
        q, k, v = tf.split(qkv, [self.key_depth, self.key_depth, self.value_depth], axis=-1)
        q = self._heads(_query_blocks(q, windows))
        k, v = (self._heads(_key_blocks(x, windows)) for x in (k, v))
        return axial_core.Factors(q, k, {name: tables[name] for name in ("query", "key") if name in tables}), v

    def _heads(self, x: tf.Tensor) -> tf.Tensor:
        """[S, G, Q, D] -> [S, G, Q, N, D / N]."""
        groups, queries = (s if s is not None else tf.shape(x)[i + 1] for i, s in enumerate(x.shape[1:3]))
        return tf.reshape(x, [-1, groups, queries, self.num_heads, x.shape[-1] // self.num_heads])

    def _logit_moments(self, rows, tables, windows: Windows, rows_at_once) -> Sequence[tf.Tensor]:
        """Mean and mean square of the logit terms of this batch, [T, N] each."""
        tables = {name: table for name, table in tables.items() if name != "value"}
        if windows.mask is None:
            # The backward pass makes the factors again from qkv, which is kept anyway.
            def moments_of_all(qkv, *of_tables):
                factors, _ = self._factors(qkv, dict(zip(tables, of_tables)), windows)
                return tf.stack(axial_core.moments_from_factors(factors))

            return tf.unstack(recompute.recompute(moments_of_all, rows["qkv"], *tables.values()))

        def moments(rows, tables):
            return axial_core.moments_in_rows(self._factors(rows["qkv"], tables, windows)[0], windows.mask)

        sums = row_chunks.map_rows(moments, rows, tables, rows_at_once, tf.float32)
        pairs = tf.cast(tf.shape(sums)[0], tf.float32) * tf.reduce_sum(tf.cast(windows.mask, tf.float32))
        return tf.unstack(tf.reduce_sum(sums, axis=0) / pairs)

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

    def _pairs(self, table: tf.Tensor, windows: Windows) -> tf.Tensor:
        """The table spread over the pairs of a block: [Q, K, D]."""
        if windows.flange == 0:
            rows = relative_position.clipped_rows(table, windows.num_queries)
        else:
            beyond = windows.num_queries - 1  # pairs of the block outside the span
            rows = tf.pad(relative_position.clipped_rows(table, self.span // 2 + 1), [[beyond, beyond], [0, 0]])
        return relative_position.toeplitz(rows, windows.num_queries, windows.num_keys)

    def get_config(self):
        return {**super().get_config(), "axis": self.axis, "kernel": self.kernel}


def _query_blocks(x: tf.Tensor, windows: Windows) -> tf.Tensor:
    """[S, L, D] -> [S, G, Q, D], zeros behind the end."""
    if windows.flange == 0:
        return tf.expand_dims(x, 1)
    return _cut(x, 0, windows.num_blocks, windows.num_queries)


def _key_blocks(x: tf.Tensor, windows: Windows) -> tf.Tensor:
    """[S, L, D] -> [S, G, K, D]: each block with its neighbours, zeros outside."""
    if windows.flange == 0:
        return tf.expand_dims(x, 1)
    blocks, flange = windows.num_blocks, windows.flange
    x = _cut(x, flange, blocks + 2 * flange, windows.num_queries)
    return tf.concat([x[:, i : i + blocks] for i in range(2 * flange + 1)], axis=2)


def _cut(x: tf.Tensor, before: int, blocks: int | tf.Tensor, size: int) -> tf.Tensor:
    """[S, L, D] -> [S, blocks, size, D], `before` blocks of zeros before x and as many zeros behind as it takes."""
    length = x.shape[1] if x.shape[1] is not None else tf.shape(x)[1]
    x = tf.pad(x, [[0, 0], [before * size, (blocks - before) * size - length], [0, 0]])
    return tf.reshape(x, [-1, blocks, size, x.shape[-1]])


def _logits_at_once() -> int:
    return LOGITS_AT_ONCE_ON_ACCELERATOR if target.is_accelerator() else LOGITS_AT_ONCE_ON_CPU


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
