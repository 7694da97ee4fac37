# SPDX-License-Identifier: Apache-2.0
"""Counting of parameters and multiply-adds: layers counted by hand, and the paper's networks."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import describe
from deeplab_axial.backbones import presets
from deeplab_axial.backbones.axial_resnet import AxialResNet
from deeplab_axial.layers.axial_attention import AxialAttention
from deeplab_axial.models.decoder import Decoder
from deeplab_axial.models.heads import Head
from deeplab_axial.models.panoptic_deeplab import PanopticDeepLab
from tests import conformance


def _count(function, *shapes) -> int:
    graph = tf.function(function, autograph=False).get_concrete_function(*(tf.TensorSpec(s) for s in shapes)).graph
    return sum(describe.multiply_adds(op) for op in graph.get_operations())


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (tf_keras.layers.Conv2D(7, 3, padding="same"), [2, 5, 6, 4], 2 * 5 * 6 * 7 * 3 * 3 * 4),
        (tf_keras.layers.Conv2D(7, (1, 3), strides=2), [1, 5, 7, 4], 3 * 3 * 7 * 3 * 4),
        (tf_keras.layers.Conv2D(7, 3, dilation_rate=2, padding="same"), [1, 4, 6, 4], 4 * 6 * 7 * 3 * 3 * 4),
        (tf_keras.layers.DepthwiseConv2D(5, padding="same"), [1, 6, 6, 4], 6 * 6 * 4 * 25),
        (tf_keras.layers.Dense(8), [3, 5], 3 * 5 * 8),
        (tf_keras.layers.BatchNormalization(), [3, 5], 0),
        (tf_keras.layers.MaxPool2D(), [1, 4, 4, 2], 0),
    ],
)
def test_layers(layer, shape, expected):
    assert _count(layer, shape) == expected


def test_products():
    assert _count(lambda a, b: tf.linalg.matmul(a, b), [4, 3, 5], [4, 5, 6]) == 4 * 3 * 5 * 6
    assert _count(lambda a, b: tf.linalg.matmul(a, b, transpose_a=True), [5, 3], [5, 6]) == 3 * 5 * 6
    assert _count(lambda a, b: tf.linalg.matmul(a, b, transpose_b=True), [4, 3, 5], [4, 6, 5]) == 4 * 3 * 5 * 6
    assert _count(lambda a, b: tf.linalg.matmul(a, b, transpose_a=True), [4, 5, 3], [4, 5, 6]) == 4 * 3 * 5 * 6
    assert _count(lambda a, b: tf.einsum("snqk,sknd->sqnd", a, b), [2, 3, 4, 5], [2, 5, 3, 6]) == 2 * 3 * 4 * 5 * 6
    assert _count(lambda a, b: a * b + a, [4, 4], [4, 4]) == 0


@pytest.mark.parametrize("positions", [True, False])
def test_attention_over_the_whole_axis(positions):
    rows, length, channels, key, value = 3, 12, 10, 4, 8
    switches = dict.fromkeys(("query_position", "key_position", "value_position"), positions)
    layer = AxialAttention("width", key, value, num_heads=2, **switches)
    projection = rows * length * channels * (2 * key + value)
    pairs = rows * length * length
    per_pair = 3 * key + 2 * value if positions else key + value
    assert _count(layer, [1, rows, length, channels]) == projection + pairs * per_pair


def test_unknown_shapes_are_refused():
    graph = (
        tf.function(lambda x: tf.linalg.matmul(x, tf.ones([5, 3])))
        .get_concrete_function(tf.TensorSpec([None, 5]))
        .graph
    )
    (op,) = (op for op in graph.get_operations() if op.type == "MatMul")
    with pytest.raises(ValueError, match="must be known to count"):
        describe.multiply_adds(op)


def test_parts_of_a_network():
    model = next(case for case in conformance.CASES if case.name == "panoptic_deeplab").make()
    model(tf.zeros([1, 33, 33, 3]))
    parts = describe.describe(model, 65, 97)
    assert [part.name for part in parts] == [
        "stem",
        "stage2",
        "stage3",
        "stage4",
        "stage5",
        "semantic_decoder",
        "semantic_head",
        "instance_decoder",
        "center_head",
        "offset_head",
    ]
    by_name = {part.name: part for part in parts}
    assert sum(part.parameters for part in parts) == sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert by_name["semantic_head"].output == "17 x 25 x 5"
    assert by_name["stage5"].output == "5 x 7 x 256"
    # Depthwise 5x5 over 8 channels, 1x1 to 8, 1x1 to 5 with bias; two normalisations.
    assert by_name["semantic_head"].multiply_adds == 17 * 25 * (8 * 25 + 8 * 8 + 8 * 5)
    assert by_name["semantic_head"].parameters == 8 * 25 + 8 * 8 + 2 * 2 * 8 + 8 * 5 + 5
    text = describe.table(parts)
    assert len(text.splitlines()) == 12
    assert f"{sum(part.parameters for part in parts):,}" in text.splitlines()[-1]
    for part in parts:
        assert f"{part.parameters:,}" in text


def _paper_network(size: str, num_classes: int) -> PanopticDeepLab:
    """Axial-DeepLab with a span of 65, decoder and heads as in DeepLab2."""
    preset = presets.backbone_kwargs(f"axial_deeplab_{size}", "paper")
    low_level = {"semantic": [("res3", 64), ("res2", 32)], "instance": [("res3", 32), ("res2", 16)]}
    return PanopticDeepLab(
        backbone=AxialResNet(**preset, output_stride=16, attention={"span": 65}, name="backbone"),
        semantic_decoder=Decoder("res5", low_level["semantic"], 256, 256, name="semantic_decoder"),
        semantic_head=Head(num_classes, 256, name="semantic_head"),
        instance_decoder=Decoder("res5", low_level["instance"], 128, 256, name="instance_decoder"),
        center_head=Head(1, 32, name="center_head"),
        offset_head=Head(2, 32, name="offset_head"),
    )


# Billions. The paper's formulas give the first for its description (a query against the `span` keys around it) and the
# paper itself the last (Table 3); this library multiplies a little more, as blocks of queries share their windows.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "formula", "executed", "published"),
    [("s", 108.9, 113.2, 110.4), ("m", 207.6, 214.0, 209.9), ("l", 341.4, 349.9, 343.9)],
)
def test_multiply_adds_of_the_paper(size, formula, executed, published, monkeypatch):
    extra = []
    attend = AxialAttention._attend

    def record(layer, qkv, training):
        rows, length = qkv.shape[1:3]
        windows = layer._windows(length)
        pairs = windows.num_blocks * windows.num_queries * windows.num_keys - length * min(length, layer.span)
        extra.append(rows * pairs * (3 * layer.key_depth + 2 * layer.value_depth))
        return attend(layer, qkv, training)

    model = _paper_network(size, 133)
    model(tf.zeros([1, 65, 65, 3]))
    monkeypatch.setattr(AxialAttention, "_attend", record)
    total = sum(part.multiply_adds for part in describe.describe(model, 1025, 1025))
    assert len(extra) == 2 * 16
    assert total / 1e9 == pytest.approx(executed, abs=0.06)
    assert (total - sum(extra)) / 1e9 == pytest.approx(formula, abs=0.06)
    assert formula == pytest.approx(published, rel=0.02)
