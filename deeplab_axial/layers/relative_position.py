# SPDX-License-Identifier: Apache-2.0
"""Tables of relative positions along one axis."""

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
    padded = tf.concat([rows, tf.zeros_like(rows[:1])], axis=0)  # [P, D]
    flat = tf.reshape(tf.tile(padded[None], [num_queries, 1, 1]), [-1, depth])  # [Q * P, D]
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
# forward and backward pass share each transpose of a tensor as large as the logits.


def query_logits(q: tf.Tensor, pairs: tf.Tensor) -> tf.Tensor:
    """q_i . r_ij for all pairs.

    Args:
      q: [S, Q, N, D] queries.
      pairs: [Q, K, D] relative positions.

    Returns:
      [S, N, Q, K].
    """
    x = tf.linalg.matmul(_positions_first(q), pairs, transpose_b=True)  # [Q, S N, D] x [Q, K, D] -> [Q, S N, K]
    return tf.transpose(_split_heads(x, q), [1, 2, 0, 3])


def key_logits(k: tf.Tensor, pairs: tf.Tensor) -> tf.Tensor:
    """k_j . r_ij for all pairs.

    Args:
      k: [S, K, N, D] keys.
      pairs: [Q, K, D] relative positions.

    Returns:
      [S, N, Q, K].
    """
    pairs = tf.transpose(pairs, [1, 0, 2])
    x = tf.linalg.matmul(_positions_first(k), pairs, transpose_b=True)  # [K, S N, D] x [K, Q, D] -> [K, S N, Q]
    return tf.transpose(_split_heads(x, k), [1, 2, 3, 0])


def retrieve(weights: tf.Tensor, pairs: tf.Tensor) -> tf.Tensor:
    """Sum over the keys j of w_ij r_ij.

    Args:
      weights: [S, N, Q, K] attention weights.
      pairs: [Q, K, D] relative positions.

    Returns:
      [S, Q, N, D].
    """
    x = tf.transpose(weights, [2, 0, 1, 3])  # [S, N, Q, K] -> [Q, S, N, K]
    shape = tf.shape(x)
    x = tf.linalg.matmul(tf.reshape(x, [shape[0], shape[1] * shape[2], shape[3]]), pairs)  # [Q, S N, D]
    heads, depth = weights.shape[1], pairs.shape[-1]
    return tf.transpose(tf.reshape(x, [shape[0], shape[1], heads, depth]), [1, 0, 2, 3])


def _positions_first(x: tf.Tensor) -> tf.Tensor:
    """[S, L, N, D] -> [L, S N, D]."""
    length = tf.shape(x)[1] if x.shape[1] is None else x.shape[1]
    return tf.reshape(tf.transpose(x, [1, 0, 2, 3]), [length, -1, x.shape[-1]])


def _split_heads(x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """[L, S N, M] -> [L, S, N, M] with the heads of `like` [S, L, N, D]."""
    shape = tf.shape(x)
    return tf.reshape(x, [shape[0], -1, like.shape[2], shape[2]])
