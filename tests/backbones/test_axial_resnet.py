# SPDX-License-Identifier: Apache-2.0
"""Backbones: equal to DeepLab2, of pinned size, with the strides and blocks that the papers say."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial.backbones import presets
from deeplab_axial.backbones.axial_resnet import AxialResNet
from deeplab_axial.importing import deeplab2, deeplab2_names
from deeplab_axial.layers.local_attention import LocalAttention2D
from deeplab_axial.layers.residual_block import BasicBlock, BottleneckBlock
from deeplab_axial.layers.switchable_atrous import SwitchableConvBN
from tests import golden
from tests.compare import assert_close, random_tensor, vary_weights

STEM = {"kind": "conv7x7", "width_multiplier": 0.125}


def _tiny(**kwargs) -> AxialResNet:
    shared = {"num_blocks": [1, 1, 1, 2], "output_stride": 16, "stem": STEM, "width_multiplier": 0.125}
    return AxialResNet(**{**shared, **kwargs})


def test_equals_deeplab2():
    arrays = golden.load("backbone_axial_resnet_s_tiny")
    theirs = json.loads(str(arrays["kwargs"]))
    preset = presets.backbone_kwargs(
        theirs["name"], "deeplab2", theirs["width_multiplier"], theirs["stem_width_multiplier"]
    )
    model = AxialResNet(**{**preset, "num_blocks": theirs["num_blocks"]}, output_stride=theirs["output_stride"])
    images = tf.constant(arrays["input"])
    model(images)
    deeplab2.assign(deeplab2_names.backbone(model, "encoder"), golden.weights(arrays))
    assert sum(np.prod(w.shape) for w in model.trainable_weights) == arrays["num_trainable"]
    assert_close(model.stem_layer(images), arrays["endpoint:stage1"])
    for i, stage in enumerate(model.stages, start=1):
        x = tf.constant(arrays[f"endpoint:stage{i}"])
        for block in stage:
            x = block(x)
        assert_close(x, arrays[f"endpoint:stage{i + 1}"])

    endpoints = model(images)
    assert list(endpoints) == ["res1", "res2", "res3", "res4", "res5"]
    for name, value in endpoints.items():
        # The weights are random, which saturates the attention: a change of the image by 1e-6 changes res5 by 1e-2, and
        # float64 comes no nearer to the fixture than float32.
        assert_close(value, arrays[f"endpoint:{name}"], 0.02 if name == "res5" else 2e-4)


@pytest.mark.parametrize("max_pool", [False, True])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_strides_of_the_endpoints(output_stride, max_pool):
    model = _tiny(output_stride=output_stride, stem={**STEM, "max_pool": max_pool}, num_blocks=[1, 1, 1, 1])
    endpoints = model(tf.zeros([1, 65, 97, 3]))
    strides = {"res1": 4 if max_pool else 2, "res2": 4, "res3": 8, "res4": 16, "res5": 32}
    for name, stride in strides.items():
        stride = min(stride, output_stride)
        assert endpoints[name].shape[1:3] == (64 // stride + 1, 96 // stride + 1)
    assert [endpoints[name].shape[-1] for name in list(strides)[1:]] == [32, 64, 128, 256]


@pytest.mark.parametrize(
    ("output_stride", "dilations"),
    [(32, [[1], [1], [1], [1, 1]]), (16, [[1], [1], [1], [1, 2]]), (8, [[1], [1], [1], [2, 4]])],
)
def test_convolutions_are_atrous_where_the_stride_is_left_out(output_stride, dilations):
    model = _tiny(output_stride=output_stride, axial_from_stride=None)
    assert [[block.dilation for block in stage] for stage in model.stages] == dilations


WIDE_STEM = {"kind": "conv3x3", "width_multiplier": 0.125}
FULL_STEM = {"kind": "none", "width_multiplier": 0.25}


@pytest.mark.parametrize(
    ("output_stride", "dilations"),
    [
        (32, [[(1, 1)] * 2, [(1, 1)] * 2, [(1, 1)] * 2, [1, 1]]),
        (16, [[(1, 1)] * 2, [(1, 1)] * 2, [(1, 1)] * 2, [1, 2]]),
        (8, [[(1, 1)] * 2, [(1, 1)] * 2, [(1, 2), (2, 2)], [2, 4]]),
    ],
)
def test_the_second_convolution_works_behind_the_stride(output_stride, dilations):
    model = _tiny(
        output_stride=output_stride,
        num_blocks=[1, 2, 2, 2, 2],
        stem=WIDE_STEM,
        axial_from_stride=None,
        conv_block="wide",
    )
    *basic, bottlenecks = model.stages
    found = [[(block.dilation, block.second_dilation) for block in stage] for stage in basic]
    assert [*found, [block.dilation for block in bottlenecks]] == dilations


@pytest.mark.parametrize("wide", [False, True])
def test_atrous_networks_compute_the_strided_ones_on_a_finer_grid(wide):
    kind = {"num_blocks": [1, 1, 1, 2, 2], "stem": WIDE_STEM, "conv_block": "wide"}
    kind = kind if wide else {"num_blocks": [1, 1, 2, 2]}
    images = random_tensor((1, 65, 97, 3))
    weights, expected = None, None
    for output_stride in (32, 16, 8):
        model = _tiny(output_stride=output_stride, axial_from_stride=None, **kind)
        model(images)
        if weights is None:
            vary_weights(model)
            weights, expected = model.get_weights(), model(images)
        model.set_weights(weights)
        for name, value in model(images).items():
            step = (value.shape[1] - 1) // (expected[name].shape[1] - 1)
            assert step == max(1, {"res4": 16, "res5": 32}.get(name, 1) // output_stride)
            assert_close(value[:, ::step, ::step], expected[name], 1e-5)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", ["swidernet", "axial_swidernet", "max_deeplab_s_backbone", "full_axial_resnet_s"])
def test_endpoints_of_presets(name, output_stride):
    flavor = "paper" if name == "full_axial_resnet_s" else "deeplab2"
    preset = presets.backbone_kwargs(name, flavor, 0.25, 0.5)
    preset["num_blocks"] = [1] * len(preset["num_blocks"])
    model = AxialResNet(**preset, output_stride=output_stride, attention={"span": presets.default_span(name)})
    assert bool(model.stage1) == (name != "max_deeplab_s_backbone")
    assert len(model.stages) == 4
    endpoints = model(tf.zeros([1, 65, 33, 3]))
    width = 0.125 if name == "full_axial_resnet_s" else 0.25
    for i, (name, value) in enumerate(endpoints.items()):
        stride = min(2 ** (i + 1), output_stride)
        assert (name, *value.shape[1:3]) == (f"res{i + 1}", 64 // stride + 1, 32 // stride + 1)
        if i:
            assert value.shape[-1] == 128 * 2**i * width


def test_blocks_of_a_wide_network():
    model = _tiny(num_blocks=[2, 1, 1, 1, 1], stem=WIDE_STEM, axial_from_stride=None, conv_block="wide")
    assert [block.conv1.filters for block in model.stage1] == [16, 16]  # by the width of the stem
    assert [block.stride for block in model.stage1] == [1, 1]
    for (block,), filters in zip(model.stages[:3], (32, 64, 128)):
        assert isinstance(block, BasicBlock)
        assert (block.conv1.filters, block.conv2.filters) == (filters, filters)
    ((block,),) = model.stages[3:]
    assert isinstance(block, BottleneckBlock)
    assert (block.conv1.filters, block.conv2.filters, block.conv3.filters) == (64, 128, 256)


def test_attention_from_the_image_on():
    model = _tiny(num_blocks=[2, 1, 1, 1, 1], stem=FULL_STEM, axial_from_stride=1, attention={"span": 5})
    first, second = model.stage1
    assert (first.stride, second.stride) == (2, 1)
    assert (first.activate_input, second.activate_input) == (False, True)
    assert first.attention == {"key_depth": 8, "value_depth": 16, "span": 5}
    model(tf.zeros([1, 33, 33, 3]))
    convs = [layer for layer in model.submodules if isinstance(layer, tf_keras.layers.Conv2D)]
    assert {conv.kernel_size for conv in convs} == {(1, 1)}
    image = random_tensor((1, 33, 33, 3))
    vary_weights(first)
    assert tf.reduce_any(first(image) != first(tf.nn.relu(image)))  # dark pixels count


def test_widths_of_the_attention():
    model = _tiny(num_blocks=[1, 1, 1, 2], axial_from_stride=32, attention_widths=(4, 2, 4))
    convolutional, axial = model.stages[3]
    assert convolutional.attention is None
    assert (axial.attention["key_depth"], axial.attention["value_depth"]) == (128, 256)
    assert axial.conv1.filters == 256


def test_local_attention():
    model = _tiny(attention_kind="local", attention={"span": 3}, attention_widths=(1, 1, 1))
    for block in (block for stage in model.stages for block in stage):
        assert isinstance(block.attention_layer, LocalAttention2D)
        assert block.attention == {"key_depth": block.filters, "value_depth": block.filters, "span": 3}
        assert block.conv1.filters == block.filters


@pytest.mark.parametrize(
    ("sac_from_stride", "switchable"),
    [(None, [0, 0, 0, 0]), (32, [0, 0, 0, 1]), (16, [0, 0, 1, 1]), (4, [1, 1, 1, 1])],
)
@pytest.mark.parametrize("conv_block", ["bottleneck", "wide"])
def test_switchable_convolutions_by_the_stride_of_the_stage(conv_block, sac_from_stride, switchable):
    # At output stride 8 too it is the stride in the classification network that decides.
    model = _tiny(
        num_blocks=[2, 2, 2, 2],
        output_stride=8,
        axial_from_stride=None,
        conv_block=conv_block,
        sac_from_stride=sac_from_stride,
    )
    for stage, expected in zip(model.stages, switchable):
        for block in stage:
            assert isinstance(block.conv2, SwitchableConvBN) == bool(expected)
            wide = isinstance(block, BasicBlock)
            assert isinstance(block.conv1, SwitchableConvBN) == bool(expected and wide)


@pytest.mark.parametrize(
    ("axial_from_stride", "axial"),
    [
        (2, [[1, 1], [1, 1], [1, 1], [1, 1]]),
        (8, [[0, 0], [0, 1], [1, 1], [1, 1]]),
        (16, [[0, 0], [0, 0], [0, 1], [1, 1]]),
        (None, [[0, 0], [0, 0], [0, 0], [0, 0]]),
    ],
)
def test_blocks_are_axial_from_a_stride_on(axial_from_stride, axial):
    model = _tiny(num_blocks=[2, 2, 2, 2], axial_from_stride=axial_from_stride)
    assert [[block.attention is not None for block in stage] for stage in model.stages] == [
        [bool(x) for x in stage] for stage in axial
    ]
    for block in (block for stage in model.stages for block in stage if block.attention):
        assert (block.attention["key_depth"], block.attention["value_depth"]) == (block.filters, 2 * block.filters)
        assert (block.expansion, block.dilation) == (2, 1)


def test_attention_arguments_reach_every_layer():
    model = _tiny(attention={"span": 5, "key_position": False}, striding="subsample", norm={"epsilon": 0.01})
    for block in (block for stage in model.stages for block in stage):
        assert block.attention_layer.striding == "subsample"
        for layer in (block.attention_layer.height_axis, block.attention_layer.width_axis):
            assert (layer.span, layer.key_position, layer.qkv_norm.epsilon) == (5, False, 0.01)


def test_endpoints_are_activated():
    for value in _tiny(num_blocks=[1, 1, 1, 1])(random_tensor((1, 33, 33, 3))).values():
        assert tf.reduce_min(value) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_blocks": [1, 2, 3]}, r"four positive numbers, for stages 2 to 5, or five.*Received: \[1, 2, 3\]"),
        ({"num_blocks": [1, 2, 3, 0]}, r"four positive numbers, for stages 2 to 5, or five.*Received: \[1, 2, 3, 0\]"),
        ({"stem": FULL_STEM}, r"needs a stage 1: five num_blocks\. Received: \[1, 1, 1, 2\]"),
        (
            {"stem": {**STEM, "max_pool": True}, "num_blocks": [1] * 5},
            r"Behind a max pool there is no stage 1: use four num_blocks\. Received: \[1, 1, 1, 1, 1\]",
        ),
        ({"conv_block": "narrow"}, r'conv_block must be "bottleneck" or "wide"\. Received: \'narrow\''),
        ({"attention_kind": "global"}, r'attention_kind must be "axial" or "local"\. Received: \'global\''),
        ({"output_stride": 4}, r"output_stride must be 8, 16 or 32\. Received: 4"),
        ({"width_multiplier": 0.03}, "Widen the layer"),
    ],
)
def test_refuses_bad_arguments(arguments, said):
    with pytest.raises(ValueError, match=said):
        _tiny(**arguments)
