# SPDX-License-Identifier: Apache-2.0
"""What axial attention does between its projection and its output: logits, softmax, retrieval, and logits' moments.

Layout: S rows of the map, each cut into G blocks of Q queries and K keys; N heads of depth d (queries, keys) or e
(values). Tables hold one vector for every pair of a query and a key of a block.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from deeplab_axial.layers import relative_position

# Finite, so that a query whose keys are all masked (padding) gives numbers, not NaN.
MASKED = -1e9


class Factors(NamedTuple):
    """What the logits are products of.

    Attributes:
      q: [S, G, Q, N, d].
      k: [S, G, K, N, d].
      tables: "query" [Q, K, d] and "key" [K, d, Q], each only if its term takes part.
    """

    q: tf.Tensor
    k: tf.Tensor
    tables: Mapping[str, tf.Tensor]


def attend(
    factors: Factors,
    scales: Sequence[tf.Tensor] | None,
    v: tf.Tensor,
    value_table: tf.Tensor | None,
    mask: tf.Tensor | None,
) -> tf.Tensor:
    """Softmax attention with position terms.

    Args:
      factors: of the logits.
      scales: [N], one factor for each logit term; None: 1.
      v: [S, G, K, N, e].
      value_table: [Q, K, e]; None: without the position term of the values.
      mask: [G, Q, K], keys that a query may see; None: all.

    Returns:
      [S, G, Q, R, N, e]: the retrieved content and, with a value table, the retrieved positions (R = 1 or 2).
    """
    logits = tf.cast(tf.add_n(logit_terms(factors, scales)), tf.float32)
    if mask is not None:
        logits += tf.where(mask, 0.0, MASKED)[:, None]
    weights = tf.cast(tf.nn.softmax(logits), v.dtype)
    retrieved = [tf.transpose(_products(weights, _heads_first(v)), [0, 1, 3, 2, 4])]
    if value_table is not None:
        retrieved.append(relative_position.retrieve(weights, value_table))
    return tf.stack(retrieved, axis=3)


def logit_terms(factors: Factors, scales: Sequence[tf.Tensor] | None = None) -> list[tf.Tensor]:
    """The content term and the position terms of the logits, each [S, G, N, Q, K]; arguments as for `attend`."""
    q, k, tables = factors
    scales = list(scales or [])

    def scaled(x):
        # Queries and keys are smaller than the logits.
        return x * tf.expand_dims(scales.pop(0), -1) if scales else x

    terms = [_products(_heads_first(scaled(q)), _heads_first(k), transpose_b=True)]
    if "query" in tables:
        terms.append(relative_position.query_logits(scaled(q), tables["query"]))
    if "key" in tables:
        terms.append(relative_position.key_logits(scaled(k), tables["key"]))
    return terms


def _products(a: tf.Tensor, b: tf.Tensor, **transposes: bool) -> tf.Tensor:
    """Matrix products of the last two axes; the others are the same in both.

    As one batch axis: with several, of which some are 1, TensorFlow 2.21 corrupts memory on CPUs where it broadcasts
    (tensorflow/tensorflow issue 117700), and this leaves nothing to broadcast.
    """
    leading = [s if s is not None else tf.shape(a)[i] for i, s in enumerate(a.shape[:-2])]
    a, b = (tf.reshape(x, [-1, *_matrix(x)]) for x in (a, b))
    x = tf.linalg.matmul(a, b, **transposes)
    return tf.reshape(x, [*leading, *_matrix(x)])


def _matrix(x: tf.Tensor) -> list[int | tf.Tensor]:
    """Sizes of the last two axes."""
    rank = x.shape.rank
    return [x.shape[i] if x.shape[i] is not None else tf.shape(x)[i] for i in (rank - 2, rank - 1)]


def _heads_first(x: tf.Tensor) -> tf.Tensor:
    """[S, G, L, N, d] -> [S, G, N, L, d]."""
    return tf.transpose(x, [0, 1, 3, 2, 4])


def _single_block(x: tf.Tensor) -> tf.Tensor:
    """[S, 1, L, N, d] -> [S, N, L, d]."""
    return tf.transpose(tf.squeeze(x, 1), [0, 2, 1, 3])


def moments_in_rows(factors: Factors, mask: tf.Tensor) -> tf.Tensor:
    """Sums of each logit term and of its square over the pairs that the mask allows: [S, 2, T, N], float32."""
    allowed = tf.cast(mask, tf.float32)[:, None]
    terms = [tf.cast(term, tf.float32) * allowed for term in logit_terms(factors)]
    sums = [tf.stack([tf.reduce_sum(f(x), [1, 3, 4]) for x in terms], axis=1) for f in (tf.identity, tf.square)]
    return tf.stack(sums, axis=1)


def moments_from_factors(factors: Factors) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and mean square of each logit term over all pairs, unmasked, of one block, without forming the logits.

    The sum over all pairs of (a . b)^2 is the inner product of the Gram matrices sum a a^T and sum b b^T: O(L d^2),
    not O(L^2 d).

    Returns:
      [T, N] and [T, N], float32.
    """
    q, k = (tf.cast(_single_block(x), tf.float32) for x in (factors.q, factors.k))  # [S, N, L, d]
    rows, length = (tf.cast(q.shape[i] or tf.shape(q)[i], tf.float32) for i in (0, 2))
    pairs = rows * length * length
    means = [tf.einsum("snd,snd->n", tf.reduce_sum(q, 2), tf.reduce_sum(k, 2))]
    # Einsums: oneDNN's products of a matrix with itself, transposed, corrupt memory in TensorFlow 2.21.
    gram_q, gram_k = tf.einsum("snld,snle->snde", q, q), tf.einsum("snld,snle->snde", k, k)
    squares = [tf.einsum("snde,snde->n", gram_q, gram_k)]
    for x, name, to_pairs in ((q, "query", [0, 1, 2]), (k, "key", [0, 2, 1])):
        if name in factors.tables:
            table = tf.transpose(tf.cast(factors.tables[name], tf.float32), to_pairs)  # [L, L, d], own position first
            means.append(tf.einsum("nld,ld->n", tf.reduce_sum(x, 0), tf.reduce_sum(table, 1)))
            gram_x = tf.einsum("snld,snle->nlde", x, x)
            gram_table = tf.einsum("lkd,lke->lde", table, table)
            squares.append(tf.einsum("nlde,lde->n", gram_x, gram_table))
    return tf.stack(means) / pairs, tf.stack(squares) / pairs


