# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds of a graph, read off its operations: convolutions, matrix products and einsums, in loops too."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

Shape = tuple[int | None, ...] | None

_COUNTED = ("Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2", "Einsum")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_LOOPS = ("While", "StatelessWhile")


def by_operation(graph: tf.Graph) -> dict[str, int]:
    """Multiply-adds of each operation of a graph that has any, under its name.

    Additions, normalisations, softmax, pooling and resizing do not count, as in the literature. A loop counts its body
    once for each iteration, a call what it calls.

    Args:
      graph: its shapes must be known where something is counted, and so must the iterations of loops (those of
        `tf.map_fn` are, for a known number of elements).

    Raises:
      ValueError: a shape or a number of iterations is not known.
    """
    definition = graph.as_graph_def(add_shapes=True)
    functions = {function.signature.name: function for function in definition.library.function}
    return _count(definition.node, {}, functions)


def _count(nodes: Sequence[Any], shapes: dict[str, list[Shape]], functions: Mapping[str, Any]) -> dict[str, int]:
    """Counts the NodeDefs of a graph or of a function; `shapes` holds those of the arguments of a function."""
    by_name = {node.name: node for node in nodes}
    shapes |= {name: [_shape(s) for s in node.attr["_output_shapes"].list.shape] for name, node in by_name.items()}
    costs = {}
    for name, node in by_name.items():
        if node.op in _COUNTED:
            # "name:index" in a graph, "name:output:index" in a function; the operations that feed a product have one
            # output, or one list of outputs.
            inputs = [i.split(":") for i in node.input if not i.startswith("^")]
            costs[name] = _product(node, [shapes[i[0]][int(i[-1]) if len(i) > 1 else 0] for i in inputs])
        elif node.op in _CALLS:
            costs[name] = _function(node.attr["f"].func.name, functions)
        elif node.op in _LOOPS:
            body = _function(node.attr["body"].func.name, functions)
            costs[name] = body and body * _iterations(node, by_name)
    return {name: cost for name, cost in costs.items() if cost}


def _function(name: str, functions: Mapping[str, Any]) -> int:
    function = functions[name]
    arguments = [argument.name for argument in function.signature.input_arg]
    shapes = (_shape(shape) for shape in function.attr["_input_shapes"].list.shape)
    return sum(_count(function.node_def, {a: [s] for a, s in zip(arguments, shapes)}, functions).values())


def _iterations(loop: Any, by_name: Mapping[str, Any]) -> int:
    """The most iterations of a loop, its second input: all of them, for `tf.map_fn`."""
    limit = by_name.get(loop.input[1].split(":")[0])
    if limit is None or limit.op != "Const" or tf.make_ndarray(limit.attr["value"].tensor) < 0:
        raise ValueError(
            "The iterations of a loop must be known to count its multiply-adds; give tf.while_loop its "
            f"maximum_iterations. Received: {loop.name}"
        )
    return int(tf.make_ndarray(limit.attr["value"].tensor))


def _product(node: Any, inputs: Sequence[Shape]) -> int:
    output = _shape(node.attr["_output_shapes"].list.shape[0])
    if any(shape is None or None in shape for shape in (*inputs, output)):
        raise ValueError(
            f"The shapes of {node.name} must be known to count its multiply-adds. Received: {[*inputs, output]}"
        )
    if node.op == "Conv2D":
        kernel_height, kernel_width, channels, _ = inputs[1]
        return math.prod(output) * kernel_height * kernel_width * channels
    if node.op == "DepthwiseConv2dNative":
        return math.prod(output) * inputs[1][0] * inputs[1][1]
    if node.op == "Einsum":
        terms = re.split(",|->", node.attr["equation"].s.decode())
        sizes = {letter: size for term, shape in zip(terms, (*inputs, output)) for letter, size in zip(term, shape)}
        return math.prod(sizes.values())
    transposed = node.attr["transpose_a" if node.op == "MatMul" else "adj_x"].b
    return math.prod(output) * inputs[0][-2 if transposed else -1]


def _shape(shape: Any) -> Shape:
    """A TensorShapeProto as a tuple; None where the rank is not known."""
    if shape.unknown_rank:
        return None
    return tuple(None if dimension.size < 0 else dimension.size for dimension in shape.dim)
