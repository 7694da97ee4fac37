# SPDX-License-Identifier: Apache-2.0
"""The table against the keys of DeepLab2: recorded ones where there are, else what its source says."""

import re

import pytest
import tensorflow as tf

from deeplab_axial.backbones import presets
from deeplab_axial.backbones.axial_resnet import AxialResNet
from deeplab_axial.importing import deeplab2_names
from deeplab_axial.layers.residual_block import BasicBlock, BottleneckBlock
from deeplab_axial.models.classifier import Classifier
from deeplab_axial.models.decoder import Decoder
from deeplab_axial.models.heads import Head
from deeplab_axial.models.panoptic_deeplab import PanopticDeepLab
from tests import golden
from tests.importing import dl2_checkpoints as dl2

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def _shapes(entries) -> dict[str, tuple[int, ...]]:
    entries = list(entries)
    shapes = {entry.key: entry.shape for entry in entries}
    assert len(shapes) == len(entries)  # no key twice
    return shapes


def _names_each_variable_once(table, layer) -> bool:
    return sorted(id(e.variable) for e in table) == sorted(id(v) for v in layer.variables)


def _built_block(kind, filters=8, channels=16, **kwargs):
    block = kind(filters, **kwargs)
    block(tf.zeros([1, 9, 9, channels]))
    return block


def test_every_key_of_a_recorded_checkpoint():
    path = golden.FOLDER / "checkpoint_keys_axial_resnet_s.txt"
    if not path.exists():
        pytest.skip(f"{path.name} needs the folder ../shared/data/golden beside the checkout")
    theirs = {}
    for line in path.read_text().splitlines():
        key, shape = re.fullmatch(r"(\S+)\s+\[(.*)\]", line).groups()
        if key.endswith(SUFFIX) and not key.startswith("global_step"):
            theirs[key.removesuffix(SUFFIX)] = tuple(int(n) for n in shape.split(",") if n.strip())
    preset = presets.backbone_kwargs("axial_resnet_s", "deeplab2", 0.5)
    model = PanopticDeepLab(
        AxialResNet(**preset, output_stride=16),
        Decoder("res5", [("res3", 64), ("res2", 32)], 256, 256),
        Head(19, 256),
        Decoder("res5", [("res3", 32), ("res2", 16)], 128, 256),
        Head(1, 32),
        Head(2, 32),
    )
    model(tf.zeros([1, 33, 33, 3]))
    table = [entry for part in deeplab2_names.parts(model) for entry in part.entries]
    assert _shapes(table) == theirs
    assert len(theirs) == 803  # of 805 keys: the object graph and global_step have no counterpart
    assert _names_each_variable_once(table, model)


def test_parts_of_a_model():
    backbone = AxialResNet([1, 1, 1, 1], 32, {"kind": "three_conv", "width_multiplier": 0.125}, 0.125)
    semantic = [Decoder("res5", [], 4, 4), Head(3, 4)]
    model = PanopticDeepLab(backbone, *semantic)
    model(tf.zeros([1, 33, 33, 3]))
    assert [(part.name, part.root) for part in deeplab2_names.parts(model)] == [
        ("backbone", "encoder"),
        ("semantic_decoder", "semantic_decoder"),
        ("semantic_head/conv", "semantic_head_without_last_layer"),
        ("semantic_head/last", "semantic_last_layer"),
    ]
    classifier = Classifier(backbone, 5)
    classifier(tf.zeros([1, 33, 33, 3]))
    assert [part.name for part in deeplab2_names.parts(classifier)] == ["backbone"]


def test_bottleneck_blocks():
    bottleneck = _built_block(BottleneckBlock)
    same = _built_block(BottleneckBlock, channels=32)
    expected = (
        dl2.conv("b/_conv1_bn_act") | dl2.conv("b/_conv2_bn_act") | dl2.conv("b/_conv3_bn") | dl2.conv("b/_shortcut")
    )
    assert set(_shapes(deeplab2_names.block(bottleneck, "b"))) == expected
    assert set(_shapes(deeplab2_names.block(same, "b"))) == expected - dl2.conv("b/_shortcut")
    wide = _shapes(deeplab2_names.block(_built_block(BottleneckBlock, conv_expansion=2), "b"))
    assert set(wide) == expected
    assert wide["b/_conv2_bn_act/_conv/kernel"] == (3, 3, 8, 16)


