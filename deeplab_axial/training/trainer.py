# SPDX-License-Identifier: Apache-2.0
"""The training step."""

from collections.abc import Callable, Mapping

import tensorflow as tf
import tf_keras

from deeplab_axial import keys
from deeplab_axial.models import panoptic_deeplab

GRADIENT_NORM = "gradient_norm"
LEARNING_RATE = "learning_rate"


class Trainer:
    """Runs training steps on all replicas of a strategy.

    Args:
      strategy: under which model and optimizer were made.
      model: images -> raw outputs; called with `training` and `seed`.
      loss: targets, outputs at the size of the image -> {term: [B]} with their sum under keys.TOTAL_LOSS.
      optimizer: of the model's variables; its state is made here.
      batch_size: images a step, over all replicas.
      clip_norm: largest global norm of the gradients, taken after summing over the replicas; None for no limit.
      use_xla: whether the step is compiled with XLA.
      seed: of drop path, with the number of the step.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: tf_keras.Model,
        loss: Callable[[Mapping[str, tf.Tensor], Mapping[str, tf.Tensor]], dict[str, tf.Tensor]],
        optimizer: tf_keras.optimizers.Optimizer,
        batch_size: int,
        clip_norm: float | None = None,
        use_xla: bool = False,
        seed: int = 0,
    ):
        self.strategy = strategy
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.batch_size = batch_size
        self.clip_norm = clip_norm
        self.seed = seed
        self._is_legacy = isinstance(optimizer, tf_keras.optimizers.legacy.Optimizer)
        with strategy.scope():
            if self._is_legacy:  # makes its slots in the first step, but not from inside the loop its counter
                _ = optimizer.iterations
            else:
                optimizer.build(model.trainable_variables)
        # Nothing below the loop needs AutoGraph, and rewriting every layer's source doubles the time of tracing.
        step = tf.autograph.experimental.do_not_convert(self._step)
        self._replica_step = tf.function(step, jit_compile=True, autograph=False) if use_xla else step
        self._run = tf.function(self._loop)

    def train(self, iterator, num_steps: int) -> dict[str, tf.Tensor]:
        """Runs steps without returning to the host in between.

        Args:
          iterator: over the distributed training data set.
          num_steps: how many.

        Returns:
          {term, GRADIENT_NORM or LEARNING_RATE: [num_steps]}; loss terms are means over the images of a step.
        """
        return self._run(iterator, tf.constant(num_steps))

    def _loop(self, iterator, num_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        names = [*self.loss.term_names, GRADIENT_NORM, LEARNING_RATE]
        history = tf.TensorArray(tf.float32, num_steps, element_shape=[len(names)])
        for i in tf.range(num_steps):
            results = self.strategy.run(self._replica_step, args=(next(iterator),))
            means = [self.strategy.reduce(tf.distribute.ReduceOp.SUM, results[name], axis=None) for name in names]
            history = history.write(i, tf.stack(means))
        return dict(zip(names, tf.unstack(history.stack(), axis=1)))

    def _step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step of one replica; returns its share of every mean."""
        images = batch[keys.IMAGE]
        variables = self.model.trainable_variables
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
        # A function of the step and no state of its own: a run that resumes draws what an undisturbed one would.
        step = tf.identity(self.optimizer.iterations)
        seed = tf.stack([tf.constant(self.seed, tf.int64), step * replicas + replica])
        with tf.GradientTape() as tape:
            outputs = self.model(images, training=True, seed=seed)
            terms = self.loss(batch, panoptic_deeplab.upsample(outputs, tuple(images.shape[1:3])))
            terms = {name: tf.reduce_sum(values) / self.batch_size for name, values in terms.items()}
        # The offset of a logit normalisation has no gradient: the softmax cancels it.
        gradients = tape.gradient(terms[keys.TOTAL_LOSS], variables, unconnected_gradients="zero")
        if replicas > 1:
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        norm = tf.linalg.global_norm(gradients)
        if self.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm, norm)
        # Already summed over the replicas.
        if self._is_legacy:
            self.optimizer.apply_gradients(zip(gradients, variables), experimental_aggregate_gradients=False)
        else:
            self.optimizer.apply_gradients(zip(gradients, variables), skip_gradients_aggregation=True)
        rate = self.optimizer.learning_rate  # that of the step just taken, or a legacy optimizer's schedule
        rate = tf.cast(rate(step) if callable(rate) else rate, tf.float32)
        return {**terms, GRADIENT_NORM: norm / replicas, LEARNING_RATE: rate / replicas}
