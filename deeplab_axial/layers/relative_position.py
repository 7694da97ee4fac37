# SPDX-License-Identifier: Apache-2.0
"""Tables of relative positions along one axis."""

from collections.abc import Iterable

import tensorflow as tf


def toeplitz(rows: tf.Tensor, num_queries: int | tf.Tensor, num_keys: int | tf.Tensor) -> tf.Tensor:
    """Spreads one row per distance over all pairs of a query and a key.

    Built from a tile and a reshape, not a gather, so that its gradient is a sum and XLA fuses it.

    Args:
      rows: [num_queries + num_keys - 1, D]; row i stands for the distance key - query = i - (num_queries - 1).
      num_queries: Q.
      num_keys: K.

    Returns:
      [Q, K, D] with out[q, k] = rows[k - q + Q - 1].
    """
    depth = rows.shape[-1]
    period = num_queries + num_keys
    # Each query reads the rows one step further left. Reading a sequence of period P in lines of P - 1 does that.
    flat = tf.tile(tf.pad(rows, [[0, 1], [0, 0]]), [num_queries, 1])  # [Q * P, D]
    lines = tf.reshape(flat[: num_queries * (period - 1)], [num_queries, period - 1, depth])
    return lines[:, num_queries - 1 :]  # [Q, K, D]


def clipped_rows(table: tf.Tensor, length: int | tf.Tensor) -> tf.Tensor:
    """The rows of a table for every distance inside an axis.

    Args:
      table: [2 M + 1, D], row M + d for the distance d = key - query; M is the largest distance it tells apart.
      length: L, positions of the axis.

    Returns:
      [2 L - 1, D] for the distances -(L - 1) to L - 1, those beyond M given the row of M (or -M).
    """
    largest = table.shape[0] // 2
    static = isinstance(length, int)
    if static and length - 1 <= largest:
        return table[largest - (length - 1) : largest + length]
    distances = tf.range(-(length - 1), length)
    return tf.gather(table, tf.clip_by_value(distances, -largest, largest) + largest)


# The three products below batch over positions. As matrix products between explicit transposes, rather than einsums,
# forward and backward pass share each transpose of a tensor as large as the logits. Positions come before heads where
# that leaves N D numbers, not D, side by side when the tensor is transposed.


def query_logits(q: tf.Tensor, pairs: tf.Tensor) -> tf.Tensor:
    """q_i . r_ij for all pairs.

    Args:
      q: [S, G, Q, N, D] queries.
      pairs: [Q, K, D] relative positions.

    Returns:
      [S, G, N, Q, K].
    """
    x = tf.linalg.matmul(_positions_first(q), pairs, transpose_b=True)  # [Q, S G N, D] x [Q, K, D] -> [Q, S G N, K]
    x = tf.transpose(x, [1, 0, 2])
    return tf.reshape(x, [*_sizes(q, (0, 1, 3)), *_sizes(x, (1, 2))])


def key_logits(k: tf.Tensor, pairs: tf.Tensor) -> tf.Tensor:
    """k_j . r_ij for all pairs.

    Args:
      k: [S, G, K, N, D] keys.
      pairs: [K, D, Q] relative positions.

    Returns:
      [S, G, N, Q, K].
    """
    x = tf.linalg.matmul(_positions_first(k), pairs)  # [K, S G N, D] x [K, D, Q] -> [K, S G N, Q]
    x = tf.transpose(x, [1, 2, 0])
    return tf.reshape(x, [*_sizes(k, (0, 1, 3)), *_sizes(x, (1, 2))])


def retrieve(weights: tf.Tensor, pairs: tf.Tensor) -> tf.Tensor:
    """Sum over the keys j of w_ij r_ij.

    Args:
      weights: [S, G, N, Q, K] attention weights.
      pairs: [Q, K, D] relative positions.

    Returns:
      [S, G, Q, N, D].
    """
    rows, groups, heads, queries, keys = _sizes(weights, range(5))
    x = tf.transpose(tf.reshape(weights, [-1, queries, keys]), [1, 0, 2])
    x = tf.linalg.matmul(x, pairs)  # [Q, S G N, K] x [Q, K, D] -> [Q, S G N, D]
    x = tf.reshape(x, [queries, rows, groups, heads * pairs.shape[-1]])
    x = tf.transpose(x, [1, 2, 0, 3])
    return tf.reshape(x, [rows, groups, queries, heads, pairs.shape[-1]])


def _positions_first(x: tf.Tensor) -> tf.Tensor:
    """[S, G, L, N, D] -> [L, S G N, D]."""
    rows, groups, length, heads, depth = _sizes(x, range(5))
    x = tf.transpose(tf.reshape(x, [rows, groups, length, heads * depth]), [2, 0, 1, 3])
    return tf.reshape(x, [length, -1, depth])


def _sizes(x: tf.Tensor, axes: Iterable[int]) -> list[int | tf.Tensor]:
    return [x.shape[i] if x.shape[i] is not None else tf.shape(x)[i] for i in axes]
