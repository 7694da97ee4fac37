# SPDX-License-Identifier: Apache-2.0
"""Tables of relative positions."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.layers import relative_position
from tests import reference
from tests.compare import assert_close, random_tensor


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 4), (4, 1), (3, 5), (6, 6)])
def test_toeplitz(queries, keys):
    rows = random_tensor((queries + keys - 1, 3))
    expected = reference.toeplitz(rows.numpy(), queries, keys)
    np.testing.assert_array_equal(relative_position.toeplitz(rows, queries, keys), expected)
    function = tf.function(relative_position.toeplitz)
    np.testing.assert_array_equal(function(rows, tf.constant(queries), tf.constant(keys)), expected)


def test_the_gradient_of_toeplitz_counts_pairs():
    rows = tf.Variable(tf.zeros([7, 2]))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(relative_position.toeplitz(rows, 4, 4))
    gradient = tf.convert_to_tensor(tape.gradient(total, rows))
    np.testing.assert_array_equal(gradient, np.tile([[1], [2], [3], [4], [3], [2], [1]], 2))


@pytest.mark.parametrize("length", [1, 3, 4, 5, 9])
def test_clipped_rows(length):
    table = tf.range(7)[:, None]  # distances -3 to 3
    expected = [min(max(d, -3), 3) + 3 for d in range(-(length - 1), length)]
    np.testing.assert_array_equal(relative_position.clipped_rows(table, length)[:, 0], expected)
    np.testing.assert_array_equal(relative_position.clipped_rows(table, tf.constant(length))[:, 0], expected)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(3, 5), (4, 4), (1, 3)])
def test_products_over_pairs(queries, keys, known):
    q, k = random_tensor((2, 3, queries, 2, 4), 1), random_tensor((2, 3, keys, 2, 4), 2)
    weights, pairs = random_tensor((2, 3, 2, queries, keys), 3), random_tensor((queries, keys, 4), 4)
    for function, x, pairs_of, equation in (
        (relative_position.query_logits, q, pairs, "sgqnd,qkd->sgnqk"),
        (relative_position.key_logits, k, tf.transpose(pairs, [1, 2, 0]), "sgknd,kdq->sgnqk"),
        (relative_position.retrieve, weights, pairs, "sgnqk,qkd->sgqnd"),
    ):
        expected = np.einsum(equation, x, pairs_of)
        if not known:
            shape = [None] * 5 if function is relative_position.retrieve else [None, None, None, 2, 4]
            of_pairs = [None, 4, None] if function is relative_position.key_logits else [None, None, 4]
            signature = [tf.TensorSpec(shape), tf.TensorSpec(of_pairs)]
            function = tf.function(function, input_signature=signature)
        assert_close(function(x, pairs_of), expected)
