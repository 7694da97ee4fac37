# SPDX-License-Identifier: Apache-2.0
"""The training run: steps, log, checkpoints, and what happens when it is interrupted."""

import contextlib
import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf
from absl import logging

from deeplab_axial import keys, progress
from deeplab_axial.data import diagnosis
from deeplab_axial.errors import InputError, Interrupted, NonFiniteLoss
from deeplab_axial.training import checkpoints, log, loss_watch, profiler, trainer


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
    explain_errors: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    watch: loss_watch.LossWatch | None = None,
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
      explain_errors: makes what turns the data set's errors into an InputError, as `diagnosis.explain_errors`.
      watch: sees the total loss of each step, over all calls of a run; None for one of this call's own.

    Raises:
      NonFiniteLoss: a loss term is not finite; no checkpoint with its weights is written.
      Interrupted: SIGTERM or SIGINT (Ctrl-C) came; a checkpoint of the last step was written first.
      KeyboardInterrupt: SIGINT came a second time; checkpoints written before are complete.
      InputError: the data set fails, or a checkpoint or the log cannot be written. A checkpoint of the last complete
        step is written first, if it can be; not by one of several workers, since the others are amid a step.
    """
    done = int(step.numpy())
    until = options.total_steps if until is None else min(until, options.total_steps)
    if done >= until:
        return
    watch = watch or loss_watch.LossWatch(folder, options.total_steps)
    first = done
    with explain_errors():
        iterator = iter(runner.strategy.distribute_datasets_from_function(lambda context: make_dataset(first, context)))
    counter = runner.optimizer.iterations
    counted_before = int(counter.numpy()) - done

    def save() -> str:
        # A step that gets no images changes nothing: those before it, in a loop of several, are complete.
        return _save(runner, manager, first, int(counter.numpy()) - counted_before)

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
            is_first = manager.workers.is_chief and traces == 0
            note = progress.task("Tracing the training step, and taking the first", is_first)
            with _keeping(save, explain_errors), profile.loop(done + 1, done + count), note:
                started = time.perf_counter()
                history = {name: values.numpy() for name, values in runner.train(iterator, count).items()}
                seconds = time.perf_counter() - started
            speed = runner.batch_size * count / seconds
            if runner.num_traces != traces:
                speed = None  # tracing and compilation are no speed
            done += count
            step.assign(done)
            with _keeping(save):
                for warning in _log(training_log, watch, history, done - count + 1, speed):
                    if manager.workers.is_chief:
                        logging.warning("%s", warning)
            if done % options.save_steps == 0 or done == until:
                path = manager.save()
            if manager.workers.any(bool(received())):
                path = manager.save()
                break
    if manager.workers.any(bool(received())):
        stop = received() or signal.SIGTERM  # another worker got it
        message = f"Stopped by {stop.name} after step {done}; wrote {path}. Run again to resume."
        raise Interrupted(message, stop)


def _log(
    training_log: log.TrainingLog,
    watch: loss_watch.LossWatch,
    history: Mapping[str, np.ndarray],
    first_step: int,
    speed: float | None,
) -> Iterator[str]:
    """Checks and logs what the steps from `first_step` on returned, and yields warnings.

    Args:
      training_log: gets each step.
      watch: sees the total loss of each step.
      history: [steps] by name.
      first_step: their number.
      speed: images a second; None if unknown.
    """
    for i in range(len(history[keys.TOTAL_LOSS])):
        values = {name: float(series[i]) for name, series in history.items()}
        check_finite(first_step + i, values)
        if speed is not None:
            values[log.SPEED] = speed
        training_log.step(first_step + i, values)
        if warning := watch.step(first_step + i, values[keys.TOTAL_LOSS]):
            yield warning


@contextlib.contextmanager
def _keeping(
    save: Callable[[], str],
    explain_errors: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> Iterator[None]:
    """Around what a full disk, or records that are gone, may end.

    Saves before the error is explained, for which all records may be read, and adds what `save` returns to it.

    Raises:
      InputError: one came inside, or `explain_errors` made one.
    """
    kept = ""
    try:
        with explain_errors():
            try:
                yield
            except (InputError, tf.errors.OpError, UnicodeDecodeError) as error:
                if isinstance(error, InputError) or diagnosis.comes_from_a_data_set(error):
                    kept = save()
                raise
    except InputError as error:
        raise InputError(f"{error} {kept}".rstrip()) from error


def _save(runner: trainer.Trainer, manager: checkpoints.Manager, first: int, complete: int) -> str:
    """Saves the run at its last complete step, and says in a sentence from where training resumes.

    Args:
      runner: what has taken the steps.
      manager: of its checkpoints.
      first: step that this process began with.
      complete: steps that are done.
    """
    if manager.workers.count > 1 or complete == first:
        return ""
    is_finite = all(bool(tf.reduce_all(tf.math.is_finite(weight))) for weight in runner.model.trainable_weights)
    if not is_finite:
        return f"The weights after step {complete} are not finite: training resumes from the checkpoint before."
    manager.step.assign(complete)
    try:
        return f"Training resumes from {manager.save()}."
    except InputError:
        return f"A checkpoint of step {complete} cannot be written, either: training resumes from the one before."


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
