# SPDX-License-Identifier: Apache-2.0
"""The training run: steps, log, checkpoints, and what happens when it is interrupted."""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator

import tensorflow as tf

from deeplab_axial.errors import Interrupted, NonFiniteLoss
from deeplab_axial.training import checkpoints, log, trainer


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """When things happen, in steps.

    Attributes:
      total_steps: of the whole run.
      save_steps: between two checkpoints; one more is written at the end.
      summary_steps: between two entries in the logs.
      steps_per_loop: taken on the device without returning to the host.
    """

    total_steps: int
    save_steps: int
    summary_steps: int
    steps_per_loop: int = 1


def train(
    runner: trainer.Trainer,
    make_dataset: Callable[[int, tf.distribute.InputContext], tf.data.Dataset],
    step: tf.Variable,
    manager: checkpoints.Manager,
    folder: str,
    options: LoopOptions,
    until: int | None = None,
) -> None:
    """Trains from the step that `step` holds to the end.

    Args:
      runner: takes the steps.
      make_dataset: first step, which worker of how many -> the worker's part of the training data set, in batches for
        one replica.
      step: counts the steps; saved by the manager.
      manager: writes the checkpoints.
      folder: of the logs.
      options: see `LoopOptions`.
      until: step to stop at; None for the end.

    Raises:
      NonFiniteLoss: a loss term is not finite; no checkpoint with its weights is written.
      Interrupted: SIGTERM came; a checkpoint of the last step was written first.
    """
    done = int(step.numpy())
    until = options.total_steps if until is None else min(until, options.total_steps)
    if done >= until:
        return
    first = done
    iterator = iter(runner.strategy.distribute_datasets_from_function(lambda context: make_dataset(first, context)))
    with (
        _termination() as terminated,
        log.TrainingLog(folder, done, options.total_steps, options.summary_steps) as training_log,
    ):
        while done < until:
            started = time.perf_counter()
            count = min(options.steps_per_loop, until - done, options.save_steps - done % options.save_steps)
            history = {name: values.numpy() for name, values in runner.train(iterator, count).items()}
            seconds = time.perf_counter() - started
            for i in range(count):
                values = {name: float(series[i]) for name, series in history.items()}
                check_finite(done + i + 1, values)
                values["images_per_second"] = runner.batch_size * count / seconds
                training_log.step(done + i + 1, values)
            done += count
            step.assign(done)
            if done % options.save_steps == 0 or done == until or terminated():
                path = manager.save()
            if terminated():
                raise Interrupted(f"Stopped by SIGTERM after step {done}; wrote {path}. Run again to resume.")


def check_finite(step: int, values: dict[str, float]) -> None:
    """Raises NonFiniteLoss, naming the step and every term, unless all values are finite."""
    if not all(map(math.isfinite, values.values())):
        terms = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
        raise NonFiniteLoss(
            f"The loss is not finite at step {step}: {terms}. Lower base_learning_rate, lengthen warmup_steps or set "
            "use_gradient_clipping, and check the data; the last checkpoint is from before this step."
        )


@contextlib.contextmanager
def _termination() -> Iterator[Callable[[], bool]]:
    """Turns SIGTERM into a flag, inside."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)