def moments_in_band(factors: Factors, band: tf.Tensor) -> tf.Tensor:
    """Mean and mean square of each logit term over the pairs of a band, of one block, without forming the logits.

    As `moments_from_factors`, with Gram matrices of the keys that each query sees, a product with the band: matrix
    units have time for its zeros. The largest tensor has S N L d^2 numbers.

    Args:
      factors: of one block, the whole axis.
      band: [L, L], 1 where a query sees a key, else 0; float32.

    Returns:
      [2, T, N], float32.
    """
    q, k = (tf.cast(_single_block(x), tf.float32) for x in (factors.q, factors.k))  # [S, N, L, d]
    pairs = tf.cast(tf.shape(q)[0], tf.float32) * tf.reduce_sum(band)
    means = [tf.einsum("snid,snid->n", q, tf.einsum("ij,snjd->snid", band, k))]
    gram = tf.einsum("ij,snjde->snide", band, k[..., None] * k[..., None, :])
    squares = [tf.einsum("snid,snid->n", q, tf.einsum("snide,snie->snid", gram, q))]
    for x, name, to_pairs in ((q, "query", [0, 1, 2]), (k, "key", [0, 2, 1])):
        if name in factors.tables:
            seen = band if name == "query" else tf.transpose(band)
            table = tf.transpose(tf.cast(factors.tables[name], tf.float32), to_pairs)  # [L, L, d], own position first
            means.append(tf.einsum("nld,ld->n", tf.reduce_sum(x, 0), tf.einsum("lk,lkd->ld", seen, table)))
            gram_table = tf.einsum("lkd,lke->lde", table * seen[..., None], table)
            squares.append(tf.einsum("nlde,lde->n", tf.einsum("snld,snle->nlde", x, x), gram_table))
    return tf.stack([tf.stack(means), tf.stack(squares)]) / pairs
