# SPDX-License-Identifier: Apache-2.0
"""The bottleneck block against a slow reference, against DeepLab2, and by its properties."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial.layers.residual_block import BottleneckBlock
from tests import deeplab2_names, golden, reference
from tests.compare import assert_close, random_tensor, vary_weights

ATTENTION = {"key_depth": 8, "value_depth": 16, "num_heads": 2}


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (2, 1)])
@pytest.mark.parametrize("size", [(7, 6), (8, 5)])
def test_convolutional_block_equals_the_reference(size, stride, dilation):
    x = random_tensor((2, *size, 6))
    block = BottleneckBlock(4, stride, dilation)
    block(x)
    vary_weights(block)
    convs = (block.conv1, block.conv2, block.conv3, block.shortcut)
    norms = [
        {name: np.float64(getattr(c.batch_norm, name)) for name in ("gamma", "beta", "moving_mean", "moving_variance")}
        for c in convs
    ]
    expected = reference.bottleneck(x.numpy(), [c.conv.kernel.numpy() for c in convs], norms, stride, dilation)
    assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("fixture", "stride"),
    [("axial_block_identity_stride1", 1), ("axial_block_stride2", 2), ("conv_bottleneck_stride2", 2)],
)
def test_equals_deeplab2(fixture, stride):
    arrays = golden.load(fixture)
    axial = fixture.startswith("axial")
    block = BottleneckBlock(
        32,
        stride,
        attention={"key_depth": 32, "value_depth": 64} if axial else None,
        expansion=2 if axial else 1,
        striding="subsample",
    )
    x = tf.constant(arrays["input"])
    block(x)
    assert (block.shortcut is None) == (fixture == "axial_block_identity_stride1")
    deeplab2_names.assign(deeplab2_names.block(block, "layer"), golden.weights(arrays))
    assert_close(block(x), arrays["output"])
    if axial:
        mask = arrays["drop_path_mask"]
        block.drop_path = lambda x, training, seed: x * mask
        assert_close(block(x), arrays["output_with_drop_path_mask"])


@pytest.mark.parametrize("attention", [None, ATTENTION])
def test_starts_as_its_shortcut(attention):
    # The last normalisation starts with gamma 0.
    x = random_tensor((1, 6, 5, 16))
    for stride in (1, 2):
        block = BottleneckBlock(4, stride, attention=attention)
        np.testing.assert_array_equal(block(x), tf.nn.relu(x)[:, ::stride, ::stride])
        assert block.shortcut is None


def test_activates_its_input_and_not_its_output():
    block = BottleneckBlock(4)
    x = random_tensor((1, 6, 5, 16))
    block(x)
    vary_weights(block)
    y = block(x)
    assert tf.reduce_min(y) < 0
    np.testing.assert_array_equal(block(tf.nn.relu(x)), y)


def test_squeeze_and_excite_scales_the_branch_alone():
    x = random_tensor((2, 4, 5, 16))
    block = BottleneckBlock(4, use_squeeze_and_excite=True)
    plain = BottleneckBlock(4)
    for layer in (block, plain):
        layer(x)
        vary_weights(layer)
    plain.conv1.set_weights(block.conv1.get_weights())
    plain.conv2.set_weights(block.conv2.get_weights())
    plain.conv3.set_weights(block.conv3.get_weights())
    shortcut = tf.nn.relu(x)
    branch = plain(x) - shortcut
    conv = block.squeeze_excite.conv
    gate = np.clip(tf.reduce_mean(branch, [1, 2]) @ conv.kernel[0, 0] + conv.bias + 3, 0, 6) / 6
    assert_close(block(x), shortcut + branch * gate[:, None, None], 1e-4)


def test_drop_path_keeps_the_shortcut():
    tf_keras.utils.set_random_seed(0)
    block = BottleneckBlock(4, keep_prob=0.5)
    x = random_tensor((40, 3, 3, 16))
    block(x)
    vary_weights(block)
    kept = np.any(block(x, training=True).numpy() != tf.nn.relu(x).numpy(), axis=(1, 2, 3))
    assert 8 < kept.sum() < 32
