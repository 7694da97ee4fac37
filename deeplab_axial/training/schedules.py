# SPDX-License-Identifier: Apache-2.0
"""Learning rate schedules: polynomial and cosine decay, both with a linear warm-up."""

from typing import Any

import tensorflow as tf
import tf_keras

Schedule = tf_keras.optimizers.schedules.LearningRateSchedule


@tf_keras.utils.register_keras_serializable("deeplab_axial")
class WarmUp(Schedule):
    """Rises in a line from 0 at step 0 to `schedule(0)`, then follows `schedule`.

    The decay is not shifted: from step `warmup_steps` on the rate is `schedule(step)`, which is already below
    `schedule(0)`, so that the end of training does not depend on the warm-up. DeepLab2 does the same.

    Args:
        schedule: from the step to the learning rate.
        warmup_steps: steps of the rise; 0 for none.

    Raises:
        ValueError: if `warmup_steps` is negative.
    """

    def __init__(self, schedule: Schedule, warmup_steps: int):
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0. Received: {warmup_steps}. Pass 0 for no warm-up.")
        super().__init__()
        self.schedule = schedule
        self.warmup_steps = warmup_steps

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        """Returns the learning rate, a float32 scalar, at `step`, which is 0 for the first update."""
        step = tf.convert_to_tensor(step)
        if self.warmup_steps == 0:
            return self.schedule(step)
        progress = tf.cast(step, tf.float32) / self.warmup_steps
        return tf.where(progress < 1, progress * self.schedule(tf.zeros_like(step)), self.schedule(step))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, the wrapped schedule serialised."""
        return {
            "schedule": tf_keras.optimizers.schedules.serialize(self.schedule),
            "warmup_steps": self.warmup_steps,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WarmUp":
        """Makes the schedule and the one it wraps."""
        return cls(tf_keras.optimizers.schedules.deserialize(config["schedule"]), config["warmup_steps"])


def poly(
    learning_rate: float, total_steps: int, warmup_steps: int = 0, power: float = 0.9, end_learning_rate: float = 0.0
) -> WarmUp:
    """Returns learning_rate * (1 - step / total_steps) ** power, down to `end_learning_rate`, after a warm-up.

    Args:
        learning_rate: rate without warm-up at step 0.
        total_steps: step from which on the rate is `end_learning_rate`.
        warmup_steps: steps of the linear rise from 0.
        power: of the polynomial.
        end_learning_rate: last rate.

    Raises:
        ValueError: if the numbers of steps do not fit.
    """
    _check_steps(total_steps, warmup_steps)
    decay = tf_keras.optimizers.schedules.PolynomialDecay(
        learning_rate, total_steps, end_learning_rate=end_learning_rate, power=power
    )
    return WarmUp(decay, warmup_steps)


def cosine(learning_rate: float, total_steps: int, warmup_steps: int = 0) -> WarmUp:
    """Returns learning_rate * (1 + cos(pi * step / total_steps)) / 2 after a warm-up.

    Args:
        learning_rate: rate without warm-up at step 0.
        total_steps: step from which on the rate is 0.
        warmup_steps: steps of the linear rise from 0.

    Raises:
        ValueError: if the numbers of steps do not fit.
    """
    _check_steps(total_steps, warmup_steps)
    return WarmUp(tf_keras.optimizers.schedules.CosineDecay(learning_rate, total_steps), warmup_steps)


def _check_steps(total_steps: int, warmup_steps: int) -> None:
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"warmup_steps must be at least 0 and less than total_steps. Received: warmup_steps={warmup_steps}, "
            f"total_steps={total_steps}. Shorten the warm-up or train for longer."
        )
