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


@pytest.mark.parametrize("columns", [0, 192])
def test_position_logits(columns, monkeypatch):
    monkeypatch.setattr(relative_position, "_DENSE_COLUMNS", columns)
    queries, keys = random_tensor((2, 3, 2, 4), 1), random_tensor((2, 5, 2, 4), 2)
    table = random_tensor((3, 5, 4), 3)
    assert_close(relative_position.query_logits(queries, table), np.einsum("sqnd,qkd->snqk", queries, table))
    assert_close(relative_position.key_logits(keys, table), np.einsum("sknd,qkd->snqk", keys, table))


def test_only_short_axes_of_known_length_are_dense():
    assert relative_position._is_dense(tf.zeros([1, 24, 2, 8]))
    assert not relative_position._is_dense(tf.zeros([1, 25, 2, 8]))
    seen = []

    @tf.function(input_signature=[tf.TensorSpec([None, None, 2, 8])])
    def trace(x):
        seen.append(relative_position._is_dense(x))
        return x

    trace.get_concrete_function()
    assert seen == [False]
