# SPDX-License-Identifier: Apache-2.0
"""The training step."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab_axial import keys
from deeplab_axial.models import panoptic_deeplab
from deeplab_axial.training import averaging, weight_decay

GRADIENT_NORM = "gradient_norm"
# Of the main optimizer; "learning_rate/backbone" and the like of the others.
LEARNING_RATE = "learning_rate"

Optimizer = tf_keras.optimizers.Optimizer | tf_keras.optimizers.legacy.Optimizer


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What a step does.

    Attributes:
      batch_size: images a step, over all replicas and all parts of the batch.
      clip_norm: largest global norm of the gradients, taken after summing over the replicas; None for no limit.
      accumulation_steps: parts that each replica's batch is taken in, one after the other; their gradients are summed.
        The step needs memory for one part and one set of gradients. Batch normalisation sees the parts.
      l2: adds l2 / 2 * (sum of squares) of the weights that decay (see `weight_decay.decays`) to what is minimised; the
        loss that is reported is without it.
      ema_decay: of an exponential moving average of the weights; 0 for none.
      use_xla: whether the step is compiled with XLA.
      seed: of drop path, with the number of the step, the replica and the part.
    """

    batch_size: int
    clip_norm: float | None = None
    accumulation_steps: int = 1
    l2: float = 0.0
    ema_decay: float = 0.0
    use_xla: bool = False
    seed: int = 0