def test_basic_block_with_squeeze_and_excite():
    block = _built_block(BasicBlock, use_squeeze_and_excite=True)
    shapes = _shapes(deeplab2_names.block(block, "b"))
    gate = {f"b/_squeeze_and_excite/_se_conv/{name}" for name in ("kernel", "bias")}
    assert set(shapes) == dl2.conv("b/_conv1_bn_act") | dl2.conv("b/_conv2_bn") | dl2.conv("b/_shortcut") | gate
    assert shapes["b/_conv2_bn/_conv/kernel"] == (3, 3, 32, 32)
    assert shapes["b/_squeeze_and_excite/_se_conv/kernel"] == (1, 1, 32, 32)


@pytest.mark.parametrize("stride", [1, 2])
def test_switchable_atrous_convolutions(stride):
    bottleneck = _built_block(BottleneckBlock, stride=stride, use_sac=True)
    expected = dl2.conv("b/_conv1_bn_act") | dl2.conv("b/_conv3_bn") | dl2.conv("b/_shortcut")
    expected |= dl2.switchable("b/_conv2_bn_act", switch=stride == 1)
    shapes = _shapes(deeplab2_names.block(bottleneck, "b"))
    assert set(shapes) == expected
    assert shapes["b/_conv2_bn_act/_pre_global_context/convolution/kernel"] == (1, 1, 8, 8)
    if stride == 1:
        assert shapes["b/_conv2_bn_act/_conv/_switch/kernel"] == (1, 1, 8, 1)
    basic = _built_block(BasicBlock, stride=stride, use_sac=True)
    expected = dl2.switchable("b/_conv1_bn_act", switch=stride == 1) | dl2.switchable("b/_conv2_bn")
    assert set(_shapes(deeplab2_names.block(basic, "b"))) == expected | dl2.conv("b/_shortcut")
    assert _names_each_variable_once(deeplab2_names.block(basic, "b"), basic)


@pytest.mark.parametrize(
    ("switches", "tables", "terms", "retrieved"),
    [
        ({}, ("query", "key", "value"), 3, 2),
        ({"key_position": False}, ("query", "value"), 2, 2),
        ({"query_position": False, "key_position": False, "value_position": False}, (), 1, 1),
    ],
)
def test_axial_block_and_its_ablations(switches, tables, terms, retrieved):
    attention = {"key_depth": 16, "value_depth": 32, "num_heads": 4, **switches}
    block = _built_block(BottleneckBlock, attention=attention, expansion=4)
    shapes = _shapes(deeplab2_names.block(block, "b"))
    convs = dl2.conv("b/_conv1_bn_act") | dl2.conv("b/_conv3_bn") | dl2.conv("b/_shortcut")
    assert set(shapes) == convs | dl2.attention("b", tables)
    axis = "b/_attention/_width_axis"
    assert shapes[f"{axis}/qkv_kernel"] == (32, 64)
    assert shapes[f"{axis}/_batch_norm_similarity/gamma"] == (terms, 1, 4, 1, 1)
    assert shapes[f"{axis}/_batch_norm_retrieved_output/beta"] == (retrieved, 1, 4, 1, 8)
    if "key" in tables:
        assert shapes[f"{axis}/_key_rpe/embeddings"] == (509, 4)
        assert shapes[f"{axis}/_value_rpe/embeddings"] == (509, 8)


def test_wide_resnet_has_stage_1():
    preset = presets.backbone_kwargs("swidernet", "deeplab2", 0.0625, 0.0625, 0.34)
    model = AxialResNet(**preset, output_stride=16, sac_from_stride=32, block={"use_squeeze_and_excite": True})
    model(tf.zeros([1, 33, 33, 3]))
    shapes = _shapes(deeplab2_names.backbone(model, "encoder"))
    assert {key for key in shapes if key.startswith("encoder/_stem")} == dl2.conv("encoder/_stem")
    assert shapes["encoder/_stem/_conv/kernel"] == (3, 3, 3, 4)
    blocks = {key.split("/")[1] + "/" + key.split("/")[2] for key in shapes if "/_stage" in key}
    assert blocks == {f"_stage{s}/_block{b}" for s, n in zip((1, 2, 3, 4, 5), (3, 1, 2, 1, 1)) for b in range(1, n + 1)}
    first = {key for key in shapes if key.startswith("encoder/_stage1/_block1/")}
    gate = {f"encoder/_stage1/_block1/_squeeze_and_excite/_se_conv/{name}" for name in ("kernel", "bias")}
    convs = [dl2.conv(f"encoder/_stage1/_block1/{name}") for name in ("_conv1_bn_act", "_conv2_bn", "_shortcut")]
    assert first == set.union(gate, *convs)
    # Only the last stage reaches stride 32; at output stride 16 its first block does not stride.
    sac = {key.split("/")[1] for key in shapes if "_switch" in key}
    assert sac == {"_stage5"}
    assert dl2.switchable("encoder/_stage5/_block1/_conv2_bn_act") <= set(shapes)
    assert _names_each_variable_once(deeplab2_names.backbone(model, "encoder"), model)


