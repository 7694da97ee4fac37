# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds of single operations, counted by hand."""

import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import multiply_adds
from deeplab_axial.layers.axial_attention import AxialAttention


def _count(function, *shapes) -> int:
    graph = tf.function(function, autograph=False).get_concrete_function(*(tf.TensorSpec(s) for s in shapes)).graph
    return sum(multiply_adds.by_operation(graph).values())


@pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        (lambda: tf_keras.layers.Conv2D(7, 3, padding="same"), [2, 5, 6, 4], 2 * 5 * 6 * 7 * 3 * 3 * 4),
        (lambda: tf_keras.layers.Conv2D(7, (1, 3), strides=2), [1, 5, 7, 4], 3 * 3 * 7 * 3 * 4),
        (lambda: tf_keras.layers.Conv2D(7, 3, dilation_rate=2, padding="same"), [1, 4, 6, 4], 4 * 6 * 7 * 3 * 3 * 4),
        (lambda: tf_keras.layers.DepthwiseConv2D(5, padding="same"), [1, 6, 6, 4], 6 * 6 * 4 * 25),
        (lambda: tf_keras.layers.Dense(8), [3, 5], 3 * 5 * 8),
        (lambda: tf_keras.layers.BatchNormalization(), [3, 5], 0),
        (lambda: tf_keras.layers.MaxPool2D(), [1, 4, 4, 2], 0),
    ],
)
def test_layers(make, shape, expected):
    assert _count(make(), shape) == expected


def test_products():
    assert _count(lambda a, b: tf.linalg.matmul(a, b), [4, 3, 5], [4, 5, 6]) == 4 * 3 * 5 * 6
    assert _count(lambda a, b: tf.linalg.matmul(a, b, transpose_a=True), [5, 3], [5, 6]) == 3 * 5 * 6
    assert _count(lambda a, b: tf.linalg.matmul(a, b, transpose_b=True), [4, 3, 5], [4, 6, 5]) == 4 * 3 * 5 * 6
    assert _count(lambda a, b: tf.linalg.matmul(a, b, transpose_a=True), [4, 5, 3], [4, 5, 6]) == 4 * 3 * 5 * 6
    assert _count(lambda a, b: tf.einsum("snqk,sknd->sqnd", a, b), [2, 3, 4, 5], [2, 5, 3, 6]) == 2 * 3 * 4 * 5 * 6
    assert _count(lambda a, b: a * b + a, [4, 4], [4, 4]) == 0


def test_a_product_of_one_of_several_outputs():
    assert _count(lambda x: tf.linalg.matmul(*tf.split(x, [3, 5], axis=1), transpose_a=True), [7, 8]) == 3 * 5 * 7


def _body(matrix):
    left, right = tf.split(matrix, [2, 4], axis=0)
    return tf.linalg.matmul(left, right, transpose_b=True)  # [2, 5] x [4, 5]


@pytest.mark.parametrize("shape", [[3, 6, 5], [1, 6, 5]])
def test_a_loop_counts_each_iteration(shape):
    assert _count(lambda x: tf.map_fn(_body, x), shape) == shape[0] * 2 * 4 * 5


def test_loops_inside_each_other():
    def outer(x):
        return tf.map_fn(_body, x)  # [3, 2, 4]

    assert _count(lambda x: tf.map_fn(outer, x), [7, 3, 6, 5]) == 7 * 3 * 2 * 4 * 5


def test_a_call_counts_what_it_calls():
    called = tf.function(_body, autograph=False)
    assert _count(lambda x: called(x) + called(x), [6, 5]) == 2 * 2 * 4 * 5


def test_a_loop_without_products_needs_no_limit():
    assert _count(lambda x: tf.while_loop(lambda y: tf.reduce_sum(y) < 1.0, lambda y: [y + 1.0], [x])[0], [3]) == 0


def test_a_loop_of_unknown_length_is_refused():
    def loop(x):
        return tf.while_loop(lambda y: tf.reduce_sum(y) < 1.0, lambda y: [tf.linalg.matmul(y, y)], [x])[0]

    with pytest.raises(ValueError, match="iterations of a loop must be known"):
        _count(loop, [3, 3])


def test_unknown_shapes_are_refused():
    with pytest.raises(ValueError, match="must be known to count"):
        _count(lambda x: tf.linalg.matmul(x, tf.ones([5, 3])), [None, 5])


@pytest.mark.parametrize("positions", [True, False])
def test_attention_over_the_whole_axis(positions):
    rows, length, channels, key, value = 3, 12, 10, 4, 8
    switches = dict.fromkeys(("query_position", "key_position", "value_position"), positions)
    layer = AxialAttention("width", key, value, num_heads=2, **switches)
    projection = rows * length * channels * (2 * key + value)
    pairs = rows * length * length
    per_pair = 3 * key + 2 * value if positions else key + value
    assert _count(layer, [1, rows, length, channels]) == projection + pairs * per_pair
