# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation, of features and of attention logits."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from deeplab_axial.layers import recompute


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class BatchNormalization(tf_keras.layers.BatchNormalization):
    """Batch normalisation of Keras, whose moving statistics a recomputation (see `recompute`) leaves alone.

    Attributes:
      is_held: whether it computes in training as it does in inference, see `hold_statistics`.
    """

    is_held = False

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return super().call(inputs, training=False if self.is_held else training)

    def add_update(self, updates: Any) -> None:
        if not recompute.is_recomputing():
            super().add_update(updates)


def batch_norm(norm: Mapping[str, Any] | None = None, **kwargs) -> BatchNormalization:
    """A batch normalisation over the last axis.

    Args:
      norm: keyword arguments that a whole network shares: `momentum`, `epsilon`, `synchronized`. None: those of Keras.
      **kwargs: arguments of this one, as `gamma_initializer` or `name`.
    """
    return BatchNormalization(**{**(norm or {}), **kwargs})


def hold_statistics(network: tf_keras.layers.Layer) -> None:
    """Has every batch normalisation compute with its moving statistics in training, too, and leave them as they are.

    Weights stay trainable. Call it before the network is traced.

    Args:
      network: a layer or model.
    """
    for module in (network, *network.submodules):
        if isinstance(module, (BatchNormalization, LogitNormalization)):
            module.is_held = True


def fold_batch_norm(network: tf_keras.layers.Layer) -> None:
    """Folds every batch normalisation into the weights beside it, in place: into kernels, biases and logit factors.

    The network computes the same up to rounding, with fewer operations, and can no longer be trained or restored from
    checkpoints.

    Args:
      network: a built layer or model.

    Raises:
      ValueError: a layer has a batch normalisation that nothing folds.
    """
    for module in (network, *network.submodules):
        if hasattr(module, "fold_batch_norm"):
            module.fold_batch_norm()
    kinds = (tf_keras.layers.BatchNormalization, LogitNormalization)
    left = [module.name for module in network.submodules if isinstance(module, kinds)]
    if left:
        raise ValueError(f"Every layer with a batch normalisation must fold it. Left: {', '.join(left)}")


def scale_and_shift(norm: tf_keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """What a batch normalisation does in inference: x * scale + shift, [C] each, float64."""
    gamma, beta, mean, variance = (
        np.float64(v.numpy()) for v in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return scale, beta - mean * scale


def constant(value: np.ndarray | tf.Tensor, name: str) -> tf.Variable:
    """A weight that folding made."""
    return tf.Variable(tf.cast(value, tf.float32), trainable=False, name=name)


def refuse_training(training: bool) -> None:
    """Raises ValueError if a layer whose batch normalisation is folded is to be trained."""
    if training is True:
        raise ValueError("A network with folded batch normalisation is for inference only. Received: training=True")


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class LogitNormalization(tf_keras.layers.Layer):
    """Batch normalisation of attention logits, reduced to one factor per term and head.

    The paper normalises each logit term of each head over batch, queries and keys before the softmax. A softmax over
    the keys does not change when a constant is added to all logits of a query, so mean and `beta` cancel and only
    `gamma / sqrt(variance + epsilon)` reaches the output. This layer turns the first two moments of the logits into
    that factor, so that nobody has to pass over the logits to normalise them. `beta` and the moving mean are kept
    because a checkpoint has them; the gradient of `beta` is zero.

    Args:
      num_terms: logit terms T (content, query position, key position).
      num_heads: attention heads N.
      norm: as for `batch_norm`.

    Call arguments:
      mean: [T, N] mean of the logits of this batch, float32. Unused in inference.
      second_moment: [T, N] mean of their squares, float32.
      training: whether to use, and to update the moving statistics with, the moments given.

    Attributes:
      is_held: as of `BatchNormalization`.

    Returns:
      [T, N] factors, float32.
    """

    is_held = False

    def __init__(self, num_terms: int, num_heads: int, norm: Mapping[str, Any] | None = None, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.num_terms = num_terms
        self.num_heads = num_heads
        self.norm = dict(norm or {})
        self.momentum = self.norm.get("momentum", 0.99)
        self.epsilon = self.norm.get("epsilon", 1e-3)
        self.synchronized = self.norm.get("synchronized", False)

    def build(self, input_shape):
        def weight(name, initializer, trainable):
            # Moving statistics are averaged when they are read across replicas, as Keras does it.
            return self.add_weight(
                name=name,
                shape=(self.num_terms, self.num_heads),
                dtype=tf.float32,
                initializer=initializer,
                trainable=trainable,
                synchronization=tf.VariableSynchronization.AUTO if trainable else tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.NONE if trainable else tf.VariableAggregation.MEAN,
            )

        self.gamma = weight("gamma", "ones", True)
        self.beta = weight("beta", "zeros", True)
        self.moving_mean = weight("moving_mean", "zeros", False)
        self.moving_variance = weight("moving_variance", "ones", False)
        super().build(input_shape)

    def call(self, mean: tf.Tensor | None, second_moment: tf.Tensor | None, training: bool = False) -> tf.Tensor:
        if not training or self.is_held:
            return self.scales()
        replicas = tf.distribute.get_replica_context()
        if self.synchronized and replicas is not None and replicas.num_replicas_in_sync > 1:
            mean, second_moment = replicas.all_reduce(tf.distribute.ReduceOp.MEAN, [mean, second_moment])
        variance = tf.nn.relu(second_moment - tf.square(mean))
        if not recompute.is_recomputing():
            for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
        return self.gamma * tf.math.rsqrt(variance + self.epsilon)

    def scales(self) -> tf.Tensor:
        """The factors in inference, [T, N] float32."""
        return self.gamma * tf.math.rsqrt(self.moving_variance + self.epsilon)

    def get_config(self):
        return {**super().get_config(), "num_terms": self.num_terms, "num_heads": self.num_heads, "norm": self.norm}
