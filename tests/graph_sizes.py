# SPDX-License-Identifier: Apache-2.0
"""How large the tensors of a graph are: what its memory grows with, without running it."""

from collections.abc import Iterator

from tensorflow.core.framework import tensor_shape_pb2


def tensor_sizes(concrete_function) -> Iterator[int]:
    """Numbers of elements of all tensors of a traced function, those of the functions that it calls included.

    Args:
      concrete_function: traced with static shapes.

    Yields:
      A number for each tensor whose shape is known.
    """
    graph = concrete_function.graph.as_graph_def(add_shapes=True)
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    for node in nodes:
        for shape in node.attr["_output_shapes"].list.shape:
            yield _elements(shape)


def _elements(shape: tensor_shape_pb2.TensorShapeProto) -> int:
    if shape.unknown_rank:
        return 0
    number = 1
    for dim in shape.dim:
        number *= max(dim.size, 0)
    return number
