# SPDX-License-Identifier: Apache-2.0
"""Bilinear resizing against whole-number arithmetic, by each way that leads to it."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.layers import resize, target


def _reference(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Interpolates between float64 pixels, one axis after the other."""
    for axis, new in zip((1, 2), size):
        x = np.moveaxis(x, axis, 0)
        position = np.arange(new) * (len(x) - 1)
        low, rest = np.divmod(position, max(new - 1, 1))
        weight = (rest / max(new - 1, 1)).reshape(-1, 1, 1, 1)
        x = x[low] * (1 - weight) + x[np.minimum(low + 1, len(x) - 1)] * weight
        x = np.moveaxis(x, 0, axis)
    return x


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((5, 9), (9, 33)),
        ((9, 9), (17, 9)),
        # Here the compiled ResizeBilinear of TensorFlow 2.21 is a whole pixel off.
        ((129, 3), (385, 8)),
        ((5, 8), (8, 5)),
        ((1, 1), (7, 3)),
        ((6, 4), (1, 1)),
    ],
)
def test_equals_whole_number_arithmetic(old, new, compiled, accelerator):
    x = np.random.default_rng(0).normal(size=(2, *old, 3)).astype(np.float32)
    function = tf.function(resize.resize_bilinear, autograph=False, jit_compile=compiled)
    expected = _reference(np.float64(x), new)
    with target.assume_accelerator() if accelerator else contextlib.nullcontext():
        result = function(tf.constant(x), new)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    if not compiled:
        dynamic = tf.function(
            resize.resize_bilinear, input_signature=[tf.TensorSpec([None] * 4), tf.TensorSpec([2], tf.int32)]
        )
        np.testing.assert_allclose(dynamic(tf.constant(x), tf.constant(new)), expected, atol=1e-4)


def test_keeps_the_type_and_what_has_the_size_already():
    x = tf.random.normal([1, 4, 5, 2], dtype=tf.bfloat16)
    assert resize.resize_bilinear(x, (4, 5)) is x
    assert resize.resize_bilinear(x, (6, 8)).dtype == tf.bfloat16


def test_gradients_of_both_ways():
    x = tf.random.normal([1, 5, 5, 1], dtype=tf.float32)
    for size in ((9, 9), (8, 11)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(resize.resize_bilinear(x, size))
        # Weights of each output pixel add up to 1.
        np.testing.assert_allclose(tf.reduce_sum(tape.gradient(y, x)), size[0] * size[1], rtol=1e-5)
