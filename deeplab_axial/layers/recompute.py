# SPDX-License-Identifier: Apache-2.0
"""Activation checkpointing: parts of a network whose inside is computed again in the backward pass (Chen et al. 2016).

In training a network keeps what every operation will need for its gradient. A recomputed part keeps its inputs alone.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

# Of the thread, because a strategy's replicas are threads that take turns.
_state = threading.local()


def is_recomputing() -> bool:
    """Whether this thread evaluates a part for the second time, where a layer must not update its state again."""
    return getattr(_state, "recomputing", False)


@contextlib.contextmanager
def _recomputing() -> Iterator[None]:
    before = is_recomputing()
    _state.recomputing = True
    try:
        yield
    finally:
        _state.recomputing = before


def recompute(function: Callable[..., tf.Tensor], *inputs: tf.Tensor) -> tf.Tensor:
    """Evaluates a function and keeps nothing but its inputs for the gradient, which evaluates it again.

    Less memory for one more forward pass through the function. It may be nested. The memory is saved in graphs alone:
    without tf.function the gradients are right, but a tape keeps everything.

    Args:
      function: inputs -> one tensor. It must compute the same both times: seeds are drawn before, not inside. Its
        variables exist, and gradients flow to them and to the inputs, not to other tensors that it captures. What it
        updates must heed `is_recomputing`, as the normalisations of this package do.
      *inputs: of floating-point numbers.

    Returns:
      function(*inputs).
    """

    scope = tf.get_current_name_scope()  # so that profiles and compilers name the layer in the second pass, too

    @tf.custom_gradient
    def evaluate(*inputs):
        def gradient(upstream, variables=()):
            # Without this a compiler finds that the second pass repeats the first, and keeps the results of that.
            again = _only_after([upstream], inputs)
            with tf.GradientTape() as tape, tf.name_scope(f"{scope}/") if scope else contextlib.nullcontext():
                tape.watch([again, list(variables)])
                with _recomputing():
                    y = function(*again)
            sources = [*again, *variables]
            values = tape.gradient(y, sources, output_gradients=upstream, unconnected_gradients="zero")
            values = [tf.convert_to_tensor(value) for value in values]  # a gather leaves slices
            of_variables = values[len(again) :]
            # Without this a compiler may leave the gradients of variables, and all that they need, until the very end.
            of_inputs = _only_after(of_variables, values[: len(again)])
            # Without variables TensorFlow expects no second part.
            return (of_inputs, of_variables) if variables else of_inputs

        return function(*inputs), gradient

    return evaluate(*inputs)


def _only_after(earlier: Sequence[tf.Tensor], tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The tensors, as numbers that are known only once the earlier ones are.

    Nothing is greater than infinity, but compilers do not reason about it as they do about products with 0.
    """
    if not earlier:
        return list(tensors)
    never = tf.reduce_any([tf.reduce_any(tf.reshape(x, [-1])[:1] > float("inf")) for x in earlier])
    return [x + tf.cast(never, x.dtype) for x in tensors]