class Trainer:
    """Runs training steps on all replicas of a strategy.

    Args:
      strategy: under which model and optimizers were made.
      model: images -> raw outputs; called with `training` and `seed`.
      loss: targets, outputs at the size of the image -> {term: [B]} with their sum under keys.TOTAL_LOSS.
      optimizer: of the model's variables; its state is made here. Its counter is the number of the step.
      options: see `StepOptions`.
      part_optimizers: attribute of the model, as "backbone" -> the optimizer of this part's variables; None freezes
        them: they have no gradient, count neither for the norm nor for clipping, and do not decay. Batch normalisation
        uses the statistics of the batch there too, and its moving statistics go on, unless they are held (see
        `normalization.hold_statistics`).

    Attributes:
      objects: root names in a checkpoint -> what it needs besides the model to go on.
      names: of the values of a step.

    Raises:
      ValueError: the batch cannot be shared out, a part is unknown, or no variable is left for `optimizer`.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: tf_keras.Model,
        loss: Callable[[Mapping[str, tf.Tensor], Mapping[str, tf.Tensor]], dict[str, tf.Tensor]],
        optimizer: Optimizer,
        options: StepOptions,
        part_optimizers: Mapping[str, Optimizer | None] | None = None,
    ):
        shares = strategy.num_replicas_in_sync * options.accumulation_steps
        if options.batch_size % shares:
            raise ValueError(
                f"batch_size must be a multiple of replicas x accumulation_steps ({shares}). "
                f"Received: {options.batch_size}. Change one of them."
            )
        self.strategy = strategy
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.options = options
        self._groups = _groups(model, optimizer, part_optimizers or {})
        trained = {id(variable) for _, _, variables in self._groups for variable in variables}
        # In the model's own order, whatever the parts.
        self._variables = [variable for variable in model.trainable_variables if id(variable) in trained]
        self.objects: dict[str, Any] = {"optimizer": optimizer}
        others = {part: part_optimizer for part, part_optimizer, _ in self._groups[1:]}
        if others:
            self.objects["part_optimizers"] = tf.train.Checkpoint(**others)
        self.average = None
        with strategy.scope():
            for _, each, variables in self._groups:
                if isinstance(each, tf_keras.optimizers.legacy.Optimizer):
                    # Makes its slots in the first step, but not from inside the loop its counter.
                    _ = each.iterations
                else:
                    each.build(variables)
            if options.ema_decay:
                self.average = averaging.Average(model.trainable_variables, options.ema_decay)
                self.objects[averaging.ROOT] = self.average.state
        self.names = [*loss.term_names, GRADIENT_NORM, LEARNING_RATE, *(f"{LEARNING_RATE}/{part}" for part in others)]
        # Nothing below the loop needs AutoGraph, and rewriting every layer's source doubles the time of tracing.
        step = tf.autograph.experimental.do_not_convert(self.replica_step)
        self._replica_step = tf.function(step, jit_compile=True, autograph=False) if options.use_xla else step
        self._run = tf.function(self._loop)

    @property
    def batch_size(self) -> int:
        """Images a step."""
        return self.options.batch_size

    @property
    def num_traces(self) -> int:
        """How often the loop has been traced; each time it takes long."""
        return self._run.experimental_get_tracing_count()

    def train(self, iterator, num_steps: int) -> dict[str, tf.Tensor]:
        """Runs steps without returning to the host in between.

        Args:
          iterator: over the distributed training data set.
          num_steps: how many.

        Returns:
          {name of `names`: [num_steps]}; loss terms are means over the images of a step.
        """
        return self._run(iterator, tf.constant(num_steps))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has the averaged weights, if averages are kept; after it, its own again, bit for bit."""
        if self.average is None:
            yield
            return
        with self.strategy.scope():
            self.average.swap()
        try:
            yield
        finally:
            with self.strategy.scope():
                self.average.swap()

    def _loop(self, iterator, num_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        names = self.names
        history = tf.TensorArray(tf.float32, num_steps, element_shape=[len(names)])
        for i in tf.range(num_steps):
            results = self.strategy.run(self._replica_step, args=(next(iterator),))
            means = [self.strategy.reduce(tf.distribute.ReduceOp.SUM, results[name], axis=None) for name in names]
            history = history.write(i, tf.stack(means))
        return dict(zip(names, tf.unstack(history.stack(), axis=1)))

    def replica_step(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step of one replica, to be called in its context.

        Args:
          batch: what the training data set gives a replica: images and targets, [b, ...] each.

        Returns:
          {name of `names`: this replica's share of the value, a scalar}.
        """
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
        # A function of the step and no state of its own: a run that resumes draws what an undisturbed one would.
        step = tf.identity(self.optimizer.iterations)
        number = step * replicas + replica
        if self.options.accumulation_steps == 1:
            terms, gradients = self._backward(batch, number)
        else:
            terms, gradients = self._accumulate(batch, number * self.options.accumulation_steps)
        if replicas > 1:
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        if self.options.l2:
            gradients = weight_decay.add_l2(gradients, self._variables, self.options.l2)
        norm = tf.linalg.global_norm(gradients)
        if self.options.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.options.clip_norm, norm)
        # Weight decay and counters need no image: where none comes, the step must leave no trace, see `loop.train`.
        with tf.control_dependencies(gradients[-1:]):
            if self.average is not None:
                self.average.start()
            self._apply(gradients)
            if self.average is not None:
                self.average.update()
        results = {**terms, GRADIENT_NORM: norm / replicas}
        for part, optimizer, _ in self._groups:
            name = f"{LEARNING_RATE}/{part}" if part else LEARNING_RATE
            rate = optimizer.learning_rate  # that of the step just taken, or a legacy optimizer's schedule
            results[name] = tf.cast(rate(step) if callable(rate) else rate, tf.float32) / replicas
        return results

    def _backward(self, batch: Mapping[str, tf.Tensor], number: tf.Tensor) -> tuple[dict[str, tf.Tensor], list]:
        """Loss terms, their share of the mean over the whole batch, and gradients of a batch with a seed number."""
        images = batch[keys.IMAGE]
        seed = tf.stack([tf.constant(self.options.seed, tf.int64), number])
        with tf.GradientTape() as tape:
            outputs = self.model(images, training=True, seed=seed)
            terms = self.loss(batch, panoptic_deeplab.upsample(outputs, tuple(images.shape[1:3])))
            terms = {name: tf.reduce_sum(values) / self.options.batch_size for name, values in terms.items()}
        # The offset of a logit normalisation has no gradient: the softmax cancels it.
        gradients = tape.gradient(terms[keys.TOTAL_LOSS], self._variables, unconnected_gradients="zero")
        # Gathered rows have sparse gradients, in which a row may come twice: of these, the norm would be another.
        return terms, [tf.convert_to_tensor(gradient) for gradient in gradients]

    def _accumulate(self, batch: Mapping[str, tf.Tensor], number: tf.Tensor) -> tuple[dict[str, tf.Tensor], list]:
        """As `_backward`, in parts."""
        count = self.options.accumulation_steps
        parts = {key: tf.reshape(value, [count, -1, *value.shape[1:]]) for key, value in batch.items()}

        def add(i, terms, gradients):
            part = {key: value[i] for key, value in parts.items()}
            more_terms, more = self._backward(part, number + tf.cast(i, tf.int64))
            terms = {name: value + more_terms[name] for name, value in terms.items()}
            return i + 1, terms, [a + b for a, b in zip(gradients, more)]

        sums = (
            {name: tf.zeros([]) for name in self.loss.term_names},
            [tf.zeros(variable.shape, variable.dtype) for variable in self._variables],
        )
        if self._loops_on_device():
            _, *sums = tf.while_loop(lambda i, *_: i < count, add, (0, *sums), parallel_iterations=1)
            return tuple(sums)
        for i in range(count):
            with tf.control_dependencies(sums[1]):  # one after the other: the memory of one part
                _, *sums = add(tf.constant(i), *sums)
        return tuple(sums)

    def _loops_on_device(self) -> bool:
        """Whether the parts of a batch can be a loop in the graph.

        Elsewhere than on TPUs, replicas meet by tf.distribute's merge_call, which synchronised batch normalisation
        needs amid a part and which TensorFlow forbids inside of loops.
        """
        return self.strategy.num_replicas_in_sync == 1 or isinstance(self.strategy, tf.distribute.TPUStrategy)

    def _apply(self, gradients: Sequence[tf.Tensor]) -> None:
        """Every optimizer's step with gradients of `_variables`, which are already summed over the replicas."""
        by_variable = {id(variable): gradient for variable, gradient in zip(self._variables, gradients)}
        for _, optimizer, variables in self._groups:
            pairs = [(by_variable[id(variable)], variable) for variable in variables]
            if isinstance(optimizer, tf_keras.optimizers.legacy.Optimizer):
                optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
            else:
                optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)


def _groups(
    model: tf_keras.Model, optimizer: Optimizer, part_optimizers: Mapping[str, Optimizer | None]
) -> list[tuple[str, Optimizer, list[tf.Variable]]]:
    """(part, optimizer, its variables): first the main optimizer, whose part is "", then those of parts."""
    parts: dict[str, list[tf.Variable]] = {}
    for part in part_optimizers:
        if getattr(model, part, None) is None:
            raise ValueError(f"part_optimizers must name parts of the model. Received: {part!r}. Leave it out.")
        parts[part] = getattr(model, part).trainable_variables
    others = {id(variable) for variables in parts.values() for variable in variables}
    rest = [variable for variable in model.trainable_variables if id(variable) not in others]
    if not rest:
        raise ValueError(
            f"The main optimizer must have variables. Received: part_optimizers for {', '.join(parts)}, which are all. "
            "Leave one of them out."
        )
    named = [(part, part_optimizers[part], variables) for part, variables in parts.items()]
    return [("", optimizer, rest), *(group for group in named if group[1] is not None)]