def test_backbones_that_are_axial_in_the_end():
    for name, convolutional in (("max_deeplab_s_backbone", "_conv2_bn_act"), ("axial_swidernet", "_conv2_bn")):
        preset = presets.backbone_kwargs(name, "deeplab2", 0.0625, 0.25, 0.5)
        model = AxialResNet(**preset, output_stride=16)
        model(tf.zeros([1, 33, 33, 3]))
        shapes = _shapes(deeplab2_names.backbone(model, "encoder"))
        axial = {key.split("/_attention")[0] for key in shapes if "_attention" in key}
        assert "encoder/_stage4/_block1" not in axial
        assert f"encoder/_stage4/_block1/{convolutional}/_conv/kernel" in shapes
        assert "encoder/_stage5/_block1" in axial
        assert _names_each_variable_once(deeplab2_names.backbone(model, "encoder"), model)


@pytest.mark.parametrize("stem", ["conv7x7", "three_conv", "conv3x3"])
def test_stems(stem):
    model = AxialResNet([1, 1, 1, 1], 32, {"kind": stem, "width_multiplier": 0.125}, 0.125)
    model(tf.zeros([1, 33, 33, 3]))
    keys = {entry.key for entry in deeplab2_names.backbone(model, "encoder") if "/_stem" in entry.key}
    three = [dl2.conv(f"encoder/_stem/{name}") for name in ("_conv1_bn_act", "_conv2_bn_act", "_conv3_bn")]
    assert keys == (set.union(*three) if stem == "three_conv" else dl2.conv("encoder/_stem"))


@pytest.mark.parametrize("num_low_level", [0, 1, 2, 3])
@pytest.mark.parametrize("rates", [(), (1, 2, 3)])
def test_decoders(num_low_level, rates):
    low_level = [("res4", 5), ("res3", 4), ("res2", 3)][:num_low_level]
    decoder = Decoder("res5", low_level, 6, 7, rates)
    sides = {"res5": 3, "res4": 3, "res3": 5, "res2": 9}
    decoder({name: tf.zeros([1, side, side, 2]) for name, side in sides.items()})
    shapes = _shapes(deeplab2_names.decoder(decoder, "d"))
    expected = dl2.conv("d/_aspp/_proj_conv_bn_act")
    if rates:
        names = ["_conv_bn_act", *(f"_aspp_{part}/_conv_bn_act" for part in ("conv1", "conv2", "conv3", "pool"))]
        expected = expected.union(*(dl2.conv(f"d/_aspp/{name}") for name in names))
        assert shapes["d/_aspp/_aspp_conv2/_conv_bn_act/_conv/kernel"] == (3, 3, 2, 7)
        assert shapes["d/_aspp/_proj_conv_bn_act/_conv/kernel"] == (1, 1, 35, 7)
    for number in range(1, num_low_level + 1):
        expected |= dl2.conv(f"d/_low_level_conv{number}")
        expected |= dl2.separable(f"d/_fusion_conv{number}/_conv1_bn_act")
    assert set(shapes) == expected
    assert _names_each_variable_once(deeplab2_names.decoder(decoder, "d"), decoder)
    if num_low_level == 3:
        assert shapes["d/_low_level_conv3/_conv/kernel"] == (1, 1, 2, 3)
        assert shapes["d/_fusion_conv1/_conv1_bn_act/_depthwise/_depthwise_conv/depthwise_kernel"] == (5, 5, 12, 1)
