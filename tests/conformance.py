# SPDX-License-Identifier: Apache-2.0
"""One list of layers, and what every layer must do. A new layer gets all checks for one line in CASES."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial.backbones.axial_resnet import AxialResNet
from deeplab_axial.layers import normalization
from deeplab_axial.layers.aspp import ASPP
from deeplab_axial.layers.axial_attention import AxialAttention, AxialAttention2D
from deeplab_axial.layers.convolution import ConvBN, SeparableConvBN
from deeplab_axial.layers.drop_path import DropPath
from deeplab_axial.layers.local_attention import LocalAttention, LocalAttention2D
from deeplab_axial.layers.residual_block import BasicBlock, BottleneckBlock
from deeplab_axial.layers.squeeze_excite import SqueezeExcite
from deeplab_axial.layers.stems import Stem
from deeplab_axial.layers.switchable_atrous import GlobalContext, SwitchableConvBN
from deeplab_axial.models.classifier import Classifier
from deeplab_axial.models.decoder import Decoder
from deeplab_axial.models.heads import Head
from deeplab_axial.models.panoptic_deeplab import PanopticDeepLab
from tests.compare import assert_nest_close, random_tensor, vary_weights

Shapes = tuple[int, ...] | dict[str, tuple[int, ...]]


class Case(NamedTuple):
    """A layer to check.

    Attributes:
      name: of the case.
      make: makes the layer.
      shapes: [B, H, W, C] of its input, or of each entry of its input.
      other_shapes: of an input of another size.
      has_config: whether the layer is made from plain arguments.
      scale: standard deviation of the input.
    """

    name: str
    make: Callable[[], tf_keras.layers.Layer]
    shapes: Shapes
    other_shapes: Shapes
    has_config: bool = True
    scale: float = 1.0


_ATTENTION = {"key_depth": 8, "value_depth": 16, "num_heads": 2}
_BARE = {"query_position": False, "key_position": False, "value_position": False, "use_batch_norm": False}
_ENDPOINTS = {"res5": (2, 3, 4, 8), "res3": (2, 5, 7, 6), "res2": (2, 9, 13, 4)}
_OTHER_ENDPOINTS = {"res5": (1, 4, 4, 8), "res3": (1, 7, 7, 6), "res2": (1, 14, 13, 4)}
_LOW_LEVEL = [("res3", 4), ("res2", 2)]


def _attention(**kwargs) -> AxialAttention:
    return AxialAttention(**{"axis": "width", **_ATTENTION, **kwargs})


def _backbone(**kwargs) -> AxialResNet:
    shared = {
        "num_blocks": [1, 1, 1, 1],
        "axial_from_stride": 8,
        "output_stride": 16,
        "width_multiplier": 0.125,
        "norm": {"momentum": 0.0},
    }
    return AxialResNet(**{**shared, **kwargs}, keep_prob=(0.9, "linear"))


def _paper_backbone() -> AxialResNet:
    stem = {"kind": "three_conv", "width_multiplier": 0.125, "max_pool": True}
    return _backbone(stem=stem, attention={"span": 5})


def _deeplab2_backbone() -> AxialResNet:
    stem = {"kind": "conv7x7", "width_multiplier": 0.125}
    return _backbone(stem=stem, striding="subsample", block={"use_squeeze_and_excite": True})


def _convolutional_backbone() -> AxialResNet:
    stem = {"kind": "conv7x7", "width_multiplier": 0.125}
    return _backbone(stem=stem, axial_from_stride=None, num_blocks=[1, 1, 1, 2])


def _wide_backbone() -> AxialResNet:
    stem = {"kind": "conv3x3", "width_multiplier": 0.125}
    wide = {"conv_block": "wide", "drop_path_from_stride": 4, "sac_from_stride": 16}
    return _backbone(stem=stem, num_blocks=[1, 1, 1, 1, 1], axial_from_stride=16, attention_widths=(4, 2, 4), **wide)


def _stand_alone_backbone() -> AxialResNet:
    # Attention from the image on. Local: ten axial layers on random weights amplify rounding beyond comparison.
    local = {"attention_kind": "local", "attention": {"span": 3}, "attention_widths": (1, 1, 1)}
    stem = {"kind": "none", "width_multiplier": 0.25}
    return _backbone(stem=stem, num_blocks=[1, 1, 1, 1, 1], axial_from_stride=1, **local)


def _panoptic_deeplab() -> PanopticDeepLab:
    norm = {"momentum": 0.0}
    return PanopticDeepLab(
        backbone=_backbone(stem={"kind": "three_conv", "width_multiplier": 0.125}, axial_from_stride=16),
        semantic_decoder=Decoder("res5", _LOW_LEVEL, 8, 8, norm=norm, name="semantic_decoder"),
        semantic_head=Head(5, 8, norm=norm, name="semantic_head"),
        instance_decoder=Decoder("res5", _LOW_LEVEL, 4, 4, norm=norm, name="instance_decoder"),
        center_head=Head(1, 4, norm=norm, name="center_head"),
        offset_head=Head(2, 4, norm=norm, name="offset_head"),
    )


def _classifier() -> Classifier:
    stem = {"kind": "conv7x7", "width_multiplier": 0.125, "max_pool": True}
    return Classifier(_backbone(stem=stem, axial_from_stride=16), 7)


def _case(name: str, make: Callable, channels: int = 8) -> Case:
    return Case(name, make, (2, 7, 11, channels), (3, 13, 6, channels))


CASES = [
    _case("attention", _attention),
    _case("attention_height", lambda: _attention(axis="height")),
    _case("attention_span", lambda: _attention(span=5)),
    _case("attention_content_only", lambda: _attention(query_position=False, key_position=False, value_position=False)),
    _case("attention_no_norm", lambda: _attention(use_batch_norm=False)),
    _case("attention_2d_average_pool", lambda: AxialAttention2D(_ATTENTION, 2, "average_pool")),
    _case("attention_2d_subsample", lambda: AxialAttention2D({**_ATTENTION, "span": 5}, 2, "subsample")),
    _case("local_attention", lambda: LocalAttention(**_ATTENTION, span=5)),
    _case("local_attention_bare", lambda: LocalAttention(**_ATTENTION, span=3, **_BARE)),
    _case("local_attention_2d_average_pool", lambda: LocalAttention2D({**_ATTENTION, "span": 7}, 2, "average_pool")),
    _case("local_attention_2d_subsample", lambda: LocalAttention2D({**_ATTENTION, "span": 3}, 2, "subsample")),
    _case("bottleneck", lambda: BottleneckBlock(4, 2)),
    _case("bottleneck_dilated", lambda: BottleneckBlock(2, dilation=2)),
    _case("bottleneck_axial", lambda: BottleneckBlock(4, 2, attention=_ATTENTION, expansion=2)),
    _case(
        "bottleneck_axial_squeeze_drop_path",
        lambda: BottleneckBlock(2, attention=_ATTENTION, keep_prob=0.9, use_squeeze_and_excite=True),
    ),
    _case(
        "bottleneck_local",
        lambda: BottleneckBlock(
            4, 2, attention={**_ATTENTION, "span": 3}, attention_kind="local", activate_input=False
        ),
    ),
    _case("bottleneck_wide_switchable", lambda: BottleneckBlock(2, dilation=2, conv_expansion=2, use_sac=True)),
    _case("basic", lambda: BasicBlock(2, dilation=1, second_dilation=2)),
    _case("basic_strided_squeeze_drop_path", lambda: BasicBlock(3, 2, keep_prob=0.9, use_squeeze_and_excite=True)),
    _case("basic_switchable", lambda: BasicBlock(2, use_sac=True)),
    _case("stem_conv3x3", lambda: Stem("conv3x3", 0.125), 3),
    _case("stem_none", lambda: Stem("none"), 3),
    _case("stem_conv7x7", lambda: Stem("conv7x7", 0.125), 3),
    _case("stem_conv7x7_pool", lambda: Stem("conv7x7", 0.125, max_pool=True), 3),
    _case("stem_three_conv", lambda: Stem("three_conv", 0.125), 3),
    _case("stem_three_conv_pool", lambda: Stem("three_conv", 0.125, max_pool=True), 3),
    _case("conv_bn", lambda: ConvBN(4, 3, 2, norm={"momentum": 0.9, "epsilon": 0.01})),
    _case("conv_bn_dilated", lambda: ConvBN(4, 3, dilation=2, activate=False)),
    _case("global_context", GlobalContext),
    _case("switchable_conv_bn", lambda: SwitchableConvBN(4, 3, dilation=2, activate=False)),
    _case("switchable_conv_bn_strided", lambda: SwitchableConvBN(4, 3, 2, norm={"momentum": 0.9})),
    _case("separable_conv_bn", lambda: SeparableConvBN(4)),
    _case("squeeze_excite", SqueezeExcite),
    _case("drop_path", lambda: DropPath(0.8)),
    _case("aspp_projection", lambda: ASPP(4)),
    _case("aspp", lambda: ASPP(4, (1, 2, 3))),
    _case("aspp_pool_size", lambda: ASPP(4, (1, 2, 3), (6, 5))),
    Case("decoder", lambda: Decoder("res5", _LOW_LEVEL, 8, 8), _ENDPOINTS, _OTHER_ENDPOINTS),
    Case("decoder_no_low_level", lambda: Decoder("res5", [], 8, 6), _ENDPOINTS, _OTHER_ENDPOINTS),
    Case("decoder_aspp", lambda: Decoder("res5", _LOW_LEVEL, 8, 8, (1, 2, 3)), _ENDPOINTS, _OTHER_ENDPOINTS),
    _case("head", lambda: Head(3, 4)),
    Case("backbone_paper", _paper_backbone, (2, 65, 49, 3), (1, 97, 113, 3)),
    Case("backbone_deeplab2", _deeplab2_backbone, (2, 65, 49, 3), (1, 81, 97, 3)),
    Case("backbone_convolutional", _convolutional_backbone, (2, 65, 49, 3), (1, 81, 97, 3)),
    Case("backbone_wide", _wide_backbone, (2, 65, 49, 3), (1, 81, 97, 3)),
    Case("backbone_stand_alone", _stand_alone_backbone, (2, 65, 49, 3), (1, 81, 97, 3)),
    Case("classifier", _classifier, (2, 65, 81, 3), (1, 97, 113, 3), has_config=False, scale=100),
    Case("panoptic_deeplab", _panoptic_deeplab, (2, 65, 81, 3), (1, 97, 113, 3), has_config=False, scale=100),
]


def _inputs(case: Case, other: bool = False) -> Any:
    shapes = case.other_shapes if other else case.shapes
    if isinstance(shapes, dict):
        return {key: random_tensor(shape, i) for i, (key, shape) in enumerate(shapes.items())}
    return case.scale * random_tensor(shapes)


def _function_of_any_size(layer: tf_keras.layers.Layer, shapes: Shapes) -> Callable:
    """The layer as a function of inputs whose batch, height and width are not known."""
    if isinstance(shapes, dict):
        spec = {key: tf.TensorSpec([None, None, None, shape[-1]]) for key, shape in shapes.items()}
    else:
        spec = tf.TensorSpec([None, None, None, shapes[-1]])
    # Without autograph, which this library does not need, tracing is several times faster.
    return tf.function(lambda x: layer(x), input_signature=[spec], autograph=False)


def _make(case: Case) -> tuple[tf_keras.layers.Layer, Any]:
    """A layer with weights off their initial values, and an input."""
    tf_keras.utils.set_random_seed(0)
    layer, inputs = case.make(), _inputs(case)
    layer(inputs)
    vary_weights(layer)
    if isinstance(layer, tf_keras.Model):
        # A deep network whose moving statistics are not those of its features has saturated attention, and amplifies
        # rounding. The momentum of the cases is 0, so that one step sets the statistics.
        layer(inputs, training=True)
    return layer, inputs


def check_graph_and_xla_equal_eager(case: Case) -> None:
    """The same numbers whichever way TensorFlow runs the layer."""
    layer, inputs = _make(case)
    expected = layer(inputs)
    for jit_compile in (False, True):
        function = tf.function(layer, jit_compile=jit_compile, autograph=False)
        assert_nest_close(function(inputs), expected)


def check_config_round_trip(case: Case) -> None:
    """A layer comes back from its JSON with the same arguments and, given the same weights, the same output."""
    layer, inputs = _make(case)
    config = json.dumps(tf_keras.saving.serialize_keras_object(layer))
    copy = tf_keras.saving.deserialize_keras_object(json.loads(config))
    assert type(copy) is type(layer)
    assert (
        json.loads(json.dumps(tf_keras.saving.serialize_keras_object(copy)))["config"] == json.loads(config)["config"]
    )
    assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()
    copy(inputs)
    assert [w.shape for w in copy.weights] == [w.shape for w in layer.weights]
    copy.set_weights(layer.get_weights())
    assert_nest_close(copy(inputs), layer(inputs), 1e-6)


def check_unknown_sizes_and_saved_model(case: Case, folder: str) -> None:
    """One traced function serves every batch, height and width, and again when it comes back from a SavedModel."""
    layer, _ = _make(case)
    module = tf.Module()
    module.weights = layer.weights  # not the layer, which Keras would trace for a second time
    module.run = _function_of_any_size(layer, case.shapes)
    tf.saved_model.save(module, folder)
    loaded = tf.saved_model.load(folder)
    for other in (False, True):
        inputs = _inputs(case, other)
        expected = layer(inputs)
        assert_nest_close(module.run(inputs), expected)
        assert_nest_close(loaded.run(inputs), expected)


def check_mixed_bfloat16(case: Case) -> None:
    """Under mixed precision variables stay float32, and the output is about that of float32."""
    layer, inputs = _make(case)
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        half, _ = _make(case)
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    assert all(w.dtype == tf.float32 for w in half.trainable_weights)
    half.set_weights(layer.get_weights())
    deep = isinstance(layer, tf_keras.Model)
    for training in (False, True):
        actual = tf.nest.flatten(half(inputs, **_training(half, training)))
        assert all(np.isfinite(tf.cast(x, tf.float32)).all() for x in actual)
        if not training:
            for x, expected in zip(actual, tf.nest.flatten(layer(inputs))):
                difference = tf.reduce_mean(tf.abs(tf.cast(x, tf.float32) - expected))
                assert difference < (0.2 if deep else 0.05) * tf.math.reduce_std(expected)


def check_other_size_after_build(case: Case) -> None:
    """A layer forgets the size it was built on: another gives no new weight and the output of a fresh layer."""
    layer, _ = _make(case)
    count = len(layer.weights)
    inputs = _inputs(case, other=True)
    output = layer(inputs)
    assert len(layer.weights) == count
    fresh = case.make()
    fresh(inputs)
    fresh.set_weights(layer.get_weights())
    assert_nest_close(fresh(inputs), output, 1e-6)


def check_training(case: Case) -> None:
    """Training moves every moving statistic, and every weight but the beta of the logits has a gradient."""
    layer, inputs = _make(case)
    vary_weights(layer, seed=1)
    statistics = [w for w in layer.non_trainable_weights if "moving_" in w.name]
    before = [w.numpy() for w in statistics]
    with tf.GradientTape() as tape:
        outputs = tf.nest.flatten(layer(inputs, **_training(layer, True)))
        loss = tf.add_n([tf.reduce_sum(x * random_tensor(x.shape, i)) for i, x in enumerate(outputs)])
    for weight, gradient in zip(layer.trainable_weights, tape.gradient(loss, layer.trainable_weights)):
        if weight.name.endswith("logit_norm/beta:0"):
            assert gradient is None  # it cancels in the softmax
            continue
        assert gradient is not None, weight.name
        gradient = tf.convert_to_tensor(gradient)
        assert np.isfinite(gradient).all(), weight.name
        assert tf.reduce_any(gradient != 0), weight.name
    for weight, value in zip(statistics, before):
        assert (weight.numpy() != value).any(), weight.name


def check_folding(case: Case) -> None:
    """Folded batch normalisations leave the output as it is, and no trace in the graph, which has no other weights."""
    layer, inputs = _make(case)
    expected = layer(inputs)
    count = sum(isinstance(m, tf_keras.layers.BatchNormalization) for m in (layer, *layer.submodules))
    normalization.fold_batch_norm(layer)
    assert_nest_close(layer(inputs), expected)
    function = _function_of_any_size(layer, case.shapes)
    assert_nest_close(function(inputs), expected)
    graph = function.get_concrete_function().graph
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for f in definition.library.function for node in f.node_def)]
    assert not any("FusedBatchNorm" in node.op or node.op == "Rsqrt" for node in nodes)
    names = [weight.name for weight in layer.weights]
    assert not any(name in weight for weight in names for name in ("moving_", "gamma"))
    # What a SavedModel would hold; the export's own tests save whole folded models.
    assert {id(variable) for variable in graph.variables} <= {id(weight) for weight in layer.weights}
    if count:
        with pytest.raises(ValueError, match="inference only"):
            layer(inputs, training=True)


def _training(layer: tf_keras.layers.Layer, training: bool) -> dict[str, bool]:
    return (
        {} if isinstance(layer, (SqueezeExcite, GlobalContext)) else {"training": training}
    )  # it is the same in training
