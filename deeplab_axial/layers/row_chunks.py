# SPDX-License-Identifier: Apache-2.0
"""Functions of many independent rows, evaluated a few rows at a time so that what lies between stays in the cache."""

from collections.abc import Callable, Mapping

import tensorflow as tf

from deeplab_axial.layers import recompute, target

Tensors = Mapping[str, tf.Tensor]
# Two, so that one thread of the executor has work while the other waits.
_CHUNKS_AT_ONCE = 2


def rows_within(limit: int, row: int | tf.Tensor) -> int | tf.Tensor:
    """How many rows of a size fit a limit; at least 1."""
    if isinstance(row, int):
        return max(1, limit // row)
    return tf.maximum(1, min(limit, tf.int32.max) // row)


def map_rows(
    function: Callable[[Tensors, Tensors], tf.Tensor],
    rows: Tensors,
    shared: Tensors,
    rows_at_once: int | tf.Tensor,
    dtype: tf.DType,
) -> tf.Tensor:
    """Evaluates a function that treats each row alone.

    Nothing inside the function is kept for the gradient: the backward pass evaluates it again, chunk by chunk. So both
    passes need the memory of one chunk (of two on a CPU), however many rows there are. Only on a CPU, where chunks are
    small, the inside of a single chunk is kept.

    Args:
      function: (rows, shared) -> [S, ...]; row i of its result depends on row i of `rows` and on `shared` alone.
        Gradients flow to these arguments, not to tensors that the function captures.
      rows: tensors [S, ...], all of the same S.
      shared: tensors that all rows share.
      rows_at_once: c, rows of a chunk at most.
      dtype: of the result.

    Returns:
      [S, ...].
    """
    first = next(iter(rows.values()))
    count = first.shape[0] if first.shape[0] is not None else tf.shape(first)[0]
    if isinstance(count, int) and isinstance(rows_at_once, int):
        chunks = max(1, -(-count // rows_at_once))
        if chunks == 1:
            return _in_one(function, rows, shared) if target.is_accelerator() else function(rows, shared)
        # Chunks that come out even need no copy with rows of zeros behind.
        chunks = next((n for n in range(chunks, 2 * chunks) if count % n == 0), chunks)
    else:
        chunks = tf.maximum(1, (count + rows_at_once - 1) // rows_at_once)
    size = (count + chunks - 1) // chunks  # chunks of even size, so that little is filled up

    @tf.custom_gradient
    def evaluate(*tensors):
        whole = {name: _cut(x, chunks, size) for name, x in zip(rows, tensors)}
        same = dict(zip(shared, tensors[len(rows) :]))

        def gradient(upstream):
            of_rows, of_shared = _backward(function, whole, same, _cut(upstream, chunks, size), chunks)
            return *(_join(x, count) for x in of_rows), *of_shared

        result = tf.map_fn(
            lambda index: function(_chunk(whole, index), same),
            tf.range(chunks),
            fn_output_signature=dtype,
            parallel_iterations=_CHUNKS_AT_ONCE,
        )
        return _join(result, count), gradient

    return evaluate(*rows.values(), *shared.values())


def _in_one(function, rows: Tensors, shared: Tensors) -> tf.Tensor:
    """Evaluates the function once for all rows, and again in the backward pass."""

    def evaluate(*tensors):
        return function(dict(zip(rows, tensors)), dict(zip(shared, tensors[len(rows) :])))

    return recompute.recompute(evaluate, *rows.values(), *shared.values())


def _backward(function, whole: Tensors, same: Tensors, upstream: tf.Tensor, chunks: int | tf.Tensor) -> tuple:
    """Gradients of the rows, chunk by chunk, and of what they share, summed over the chunks in float32."""
    arrays = [tf.TensorArray(x.dtype, chunks, element_shape=x.shape[1:]) for x in whole.values()]
    sums = [tf.zeros(tf.shape(x)) for x in same.values()]

    def step(index, arrays, sums):
        here = _chunk(whole, index)
        with tf.GradientTape() as tape:
            tape.watch([here, same])
            y = function(here, same)
        sources = [*here.values(), *same.values()]
        values = tape.gradient(y, sources, output_gradients=upstream[index], unconnected_gradients="zero")
        arrays = [array.write(index, value) for array, value in zip(arrays, values)]
        return index + 1, arrays, [a + tf.cast(b, tf.float32) for a, b in zip(sums, values[len(arrays) :])]

    _, arrays, sums = tf.while_loop(
        lambda index, *_: index < chunks, step, (tf.constant(0), arrays, sums), parallel_iterations=_CHUNKS_AT_ONCE
    )
    return [array.stack() for array in arrays], [tf.cast(a, x.dtype) for a, x in zip(sums, same.values())]


def _chunk(whole: Tensors, index: tf.Tensor) -> dict[str, tf.Tensor]:
    return {name: x[index] for name, x in whole.items()}


def _cut(x: tf.Tensor, chunks: int | tf.Tensor, size: int | tf.Tensor) -> tf.Tensor:
    """[S, ...] -> [chunks, size, ...], filled up with zeros."""
    count = x.shape[0] if x.shape[0] is not None else tf.shape(x)[0]
    behind = chunks * size - count
    if not isinstance(behind, int) or behind > 0:
        x = tf.pad(x, [[0, behind], *([[0, 0]] * (x.shape.rank - 1))])
    return tf.reshape(x, [chunks, size, *(s if s is not None else tf.shape(x)[i] for i, s in enumerate(x.shape) if i)])


def _join(x: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    """[chunks, size, ...] -> [S, ...], what was filled up cut off."""
    rest = [s if s is not None else tf.shape(x)[i] for i, s in enumerate(x.shape) if i > 1]
    return tf.reshape(x, [-1, *rest])[:count]
