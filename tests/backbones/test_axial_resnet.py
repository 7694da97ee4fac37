# SPDX-License-Identifier: Apache-2.0
"""Backbones: equal to DeepLab2, of pinned size, with the strides and blocks that the papers say."""

import json

import numpy as np
import pytest
import tensorflow as tf

from deeplab_axial.backbones import presets
from deeplab_axial.backbones.axial_resnet import AxialResNet
from tests import deeplab2_names, golden
from tests.compare import assert_close, random_tensor

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
    deeplab2_names.assign(deeplab2_names.backbone(model), golden.weights(arrays))
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


# Trainable weights in the flavor "deeplab2", counted in DeepLab2.
SMALL = [
    ("resnet50", 1.0, 23_508_032),
    ("resnet50_beta", 1.0, 23_631_808),
    ("axial_resnet_s", 0.5, 11_466_912),
    ("axial_deeplab_s", 0.5, 11_565_856),
]
LARGE = [("axial_resnet_l", 1.0, 43_714_048), ("axial_deeplab_l", 1.0, 43_841_920)]


def _trainable_weights(name: str, flavor: str, width: float) -> int:
    model = AxialResNet(**presets.backbone_kwargs(name, flavor, width), output_stride=16)
    model(tf.zeros([1, 33, 33, 3]))
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


@pytest.mark.parametrize(("name", "width", "count"), SMALL)
def test_parameters(name, width, count):
    assert _trainable_weights(name, "deeplab2", width) == count


@pytest.mark.slow
@pytest.mark.parametrize(("name", "width", "count"), LARGE)
def test_parameters_of_large_networks(name, width, count):
    assert _trainable_weights(name, "deeplab2", width) == count


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
        ({"num_blocks": [1, 2, 3]}, r"four positive numbers, for stages 2 to 5\. Received: \[1, 2, 3\]"),
        ({"num_blocks": [1, 2, 3, 0]}, r"four positive numbers, for stages 2 to 5\. Received: \[1, 2, 3, 0\]"),
        ({"output_stride": 4}, r"output_stride must be 8, 16 or 32\. Received: 4"),
        ({"width_multiplier": 0.03}, "Widen the layer"),
    ],
)
def test_refuses_bad_arguments(arguments, said):
    with pytest.raises(ValueError, match=said):
        _tiny(**arguments)
