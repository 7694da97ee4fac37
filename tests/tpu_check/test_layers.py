# SPDX-License-Identifier: Apache-2.0
"""Layers alone: which a network has, and what the compiler of Cloud TPU expects of four of them."""

import pytest
import tensorflow as tf
import tf_keras

from deeplab_axial import builders, config
from deeplab_axial.backbones import presets
from deeplab_axial.errors import InputError
from deeplab_axial.tpu_check import layers, process, topologies
from tests.cli import commands
from tests.tpu_check.installed import needs_compiler

V5E = topologies.parse("v5e:2x2")
# name -> layer, whether it trains, cycles on v5e in bfloat16, as benchmarks/results has them; 5 % more is too many.
L4 = layers.attention_layer((8, 65, 65, 512), 256, 512)
S2 = layers.attention_layer((1, 257, 257, 64), 32, 64)
SHAPES = {
    "L, stage 4": (L4, False, 5_928_629),
    "S, stage 2": (S2, False, 5_489_355),
    "S, stage 2, span 65": (layers.attention_layer((1, 257, 257, 64), 32, 64, 65), False, 3_800_245),
    "S, stage 2, training": (S2, True, 25_222_622),
}


@pytest.mark.slow
def test_finds_the_distinct_layers_of_a_network():
    options = config.load(commands.TINY, backbone_names=presets.NAMES)
    model = builders.build_model(options)
    found = layers.find(model, (1, 65, 97, 3))
    assert sum(layer.count for layer in found) == sum(
        isinstance(layer, layers.AxialAttention2D) for layer in model.submodules
    )
    assert len({(layer.shape, layer.config) for layer in found}) == len(found)
    assert found[0].shape[0] == 1
    assert found[0].shape[1] < found[0].shape[2]
    # The network is as it was.
    assert all("call" not in vars(layer) for layer in model.submodules if isinstance(layer, layers.AxialAttention2D))


def test_the_convolution_has_as_many_multiply_adds():
    layer = layers.attention_layer((1, 33, 33, 32), 16, 32)
    b, h, w, _ = layer.shape
    filters = layers.num_filters(layer)
    assert 9 * b * h * w * filters**2 == pytest.approx(layers.count_multiply_adds(layer), rel=0.4)
    assert filters % 8 == 0


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", SHAPES)
def test_cycles(name):
    layer, trains, measured = SHAPES[name]
    before = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        program = layers.lower_attention(layer, trains, "v5e", "PALLAS")
    finally:
        tf_keras.mixed_precision.set_global_policy(before)
    result = process.compile_program(program, V5E)
    assert not result.error
    assert not result.no_cycles
    assert result.expected.total <= 1.05 * measured


def test_a_layer_that_xla_cannot_compile_is_said(monkeypatch):
    def call(x, **_):
        raise tf.errors.InvalidArgumentError(None, None, "no such thing")

    class Layer(tf_keras.layers.Layer):
        def call(self, inputs, training=False):
            return call(inputs) if training else inputs

    with pytest.raises(InputError, match="cannot compile the layer with XLA"):
        layers._lower(Layer(), (1, 3, 3, 8), True, "")
