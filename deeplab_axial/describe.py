# SPDX-License-Identifier: Apache-2.0
"""What a network consists of: shapes, parameters and multiply-adds of its parts, read off its real graph."""

import collections
import math
import re
from typing import NamedTuple

import tensorflow as tf
import tf_keras

# Moving statistics are weights, but no parameters.
_NO_PARAMETERS = ("moving_mean", "moving_variance")


class Part(NamedTuple):
    """A part of the network."""

    name: str
    output: str
    parameters: int
    multiply_adds: int


def describe(model: tf_keras.Model, height: int, width: int) -> list[Part]:
    """The parts of a Panoptic-DeepLab, in the order of the data.

    Args:
      model: a built `PanopticDeepLab`.
      height: of the image, pixels.
      width: of the image, pixels.

    Returns:
      Stem, stages, decoders and heads, each with the shape of its output; multiply-adds are for one image.
    """
    function = tf.function(lambda images: _outputs(model, images), autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec([1, height, width, 3])).graph
    shapes = {name: _shape(tensor) for name, tensor in graph.structured_outputs.items()}
    costs: dict[str, int] = collections.Counter()
    for op in graph.get_operations():
        costs[_part(op.name)] += multiply_adds(op)
    parameters: dict[str, int] = collections.Counter()
    for weight in model.weights:
        if not any(name in weight.name for name in _NO_PARAMETERS):
            parameters[_part(weight.name)] += math.prod(weight.shape)
    names = [*shapes, *sorted(set(costs) - set(shapes))]
    parts = [Part(name, shapes.get(name, ""), parameters[name], costs[name]) for name in names]
    return [part for part in parts if part.parameters or part.multiply_adds]


def multiply_adds(op: tf.Operation) -> int:
    """Multiply-adds of a convolution, matrix product or einsum; 0 for any other operation.

    Raises:
      ValueError: a shape is not known.
    """
    if op.type not in ("Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2", "Einsum"):
        return 0
    shapes = [tuple(tensor.shape.as_list()) for tensor in (*op.inputs, op.outputs[0])]
    if any(None in shape for shape in shapes):
        raise ValueError(f"The shapes of {op.name} must be known to count its multiply-adds. Received: {shapes}")
    outputs = math.prod(shapes[-1])
    if op.type == "Conv2D":
        kernel_height, kernel_width, channels, _ = shapes[1]
        return outputs * kernel_height * kernel_width * channels
    if op.type == "DepthwiseConv2dNative":
        return outputs * shapes[1][0] * shapes[1][1]
    if op.type == "Einsum":
        terms = re.split(",|->", op.get_attr("equation").decode())
        sizes = {letter: size for term, shape in zip(terms, shapes) for letter, size in zip(term, shape)}
        return math.prod(sizes.values())
    transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
    return outputs * shapes[0][-2 if transposed else -1]


def table(parts: list[Part]) -> str:
    """The parts and their sums as text."""
    total = Part("total", "", sum(p.parameters for p in parts), sum(p.multiply_adds for p in parts))
    lines = [f"{'part':<20} {'output':>20} {'parameters':>14} {'multiply-adds':>16}"]
    for part in (*parts, total):
        lines.append(f"{part.name:<20} {part.output:>20} {part.parameters:>14,} {part.multiply_adds / 1e6:>14,.2f} M")
    return "\n".join(lines)


def _outputs(model: tf_keras.Model, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Output of each part."""
    endpoints = model.backbone(images)
    outputs = {"stem": endpoints["res1"], **{f"stage{i}": endpoints[f"res{i}"] for i in range(2, 6)}}
    outputs["semantic_decoder"] = model.semantic_decoder(endpoints)
    outputs["semantic_head"] = model.semantic_head(outputs["semantic_decoder"])
    if model.instance_decoder is not None:
        outputs["instance_decoder"] = model.instance_decoder(endpoints)
        outputs["center_head"] = model.center_head(outputs["instance_decoder"])
        outputs["offset_head"] = model.offset_head(outputs["instance_decoder"])
    return outputs


def _part(name: str) -> str:
    """The part that an operation or a weight belongs to, from the scopes in its name."""
    for scope in name.split("/"):
        match = re.match(r"(stage\d)_block\d+$|(stem|\w+_decoder|\w+_head)$", scope)
        if match:
            return match.group(1) or match.group(2)
    return "other"


def _shape(tensor: tf.Tensor) -> str:
    return " x ".join(str(size) for size in tensor.shape[1:])
