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
