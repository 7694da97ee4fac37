# SPDX-License-Identifier: Apache-2.0
"""Single layers as programs of XLA: attention along both axes, and the convolution of as many multiply-adds."""

import contextlib
import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras

from deeplab_axial import multiply_adds
from deeplab_axial.errors import InputError
from deeplab_axial.layers import axial_kernel, normalization, target
from deeplab_axial.layers.axial_attention import AxialAttention2D
from deeplab_axial.layers.convolution import ConvBN
from deeplab_axial.tpu_check.step import Program


class Layer(NamedTuple):
    """A layer of attention, height and width, and what it is applied to.

    Attributes:
      shape: of its input, [B, H, W, C].
      config: of `AxialAttention2D`, as JSON, without its name.
      count: layers of the network that are the same.
    """

    shape: tuple[int, int, int, int]
    config: str
    count: int = 1

    @property
    def attention(self) -> dict[str, Any]:
        """Keyword arguments of both axes."""
        return json.loads(self.config)["attention"]

    @property
    def stride(self) -> int:
        """By which the layer makes the map smaller."""
        return json.loads(self.config).get("stride", 1)


def find(model: tf_keras.Model, image_shape: tuple[int, int, int, int]) -> list[Layer]:
    """The distinct layers of axial attention in a network, in the order in which they are applied.

    Args:
      model: built.
      image_shape: [B, H, W, 3].
    """
    found: dict[tuple, Layer] = {}
    with _called(model) as calls:
        trace = tf.autograph.experimental.do_not_convert(lambda images: model(images, training=False))
        trace(tf_keras.Input(batch_input_shape=image_shape))
    for layer, shape in calls:
        config = {name: value for name, value in layer.get_config().items() if name not in ("name", "dtype")}
        key = shape, json.dumps(config, sort_keys=True, default=dict)
        before = found.get(key)
        found[key] = before._replace(count=before.count + 1) if before else Layer(*key)
    return list(found.values())


@contextlib.contextmanager
def _called(model: tf_keras.Model) -> Iterator[list[tuple[AxialAttention2D, tuple[int, ...]]]]:
    """Inside, the layers of attention that are called are noted, and what they are called with."""
    calls: list[tuple[AxialAttention2D, tuple[int, ...]]] = []
    layers = [layer for layer in model.submodules if isinstance(layer, AxialAttention2D)]

    def noting(layer, call):
        def noted(inputs, training=False):
            calls.append((layer, tuple(inputs.shape)))
            return call(inputs, training=training)

        return noted

    for layer in layers:
        layer.call = noting(layer, layer.call)
    try:
        yield calls
    finally:
        for layer in layers:
            del layer.call


def lower_attention(layer: Layer, training: bool, chip: str, kernel: str | None = None) -> Program:
    """The layer alone as a program: inference with folded batch normalisation, or forward and backward.

    Args:
      layer: what to lower.
      training: whether the backward pass, to the input and all weights, and the statistics of the batch take part.
      chip: "v5e".
      kernel: "AUTO", "XLA" or "PALLAS" instead of what the layer's config says.
    """
    config = json.loads(layer.config)
    if kernel is not None:
        config["attention"]["kernel"] = kernel
    return _lower(AxialAttention2D(**config), layer.shape, training, chip)


def lower_convolution(layer: Layer, training: bool, chip: str) -> Program:
    """A 3 x 3 convolution and its batch normalisation, of as many multiply-adds as the forward pass of a layer."""
    b, h, w, _ = layer.shape
    filters = num_filters(layer)
    convolution = ConvBN(filters, 3, activate=False)
    return _lower(convolution, (b, h, w, filters), training, chip)


def num_filters(layer: Layer) -> int:
    """Channels, a multiple of 8, of the convolution of as many multiply-adds."""
    b, h, w, _ = layer.shape
    return max(8, round(math.sqrt(count_multiply_adds(layer) / (9 * b * h * w)) / 8) * 8)


def count_multiply_adds(layer: Layer) -> int:
    """Of the forward pass."""
    config = json.loads(layer.config)
    config["attention"] |= {"logits_at_once": 2**62, "kernel": "XLA"}
    attention = AxialAttention2D(**config)
    function = tf.function(lambda x: attention(x), autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec(layer.shape, attention.compute_dtype)).graph
    return sum(multiply_adds.by_operation(graph).values())


def _lower(module: tf_keras.layers.Layer, shape: tuple[int, ...], training: bool, chip: str) -> Program:
    with target.assume_accelerator(chip):
        module_input = tf_keras.Input(batch_input_shape=shape, dtype=module.compute_dtype)
        tf_keras.Model(module_input, module(module_input))
        if not training:
            normalization.fold_batch_norm(module)
        function = _gradients(module) if training else lambda x: module(x, training=False)
        compiled = tf.function(tf.autograph.experimental.do_not_convert(function), jit_compile=True, autograph=False)
        specification = tf.TensorSpec(shape, module.compute_dtype)
        try:
            kernel_flops = axial_kernel.flops_in(compiled.get_concrete_function(specification).graph)
            hlo = compiled.experimental_get_compiler_ir(specification)(stage="hlo_serialized")
        except tf.errors.OpError as error:
            raise InputError(f"TensorFlow cannot compile the layer with XLA: {error.message}") from error
    return Program(hlo, shape[0], 0, 0, kernel_flops)


def _gradients(module: tf_keras.layers.Layer):
    def function(x: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(tf.cast(module(x, training=True), tf.float32)))
        return tape.gradient(loss, [x, *module.trainable_variables], unconnected_gradients="zero")

    return function


def attention_layer(
    shape: tuple[int, int, int, int], key_depth: int, value_depth: int, span: int | None = None, **options: Any
) -> Layer:
    """A layer of given depths, other options (of `AxialAttention`) as they are by default."""
    attention = {"key_depth": key_depth, "value_depth": value_depth, "span": span, **options}
    return Layer(shape, json.dumps({"attention": attention}, sort_keys=True))
