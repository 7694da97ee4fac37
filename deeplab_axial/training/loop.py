# SPDX-License-Identifier: Apache-2.0
"""The training run: steps, log, checkpoints, and what happens when it is interrupted."""

import contextlib
import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable, Iterator

import tensorflow as tf

from deeplab_axial.errors import Interrupted, NonFiniteLoss
from deeplab_axial.training import checkpoints, log, profiler, trainer


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """When things happen, in steps.

    Attributes:
      total_steps: of the whole run.
      save_steps: between two checkpoints; one more is written at the end.
      summary_steps: between two entries in the logs.
      steps_per_loop: taken on the device without returning to the host.
      profile: steps to profile, rounded to whole loops; None for none.
    """

    total_steps: int
    save_steps: int
    summary_steps: int
    steps_per_loop: int = 1
    profile: profiler.StepRange | None = None


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

    A signal to stop is heeded when the host has control: after the present loop of options.steps_per_loop steps.

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
      Interrupted: SIGTERM or SIGINT (Ctrl-C) came; a checkpoint of the last step was written first.
      KeyboardInterrupt: SIGINT came a second time; checkpoints written before are complete.
      InputError: a checkpoint or the log cannot be written.
    """
    done = int(step.numpy())
    until = options.total_steps if until is None else min(until, options.total_steps)
    if done >= until:
        return
    first = done
    iterator = iter(runner.strategy.distribute_datasets_from_function(lambda context: make_dataset(first, context)))
    with (
        _signals() as received,
        log.TrainingLog(
            folder, done, options.total_steps, options.summary_steps, manager.workers.is_chief
        ) as training_log,
        profiler.Profiler(os.path.join(folder, "train"), options.profile) as profile,
    ):
        while done < until:
            count = min(options.steps_per_loop, until - done, options.save_steps - done % options.save_steps)
            traces = runner.num_traces
            with profile.loop(done + 1, done + count):
                started = time.perf_counter()
                history = {name: values.numpy() for name, values in runner.train(iterator, count).items()}
                seconds = time.perf_counter() - started
            is_timed = runner.num_traces == traces  # tracing and compilation are no speed
            for i in range(count):
                values = {name: float(series[i]) for name, series in history.items()}
                check_finite(done + i + 1, values)
                if is_timed:
                    values[log.SPEED] = runner.batch_size * count / seconds
                training_log.step(done + i + 1, values)
            done += count
            step.assign(done)
            if done % options.save_steps == 0 or done == until:
                path = manager.save()
            if manager.workers.any(bool(received())):
                path = manager.save()
                break
    if manager.workers.any(bool(received())):
        stop = received() or signal.SIGTERM  # another worker got it
        message = f"Stopped by {stop.name} after step {done}; wrote {path}. Run again to resume."
        raise Interrupted(message, stop)


def check_finite(step: int, values: dict[str, float]) -> None:
    """Raises NonFiniteLoss, naming the step and every term, unless all values are finite."""
    if not all(map(math.isfinite, values.values())):
        terms = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
        raise NonFiniteLoss(
            f"The loss is not finite at step {step}: {terms}. Lower base_learning_rate, lengthen warmup_steps or set "
            "use_gradient_clipping, and check the data; the last checkpoint is from before this step."
        )


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], signal.Signals | None]]:
    """Yields what tells the first SIGTERM or SIGINT that came inside. A second SIGINT stops at once."""
    received: list[signal.Signals] = []

    def remember(number: int, _) -> None:
        if number == signal.SIGINT and signal.SIGINT in received:
            raise KeyboardInterrupt
        received.append(signal.Signals(number))
        if number == signal.SIGINT:
            # Not through sys.stderr, which the signal may have interrupted amid a write.
            os.write(2, b"\nStopping after this step and saving. Press Ctrl-C again to stop at once.\n")

    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
