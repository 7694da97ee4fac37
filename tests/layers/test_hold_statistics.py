# SPDX-License-Identifier: Apache-2.0
"""Held statistics: training computes as inference does, and moves nothing."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.layers import axial_attention, convolution, local_attention, normalization, recompute

LAYERS = {
    "convolution": lambda: convolution.ConvBN(4, 3),
    "axial": lambda: axial_attention.AxialAttention("width", 8, 16, num_heads=2),
    "local": lambda: local_attention.LocalAttention(8, 16, num_heads=2, span=3),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("recomputed", [False, True])
def test_it_is_inference_with_gradients(name, recomputed):
    layer = LAYERS[name]()
    x = tf.constant(np.random.default_rng(0).normal(size=[2, 5, 5, 4]), tf.float32)
    layer(x, training=True)  # statistics that are not those of this batch, nor the initial ones
    before = [v.numpy() for v in layer.non_trainable_weights]
    trainable = [v.name for v in layer.trainable_weights]
    expected = layer(x, training=False)
    assert not np.allclose(expected, layer(x, training=True), atol=1e-3)
    for variable, value in zip(layer.non_trainable_weights, before):
        variable.assign(value)

    normalization.hold_statistics(layer)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            call = lambda x: layer(x, training=True)  # noqa: E731
            y = recompute.recompute(call, x) if recomputed else call(x)
            loss = tf.reduce_sum(tf.square(y))
        return y, tape.gradient(loss, layer.trainable_weights, unconnected_gradients="zero")

    held, gradients = step(x)
    np.testing.assert_allclose(held, expected, rtol=1e-5, atol=1e-6)
    assert [v.name for v in layer.trainable_weights] == trainable
    assert sum(float(tf.reduce_sum(tf.abs(tf.convert_to_tensor(g)))) > 0 for g in gradients) >= 2
    for variable, value in zip(layer.non_trainable_weights, before):
        np.testing.assert_array_equal(variable, value)
