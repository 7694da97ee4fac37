# SPDX-License-Identifier: Apache-2.0
"""Atrous spatial pyramid pooling."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.layers import aspp, resize
from deeplab_axial.layers.aspp import ASPP
from tests.compare import assert_close, random_tensor, vary_weights


def test_without_rates_it_is_the_projection():
    x = random_tensor((1, 5, 4, 6))
    layer = ASPP(8)
    layer(x)
    vary_weights(layer)
    assert_close(layer(x), layer.projection(x))
    assert len(layer.weights) == 5


@pytest.mark.parametrize("pool_size", [None, (3, 4), (5, 6), (7, 4), (6, 9)])
def test_branches_are_joined_in_order(pool_size):
    x = random_tensor((2, 5, 6, 3))
    layer = ASPP(4, (1, 2, 3), pool_size)
    layer(x)
    vary_weights(layer)
    window = np.minimum(pool_size or (5, 6), (5, 6))  # cut to the map
    rows, columns = 6 - window[0], 7 - window[1]
    pooled = np.array(
        [
            [x[:, i : i + window[0], j : j + window[1]].numpy().mean(axis=(1, 2)) for j in range(columns)]
            for i in range(rows)
        ]
    ).transpose(2, 0, 1, 3)
    pooled = resize.resize_bilinear(layer.pooled_branch(tf.constant(pooled)), (5, 6))
    expected = layer.projection(tf.concat([*(branch(x) for branch in layer.branches), pooled], -1))
    assert_close(layer(x), expected)
    assert [branch.dilation for branch in layer.branches] == [1, 1, 2, 3]
    assert [branch.kernel_size for branch in layer.branches] == [1, 3, 3, 3]


@pytest.mark.parametrize(("pool_size", "scale", "window"), [((3, 4), 1.5, (4, 5)), ((5, 9), 0.5, (3, 5))])
def test_the_window_grows_with_the_image(pool_size, scale, window):
    x = random_tensor((2, 5, 6, 3))
    layer, other = ASPP(4, (1, 2, 3), pool_size), ASPP(4, (1, 2, 3), window)
    for one in (layer, other):
        one(x)
    other.set_weights(layer.get_weights())
    assert_close(layer(x, scale=scale), other(x), 0)
    assert np.abs(layer(x) - other(x)).max() > 1e-3


def test_the_window_is_cut_to_maps_whose_size_is_known_late():
    layer = ASPP(4, (1, 2, 3), (7, 4))
    layer(random_tensor((1, 9, 9, 3)))
    function = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 3])])
    for shape in ((2, 5, 6, 3), (1, 7, 3, 3), (1, 9, 9, 3)):
        x = random_tensor(shape)
        assert_close(function(x), layer(x), 1e-5)


def test_dropout_depends_on_the_seed_alone(monkeypatch):
    x = random_tensor((2, 9, 8, 3))
    layer = ASPP(64, (1, 2, 3))
    layer(x)
    vary_weights(layer)
    np.testing.assert_array_equal(layer(x, seed=[1, 2]), layer(x))
    first = layer(x, training=True, seed=[1, 2])
    for function in (layer, tf.function(layer, autograph=False)):
        np.testing.assert_array_equal(function(x, training=True, seed=tf.constant([1, 2])) == 0, first == 0)
    for other in (layer(x, training=True, seed=[1, 3]), layer(x, training=True), layer(x, training=True)):
        assert np.mean((other == 0) != (first == 0)) > 0.05
    monkeypatch.setattr(aspp, "_DROPOUT", 0.0)
    undropped = layer(x, training=True).numpy()
    dropped = (undropped > 0) & (first.numpy() == 0)
    assert np.sum(dropped) / np.sum(undropped > 0) == pytest.approx(0.1, abs=0.015)
    assert_close(first.numpy()[~dropped], undropped[~dropped] / 0.9, 1e-6)


def test_the_projection_alone_has_no_dropout():
    x = random_tensor((1, 5, 4, 6))
    layer = ASPP(8)
    np.testing.assert_array_equal(layer(x, training=True, seed=[1, 2]), layer(x, training=True, seed=[1, 3]))


def test_refuses_other_numbers_of_rates():
    with pytest.raises(ValueError, match=r"three rates, or none. Received: \[6, 12\]"):
        ASPP(4, (6, 12))
