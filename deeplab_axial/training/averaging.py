# SPDX-License-Identifier: Apache-2.0
"""An exponential moving average of the weights, for evaluation and export.

The optimizers of tf_keras have one of their own (`use_ema`), but neither the legacy ones nor `Lookahead` do: what it
wraps would average the fast weights from before the step of the slow ones. It also starts from the weights that the
optimizer was built with, not from those of an initial checkpoint.
"""

from collections.abc import Sequence

import tensorflow as tf
import tf_keras

from deeplab_axial.training import checkpoint_files, checkpoints

# In a checkpoint.
ROOT = "average"


class Average:
    """average <- decay * average + (1 - decay) * weight, after each step.

    Starts from the weights as they are at the first update. Moving statistics of batch normalisations, which are
    averages already, are not averaged.

    Args:
      weights: what is averaged.
      decay: in (0, 1).

    Attributes:
      state: the averages, in the order of the weights, and whether there are any yet, for checkpoints.

    Raises:
      ValueError: `decay` is out of range.
    """

    def __init__(self, weights: Sequence[tf.Variable], decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"decay must lie in (0, 1). Received: {decay}. Use 0.9999, or no average.")
        self.decay = decay
        self._weights = list(weights)
        self._values = [_like(weight) for weight in weights]
        self._has_started = tf.Variable(False, trainable=False, name="has_started")
        self.state = _state(self._values, self._has_started)

    def start(self) -> None:
        """Takes the weights for the averages, unless there are some; before a step, in replica context."""
        pairs = list(zip(self._values, self._weights))
        tf.cond(self._has_started, lambda: None, lambda: _assign(pairs))
        self._has_started.assign(True)

    def update(self) -> None:
        """Takes in the weights after a step, in replica context, where each replica updates its own copies."""
        for value, weight in zip(self._values, self._weights):
            value.assign_add((1 - self.decay) * (weight - value))

    def swap(self) -> None:
        """Exchanges weights and averages; before the first step there are no averages, and nothing is done."""
        if not self._has_started.numpy():
            return
        for value, weight in zip(self._values, self._weights):
            kept = tf.identity(weight)
            weight.assign(value)
            value.assign(kept)


def restore_for_inference(path: str, model: tf_keras.Model, what: str) -> int:
    """Restores the weights that a checkpoint has for inference: the averages, if there are any.

    Args:
      path: prefix of the checkpoint.
      model: built.
      what: where the path comes from, for messages, as "--checkpoint".

    Returns:
      The step of the checkpoint.

    Raises:
      InputError: the checkpoint is missing or damaged, or does not fit the model.
    """
    step = tf.Variable(0, dtype=tf.int64)
    checkpoints.restore(path, {"model": model, "step": step}, what)
    if any(n.startswith(f"{ROOT}/") for n in checkpoint_files.open_reader(path).get_variable_to_shape_map()):
        has_started = tf.Variable(False, trainable=False)
        checkpoints.restore(path, {ROOT: tf.train.Checkpoint(has_started=has_started)}, what)
        if has_started.numpy():
            checkpoints.restore(path, {ROOT: _state(model.trainable_variables, has_started)}, what)
    return int(step.numpy())


def _state(values: Sequence[tf.Variable], has_started: tf.Variable) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(values=list(values), has_started=has_started)


def _like(weight: tf.Variable) -> tf.Variable:
    name = f"{weight.name.split(':')[0]}/average"
    return tf.Variable(tf.zeros(weight.shape, weight.dtype), trainable=False, name=name)


def _assign(pairs: Sequence[tuple[tf.Variable, tf.Variable]]) -> None:
    for value, weight in pairs:
        value.assign(weight)
