# SPDX-License-Identifier: Apache-2.0
"""Switchable atrous convolution against a slow reference, and by its properties."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.layers.convolution import ConvBN
from deeplab_axial.layers.switchable_atrous import GlobalContext, SwitchableConvBN
from tests import reference
from tests.compare import assert_close, random_tensor, vary_weights


def _made(stride: int = 1, dilation: int = 1, **kwargs) -> SwitchableConvBN:
    """A layer whose contexts and switch are off their initial zeros."""
    layer = SwitchableConvBN(5, 3, stride, dilation, **kwargs)
    layer(tf.zeros([1, 4, 4, 6]))
    vary_weights(layer)
    for i, part in enumerate((layer.pre_context.convolution, layer.post_context.convolution, layer.switch)):
        if part is not None:
            part.kernel.assign(0.3 * random_tensor(part.kernel.shape, i))
    return layer


def _context(x: np.ndarray, conv) -> np.ndarray:
    return x + (x.mean((1, 2)) @ np.float64(conv.kernel[0, 0]) + np.float64(conv.bias))[:, None, None]


def _window_means(x: np.ndarray) -> np.ndarray:
    """Means over 5 x 5 windows, cut at the border."""
    out = np.empty_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            out[:, i, j] = x[:, max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3].mean((1, 2))
    return out


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (2, 1)])
@pytest.mark.parametrize("activate", [True, False])
def test_equals_the_reference(stride, dilation, activate):
    layer = _made(stride, dilation, activate=activate)
    x = random_tensor((2, 9, 8, 6))
    y = _context(np.float64(x), layer.pre_context.convolution)
    kernel = layer.conv.kernel.numpy()
    if stride == 1:
        share = _window_means(y) @ np.float64(layer.switch.kernel[0, 0]) + np.float64(layer.switch.bias)
        narrow = reference.convolution(y, kernel, 1, dilation)
        y = share * reference.convolution(y, kernel, 1, 3 * dilation) + (1 - share) * narrow
    else:
        y = reference.convolution(y, kernel, stride, dilation)
    y = _context(y, layer.post_context.convolution)
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    norm = {name: np.float64(getattr(layer.batch_norm, name)) for name in names}
    y = reference.normalize(y, norm, (0, 1, 2), training=False)[0]
    assert_close(layer(x), np.maximum(y, 0) if activate else y)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 2), (2, 1)])
def test_starts_as_a_plain_convolution(stride, dilation):
    layer, plain = SwitchableConvBN(5, 3, stride, dilation), ConvBN(5, 3, stride, dilation)
    x = random_tensor((2, 7, 6, 3))
    layer(x)
    plain(x)
    plain.conv.kernel.assign(layer.conv.kernel)
    assert_close(layer(x), plain(x), 1e-6)


def test_a_switch_of_one_triples_the_rate():
    layer = SwitchableConvBN(5, 3)
    x = random_tensor((1, 9, 9, 3))
    layer(x)
    layer.switch.bias.assign([1.0])
    wide = ConvBN(5, 3, dilation=3)
    wide(x)
    wide.conv.kernel.assign(layer.conv.kernel)
    assert_close(layer(x), wide(x), 1e-6)


def test_weights():
    # Contexts 2 (C C + C), switch C + 1, kernel 9 C F, normalisation 2 F; the switch is left out with a stride.
    layer = SwitchableConvBN(4, 3)
    layer(tf.zeros([1, 5, 5, 6]))
    count = sum(int(np.prod(w.shape)) for w in layer.trainable_weights)
    assert count == (6 * 6 + 6) + (6 + 1) + 9 * 6 * 4 + (4 * 4 + 4) + 2 * 4
    strided = SwitchableConvBN(4, 3, 2)
    strided(tf.zeros([1, 5, 5, 6]))
    assert strided.switch is None
    assert count - sum(int(np.prod(w.shape)) for w in strided.trainable_weights) == 7


def test_context_adds_the_same_everywhere():
    layer = GlobalContext()
    x = random_tensor((2, 4, 3, 5))
    np.testing.assert_array_equal(layer(x), x)
    layer.convolution.kernel.assign(random_tensor((1, 1, 5, 5), 1))
    added = (layer(x) - x).numpy()
    assert_close(added, np.broadcast_to(added[:, :1, :1], added.shape), 1e-5)
    assert_close(added[:, 0, 0], np.float64(tf.reduce_mean(x, [1, 2])) @ np.float64(layer.convolution.kernel[0, 0]))


def test_refuses_even_kernels():
    with pytest.raises(ValueError, match=r"kernel_size must be odd\. Received: 4"):
        SwitchableConvBN(4, 4)
