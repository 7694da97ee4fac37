# SPDX-License-Identifier: Apache-2.0
"""Convolutions with normalisation, squeeze-and-excite and resizing."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.layers import resize
from deeplab_axial.layers.convolution import ConvBN, SeparableConvBN
from tests import reference
from tests.compare import assert_close, random_tensor, vary_weights

SIZES = [(7, 6), (8, 9)]


def _finish(conv: ConvBN, y: np.ndarray) -> np.ndarray:
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    norm = {name: np.float64(getattr(conv.batch_norm, name)) for name in names}
    y, _ = reference.normalize(y, norm, (0, 1, 2), training=False)
    return np.maximum(y, 0) if conv.activate else y


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(1, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (7, 2, 1), (1, 2, 1)]
)
def test_conv_bn_equals_the_reference(kernel, stride, dilation, activate, size):
    x = random_tensor((2, *size, 3))
    conv = ConvBN(4, kernel, stride, dilation, activate)
    conv(x)
    vary_weights(conv)
    expected = _finish(conv, reference.convolution(x.numpy(), conv.conv.kernel.numpy(), stride, dilation))
    assert_close(conv(x), expected)
    assert (expected.min() < 0) != activate


def test_depthwise_and_separable_equal_the_reference():
    x = random_tensor((2, 7, 6, 3))
    layer = SeparableConvBN(4)
    layer(x)
    vary_weights(layer)
    depthwise = layer.depthwise.conv.depthwise_kernel.numpy()  # [5, 5, 3, 1]
    assert depthwise.shape == (5, 5, 3, 1)
    y = np.concatenate(
        [reference.convolution(x[..., c : c + 1].numpy(), depthwise[:, :, c : c + 1]) for c in range(3)], axis=-1
    )
    y = _finish(layer.depthwise, y)
    y = _finish(layer.pointwise, reference.convolution(y, layer.pointwise.conv.kernel.numpy()))
    assert_close(layer(x), y)


def test_norm_arguments_reach_the_normalisation():
    norm = {"momentum": 0.7, "epsilon": 0.1}
    layer = SeparableConvBN(4, norm=norm)
    for conv in (layer.depthwise, layer.pointwise):
        assert (conv.batch_norm.momentum, conv.batch_norm.epsilon) == (0.7, 0.1)
    np.testing.assert_array_equal(ConvBN(2, 1, gamma_initializer="zeros", activate=False)(tf.ones([1, 2, 2, 1])), 0)


def test_refuses_even_kernels():
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        ConvBN(4, 4)


@pytest.mark.parametrize(("small", "large"), [((3, 4), (9, 10)), ((5, 5), (2, 9)), ((1, 3), (4, 3))])
def test_resize_maps_corners_onto_corners(small, large):
    x = random_tensor((1, *small, 2))
    expected = np.empty((1, *large, 2))
    for i in range(large[0]):
        for j in range(large[1]):
            at = [k * (s - 1) / max(b - 1, 1) for k, s, b in zip((i, j), small, large)]
            y0, x0 = (min(int(a), s - 1) for a, s in zip(at, small))
            y1, x1 = min(y0 + 1, small[0] - 1), min(x0 + 1, small[1] - 1)
            dy, dx = at[0] - y0, at[1] - x0
            top = x[0, y0, x0] * (1 - dx) + x[0, y0, x1] * dx
            bottom = x[0, y1, x0] * (1 - dx) + x[0, y1, x1] * dx
            expected[0, i, j] = top * (1 - dy) + bottom * dy
    assert_close(resize.resize_bilinear(x, large), expected)
    assert_close(resize.resize_bilinear(x, tf.constant(large)), expected)


def test_resize_keeps_the_type_and_computes_in_float32():
    x = random_tensor((1, 4, 5, 3))
    assert resize.resize_bilinear(x, (4, 5)) is x
    half = tf.cast(x, tf.bfloat16)
    y = resize.resize_bilinear(half, (9, 9))
    assert y.dtype == tf.bfloat16
    np.testing.assert_array_equal(
        tf.cast(y, tf.float32),
        tf.cast(tf.cast(resize.resize_bilinear(tf.cast(half, tf.float32), (9, 9)), tf.bfloat16), tf.float32),
    )
