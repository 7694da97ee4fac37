# SPDX-License-Identifier: Apache-2.0
"""The bottleneck block against a slow reference, against DeepLab2, and by its properties."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial.importing import deeplab2, deeplab2_names
from deeplab_axial.layers.residual_block import BasicBlock, BottleneckBlock
from tests import golden, reference
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


def _weights(conv):
    norm = conv.batch_norm
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    return conv.conv.kernel.numpy(), {name: np.float64(getattr(norm, name)) for name in names}


@pytest.mark.parametrize(("stride", "dilation", "second"), [(1, 1, None), (1, 2, None), (2, 1, 1), (1, 1, 2)])
def test_basic_block_equals_the_reference(stride, dilation, second):
    x = random_tensor((2, 7, 8, 6))
    block = BasicBlock(2, stride, dilation, second)
    block(x)
    vary_weights(block)

    def step(x, conv, *rates):
        kernel, norm = _weights(conv)
        return reference.normalize(reference.convolution(x, kernel, *rates), norm, (0, 1, 2), False)[0]

    y = np.maximum(x.numpy(), 0)
    branch = np.maximum(step(y, block.conv1, stride, dilation), 0)
    branch = step(branch, block.conv2, 1, second or dilation)
    assert_close(block(x), branch + step(y, block.shortcut, stride))
    assert block(x).shape[-1] == 8


def test_the_middle_of_a_wide_bottleneck_is_twice_as_wide():
    block = BottleneckBlock(4, conv_expansion=2)
    block(tf.zeros([1, 5, 5, 16]))
    assert [conv.filters for conv in (block.conv1, block.conv2, block.conv3)] == [4, 8, 16]


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
    deeplab2.assign(deeplab2_names.block(block, "layer"), golden.weights(arrays))
    assert_close(block(x), arrays["output"])
    if axial:
        mask = arrays["drop_path_mask"]
        block.drop_path = lambda x, training, seed: x * mask
        assert_close(block(x), arrays["output_with_drop_path_mask"])


KINDS = {
    "convolution": lambda stride=1, **kwargs: BottleneckBlock(4, stride, **kwargs),
    "switchable": lambda stride=1, **kwargs: BottleneckBlock(4, stride, use_sac=True, **kwargs),
    "axial": lambda stride=1, **kwargs: BottleneckBlock(4, stride, attention=ATTENTION, **kwargs),
    "local": lambda stride=1, **kwargs: BottleneckBlock(
        4, stride, attention={**ATTENTION, "span": 3}, attention_kind="local", **kwargs
    ),
    "basic": lambda stride=1, **kwargs: BasicBlock(4, stride, **kwargs),
    "basic_switchable": lambda stride=1, **kwargs: BasicBlock(4, stride, use_sac=True, **kwargs),
}
each_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@each_kind
def test_starts_as_its_shortcut(make):
    # The last normalisation starts with gamma 0.
    x = random_tensor((1, 6, 5, 16))
    for stride in (1, 2):
        block = make(stride)
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


def test_can_leave_its_input_as_it_is():
    x = random_tensor((1, 6, 5, 3))
    block, activating = BottleneckBlock(4, activate_input=False), BottleneckBlock(4)
    for layer in (block, activating):
        layer(x)
    vary_weights(block)
    activating.set_weights(block.get_weights())
    assert_close(block(tf.nn.relu(x)), activating(x), 1e-6)
    assert tf.reduce_max(tf.abs(block(x) - activating(x))) > 0.01


@each_kind
def test_squeeze_and_excite_scales_the_branch_alone(make):
    x = random_tensor((2, 4, 5, 16))
    block, plain = make(use_squeeze_and_excite=True), make()
    for layer in (block, plain):
        layer(x)
    vary_weights(block)
    own = {id(w) for w in block.squeeze_excite.weights}
    plain.set_weights([w.numpy() for w in block.weights if id(w) not in own])
    shortcut = tf.nn.relu(x)
    branch = plain(x) - shortcut
    conv = block.squeeze_excite.conv
    gate = np.clip(tf.reduce_mean(branch, [1, 2]) @ conv.kernel[0, 0] + conv.bias + 3, 0, 6) / 6
    assert_close(block(x), shortcut + branch * gate[:, None, None], 1e-4)


@each_kind
def test_drop_path_keeps_the_shortcut(make):
    tf_keras.utils.set_random_seed(0)
    block = make(keep_prob=0.5)
    x = random_tensor((40, 3, 3, 16))
    block(x)
    vary_weights(block)
    kept = np.any(block(x, training=True).numpy() != tf.nn.relu(x).numpy(), axis=(1, 2, 3))
    assert 8 < kept.sum() < 32


def test_refuses_unknown_attention():
    with pytest.raises(ValueError, match=r'attention_kind must be "axial" or "local"\. Received: \'global\''):
        BottleneckBlock(4, attention=ATTENTION, attention_kind="global")
