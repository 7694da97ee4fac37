# SPDX-License-Identifier: Apache-2.0
"""Stems."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.layers.stems import Stem
from tests import reference
from tests.compare import assert_close, random_tensor, vary_weights


def _norm(conv):
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    return {name: np.float64(getattr(conv.batch_norm, name)) for name in names}


@pytest.mark.parametrize("size", [(9, 11), (8, 10)])
@pytest.mark.parametrize("max_pool", [False, True])
@pytest.mark.parametrize("kind", ["conv7x7", "three_conv", "conv3x3"])
def test_equals_the_reference(kind, max_pool, size):
    x = random_tensor((1, *size, 3))
    stem = Stem(kind, 0.125, max_pool)
    stem(x)
    vary_weights(stem)
    y = x.numpy()
    for i, conv in enumerate(stem.convs):
        y = reference.convolution(y, conv.conv.kernel.numpy(), 2 if i == 0 else 1)
        y = reference.normalize(y, _norm(conv), (0, 1, 2), training=False)[0]
        y = np.maximum(y, 0) if i < len(stem.convs) - 1 else y
    if max_pool:
        height, width = ((side + 1) // 2 for side in y.shape[1:3])
        pooled = np.empty((1, height, width, y.shape[-1]))
        for i in range(height):
            for j in range(width):
                window = y[:, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2]
                pooled[:, i, j] = window.max(axis=(1, 2))
        y = pooled
    assert_close(stem(x), y)
    assert y.min() < 0  # not activated


@pytest.mark.parametrize(
    ("kind", "width", "channels"),
    [
        ("conv7x7", 1, 64),
        ("conv7x7", 0.5, 32),
        ("conv3x3", 1.5, 96),
        ("three_conv", 1, 128),
        ("three_conv", 0.5, 64),
        ("conv7x7", 0.37, 24),
        ("three_conv", 0.37, 47),
    ],
)
def test_widths_and_strides(kind, width, channels):
    assert Stem(kind, width)(tf.zeros([1, 33, 17, 3])).shape == (1, 17, 9, channels)
    assert Stem(kind, width, max_pool=True)(tf.zeros([1, 33, 17, 3])).shape == (1, 9, 5, channels)
    assert (Stem(kind).stride, Stem(kind, max_pool=True).stride) == (2, 4)


def test_no_stem_is_the_image():
    stem = Stem("none")
    x = random_tensor((1, 5, 4, 3))
    np.testing.assert_array_equal(stem(x), x)
    assert stem.stride == 1
    assert not stem.weights


def test_refuses_bad_arguments():
    with pytest.raises(ValueError, match=r"kind must be one of conv7x7, .*, none\. Received: 'inception"):
        Stem("inception")
    with pytest.raises(ValueError, match=r'kind "none" has no max pool, .* Received: max_pool=True'):
        Stem("none", max_pool=True)
