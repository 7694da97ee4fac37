# SPDX-License-Identifier: Apache-2.0
"""Atrous spatial pyramid pooling."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.layers import resize
from deeplab_axial.layers.aspp import ASPP
from tests.compare import assert_close, random_tensor, vary_weights


def test_without_rates_it_is_the_projection():
    x = random_tensor((1, 5, 4, 6))
    layer = ASPP(8)
    layer(x)
    vary_weights(layer)
    assert_close(layer(x), layer.projection(x))
    assert len(layer.weights) == 5


@pytest.mark.parametrize("pool_size", [None, (3, 4), (5, 6)])
def test_branches_are_joined_in_order(pool_size):
    x = random_tensor((2, 5, 6, 3))
    layer = ASPP(4, (1, 2, 3), pool_size)
    layer(x)
    vary_weights(layer)
    window = pool_size or (5, 6)
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


def test_refuses_other_numbers_of_rates():
    with pytest.raises(ValueError, match=r"three rates, or none. Received: \[6, 12\]"):
        ASPP(4, (6, 12))
