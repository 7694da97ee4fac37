# SPDX-License-Identifier: Apache-2.0
"""RAdam and Lookahead, the pair that Axial-DeepLab was trained with, on the tf_keras optimizer API."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

Schedule = tf_keras.optimizers.schedules.LearningRateSchedule
# Beside it the root of the second moment is nothing: m * _NO_ROOT / (root + _NO_ROOT) is m, bit for bit.
_NO_ROOT = 2.0**60


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class RAdam(tf_keras.optimizers.Optimizer):
    """Adam whose step is scaled by the rectification term while the second moment is still uncertain.

    Steps before the rectification term exists (the first five with the default betas) are steps of momentum SGD with
    the same learning rate. Gradients given as IndexedSlices are applied as dense ones.

    Args:
        learning_rate: number, or schedule from the step to a number.
        beta_1: decay of the first moment, in [0, 1).
        beta_2: decay of the second moment, in (0, 1).
        epsilon: added to the root of the corrected second moment.
        sma_threshold: length of the approximated simple moving average from which on the step is rectified, more
            than 4, below which the variance of the adaptive rate does not exist.
        weight_decay: decoupled weight decay, multiplied by the learning rate; None for none. Leave batch norms and
            biases out with `exclude_from_weight_decay(var_names=[...])` before the first step.
        name: name of the optimizer.
        **kwargs: of `tf_keras.optimizers.Optimizer`, as `global_clipnorm` or `jit_compile`.

    Raises:
        ValueError: if a number is outside its range.

    Reference: Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, ICLR 2020.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        sma_threshold: float = 5.0,
        weight_decay: float | None = None,
        name: str = "RAdam",
        **kwargs: Any,
    ):
        if not (0 <= beta_1 < 1 and 0 < beta_2 < 1):
            raise ValueError(
                f"beta_1 must be in [0, 1) and beta_2 in (0, 1). Received: beta_1={beta_1}, beta_2={beta_2}. "
                "The paper uses 0.9 and 0.999."
            )
        if not sma_threshold > 4:
            raise ValueError(f"sma_threshold must be more than 4. Received: {sma_threshold}. Usual values are 5 and 6.")
        super().__init__(name=name, weight_decay=weight_decay, **kwargs)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.sma_threshold = sma_threshold
        self._first_rectified_step = first_rectified_step(beta_2, sma_threshold)
        # A variable, not a tensor kept on self: the base class compiles update_step on GPUs, and a function compiled in
        # eager mode would keep the tensor of its first call for ever.
        with tf.init_scope():
            self._coefficients = tf.Variable(tf.zeros([3]), trainable=False, name="coefficients")

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Makes the two moments of each variable; later calls do nothing."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._momentums = [self.add_variable_from_reference(variable, "m") for variable in var_list]
        self._velocities = [self.add_variable_from_reference(variable, "v") for variable in var_list]
        self._built = True

    def apply_gradients(
        self,
        grads_and_vars: Iterable[tuple[tf.Tensor | None, tf.Variable]],
        name: str | None = None,
        skip_gradients_aggregation: bool = False,
        **kwargs: Any,
    ) -> tf.Variable:
        """Applies one step; the scalars that all variables share are computed once, here."""
        self._coefficients.assign(self._step_coefficients(self.iterations + 1))
        return super().apply_gradients(
            grads_and_vars, name=name, skip_gradients_aggregation=skip_gradients_aggregation, **kwargs
        )

    def _step_coefficients(self, step: tf.Tensor) -> tf.Tensor:
        """Scalars of one step, so that the update is learning_rate * scale * m / (sqrt(v) + offset).

        Args:
            step: scalar integer, 1 at the first step.

        Returns:
            [3] float32: (scale, offset, 0); checkpoints of earlier versions have three, too.
        """
        t = tf.cast(step, tf.float32)
        # 1 - beta_2^t and the difference below lose most of their digits in float32 while t is small; with expm1 of a
        # logarithm taken in float64 they do not. So is the first rectified step an integer, not a comparison of floats.
        decay = -math.log(self.beta_2) * t
        sma_inf = 2 / (1 - self.beta_2) - 1
        sma = tf.maximum(sma_inf - 2 * t / tf.math.expm1(decay), 4.0)
        rectification = tf.sqrt((sma - 4) * (sma - 2) * sma_inf / ((sma_inf - 4) * (sma_inf - 2) * sma))
        is_rectified = step >= self._first_rectified_step
        correction_1 = 1 - tf.pow(self.beta_1, t)
        root = tf.sqrt(-tf.math.expm1(-decay))
        return tf.stack(
            [
                tf.where(is_rectified, rectification * root, _NO_ROOT) / correction_1,
                tf.where(is_rectified, self.epsilon * root, _NO_ROOT),
                0.0,
            ]
        )

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Updates one variable and its moments."""
        index = self._index_dict[self._var_key(variable)]
        scale, offset, zero = tf.unstack(tf.cast(self._coefficients, variable.dtype))
        # Adam's fused operation, its own correction of the two moments turned off: a tenth of the graph's operations.
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            beta1_power=zero,
            beta2_power=zero,
            lr=tf.cast(self.learning_rate, variable.dtype) * scale,
            beta1=tf.constant(self.beta_1, variable.dtype),
            beta2=tf.constant(self.beta_2, variable.dtype),
            epsilon=offset,
            grad=tf.convert_to_tensor(gradient),
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "sma_threshold": self.sma_threshold,
        }


def first_rectified_step(beta_2: float, sma_threshold: float) -> int:
    """Returns the first step, from 1, whose moving average is at least `sma_threshold` long; 2**62 if none is."""
    sma_inf = 2 / (1 - beta_2) - 1
    if sma_inf <= sma_threshold:
        return 2**62
    return next(t for t in itertools.count(1) if sma_inf - 2 * t / math.expm1(-t * math.log(beta_2)) >= sma_threshold)


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class Lookahead(tf_keras.optimizers.Optimizer):
    """Wraps an optimizer: every `sync_period` steps the variables go back part of the way to their slow copies.

    The slow copies start from what the variables hold when the first step is taken, so weights loaded after this object
    was made or built count. The step number and the learning rate are those of the wrapped optimizer. Gradient
    clipping, weight decay and averaging belong to the wrapped optimizer too. Each call of `apply_gradients` needs all
    the variables of the first call (a gradient may be None).

    Args:
        optimizer: a `tf_keras.optimizers.Optimizer`, not a legacy one.
        sync_period: steps of `optimizer` between two updates of the slow copies, at least 1.
        slow_step_size: share of the way from the slow copy to the variable that is kept, in (0, 1].
        name: name of the optimizer.

    Raises:
        TypeError: if `optimizer` is something else.
        ValueError: if a number is outside its range.

    Reference: Zhang et al., Lookahead Optimizer: k Steps Forward, 1 Step Back, NeurIPS 2019.
    """

    def __init__(
        self,
        optimizer: tf_keras.optimizers.Optimizer,
        sync_period: int = 6,
        slow_step_size: float = 0.5,
        name: str = "Lookahead",
    ):
        if not isinstance(optimizer, tf_keras.optimizers.Optimizer):
            raise TypeError(
                f"optimizer must be a tf_keras.optimizers.Optimizer. Received: {optimizer!r}. "
                "Pass an object such as RAdam(1e-3), neither a name nor a legacy or Keras 3 optimizer."
            )
        if sync_period < 1 or sync_period != int(sync_period):
            raise ValueError(
                f"sync_period must be a whole number from 1. Received: {sync_period}. The paper uses 5 to 10."
            )
        if not 0 < slow_step_size <= 1:
            raise ValueError(f"slow_step_size must be in (0, 1]. Received: {slow_step_size}. The paper uses 0.5.")
        super().__init__(name=name)
        self.optimizer = optimizer
        self.sync_period = int(sync_period)
        self.slow_step_size = slow_step_size
        # Not `iterations == 0`: the wrapped optimizer may have taken steps, or been restored, without slow copies.
        self._has_slow_values = self.add_variable([], dtype=tf.bool, name="has_slow_values")

    @property
    def iterations(self) -> tf.Variable:
        """Steps taken by the wrapped optimizer, int64."""
        return self.optimizer.iterations

    @iterations.setter
    def iterations(self, variable: tf.Variable) -> None:
        self.optimizer.iterations = variable

    @property
    def learning_rate(self) -> tf.Variable:
        """Learning rate of the wrapped optimizer; with a schedule, that of its last step."""
        return self.optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: float) -> None:
        self.optimizer.learning_rate = learning_rate

    @property
    def variables(self) -> list[tf.Variable]:
        """The state of the wrapped optimizer, then that of this one."""
        return [*self.optimizer.variables, *super().variables]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets the values of `variables`, in their order."""
        split = len(self.optimizer.variables)
        self.optimizer.set_weights(weights[:split])
        super().set_weights(weights[split:])

    def exclude_from_weight_decay(self, var_list: list | None = None, var_names: list[str] | None = None) -> None:
        """Passes on to the wrapped optimizer, which is the one that decays."""
        self.optimizer.exclude_from_weight_decay(var_list=var_list, var_names=var_names)

    def finalize_variable_values(self, var_list: Sequence[tf.Variable]) -> None:
        """Passes on to the wrapped optimizer, for its moving averages."""
        self.optimizer.finalize_variable_values(var_list)

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Builds the wrapped optimizer and makes the slow copies; later calls do nothing."""
        super().build(var_list)
        self.optimizer.build(var_list)
        if getattr(self, "_built", False):
            return
        self._slow_weights = [self.add_variable_from_reference(variable, "slow") for variable in var_list]
        self._built = True

    def apply_gradients(
        self,
        grads_and_vars: Iterable[tuple[tf.Tensor | None, tf.Variable]],
        name: str | None = None,
        skip_gradients_aggregation: bool = False,
        **kwargs: Any,
    ) -> tf.Variable:
        """Takes one step of the wrapped optimizer, then the step of the slow copies if it is due.

        Raises:
            ValueError: if the variables are not those that this object was built with.
        """
        grads_and_vars = list(grads_and_vars)
        if not grads_and_vars:
            return self.iterations
        variables = [variable for _, variable in grads_and_vars]
        with tf.init_scope():
            self.build(variables)
        pairs = self._slow_and_fast(variables)

        # Every replica writes its own copies below, with the same values, so no merge_call is needed (nor possible in a
        # tf.cond). One tf.cond over all variables leaves nothing to compute on the steps in between.
        tf.cond(self._has_slow_values, lambda: None, lambda: _start(pairs))
        self._has_slow_values.assign(True)
        iterations = self.optimizer.apply_gradients(
            grads_and_vars, name=name, skip_gradients_aggregation=skip_gradients_aggregation, **kwargs
        )
        is_due = tf.equal(self.iterations % self.sync_period, 0)
        tf.cond(is_due, lambda: _synchronise(pairs, self.slow_step_size), lambda: None)
        return iterations

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Updates one variable by the wrapped optimizer's rule, without the slow copy."""
        self.optimizer.update_step(gradient, variable)

    def _slow_and_fast(self, variables: list[tf.Variable]) -> list[tuple[tf.Variable, tf.Variable]]:
        indices = [self._index_dict.get(self._var_key(variable)) for variable in variables]
        if None in indices or len(indices) != len(self._slow_weights):
            unknown = [variable.name for variable, index in zip(variables, indices) if index is None]
            raise ValueError(
                f"Lookahead needs the {len(self._slow_weights)} variables that it was built with in every step. "
                f"Received: {len(variables)} variables, unknown among them: {unknown}. Call build() with the full "
                "list before the first step, and pass None as the gradient of variables that have none."
            )
        return [(self._slow_weights[index], variable) for index, variable in zip(indices, variables)]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, the wrapped optimizer serialised."""
        return {
            "optimizer": tf_keras.optimizers.serialize(self.optimizer),
            "sync_period": self.sync_period,
            "slow_step_size": self.slow_step_size,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> "Lookahead":
        """Makes the optimizer and the one it wraps, both without state."""
        inner = tf_keras.optimizers.deserialize(config["optimizer"], custom_objects=custom_objects)
        return cls(**{**config, "optimizer": inner})


def _start(pairs: list[tuple[tf.Variable, tf.Variable]]) -> None:
    for slow, fast in pairs:
        slow.assign(fast)


def _synchronise(pairs: list[tuple[tf.Variable, tf.Variable]], slow_step_size: float) -> None:
    share = tf.constant(slow_step_size)
    for slow, fast in pairs:
        before = slow.read_value()
        value = before + tf.cast(share, before.dtype) * (fast - before)
        slow.assign(value)
        fast.assign(value)
