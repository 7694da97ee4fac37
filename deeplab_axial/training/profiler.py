# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's profiler for a range of training steps, which TensorBoard's profile plugin shows."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterator

import tensorflow as tf
import tqdm

from deeplab_axial.errors import InputError


@dataclasses.dataclass(frozen=True)
class StepRange:
    """Training steps from first to last, both included; the first step of a run is 1."""

    first: int
    last: int

    def __post_init__(self):
        if not 1 <= self.first <= self.last:
            raise ValueError(f"A range of steps must satisfy 1 <= first <= last. Received: {self}.")

    def __str__(self) -> str:
        return f"{self.first}:{self.last}"


def parse_range(text: str, total_steps: int) -> StepRange:
    """The steps that --profile=FIRST:LAST names.

    Args:
      text: "FIRST:LAST".
      total_steps: of the whole run.

    Raises:
      InputError: it is no range of steps of the run.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text, re.ASCII)
    first, last = map(int, match.groups()) if match else (0, 0)
    if not 1 <= first <= last <= total_steps:
        raise InputError(
            f"--profile must be FIRST:LAST, steps of the run with 1 <= FIRST <= LAST <= {total_steps} "
            f"(solver_options.training_number_of_steps). Received: {text}. Write --profile=11:20 for ten steps."
        )
    return StepRange(first, last)


def still_to_come(steps: StepRange, done: int, note: Callable[[str], None]) -> StepRange | None:
    """What is left of a range when a run goes on; None if nothing is.

    That is no error: a run that was interrupted goes on when the same command is given again.

    Args:
      steps: asked for.
      done: steps that are done.
      note: told, in a sentence, what is left out.
    """
    if steps.last <= done:
        note(f"--profile={steps}: these steps are done, the run is at step {done}. Nothing is profiled.")
        return None
    if steps.first <= done:
        note(f"--profile={steps}: the run is at step {done}. Profiling from step {done + 1}.")
        return StepRange(done + 1, steps.last)
    return steps


class Profiler:
    """Profiles the loops of a run that have steps of a range in them; a context manager, which stops with the run.

    The trace goes to `plugins/profile/TIME` in the folder. It begins and ends with a loop on the device.

    Args:
      folder: of the trace; TensorBoard wants it to have events, too.
      steps: what to profile; None for nothing.
      note: told, in a sentence, what was profiled; prints beside a progress bar by default.
    """

    def __init__(self, folder: str, steps: StepRange | None, note: Callable[[str], None] = tqdm.tqdm.write):
        self.folder = folder
        self.steps = steps
        self._note = note
        self._first: int | None = None  # step of the trace that is being made
        self._done = 0

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *exception) -> None:
        self._stop()

    @contextlib.contextmanager
    def loop(self, first: int, last: int) -> Iterator[None]:
        """Surrounds a loop that takes the steps from first to last on the device, until their results are there."""
        if self.steps is not None and self._first is None and first <= self.steps.last and last >= self.steps.first:
            tf.profiler.experimental.start(self.folder)
            self._first, self._done = first, first - 1
        # Shows as a span in the trace; costs nothing without one.
        with tf.profiler.experimental.Trace("train", step_num=last, _r=1):
            yield
        self._done = last
        if self.steps is not None and last >= self.steps.last:
            self._stop()

    def _stop(self) -> None:
        if self._first is None:
            return
        first, self._first = self._first, None
        tf.profiler.experimental.stop()
        place = os.path.join(self.folder, "plugins", "profile")
        if self._done < first:
            self._note(f"The profile in {place} ends amid the loop that begins with step {first}.")
        else:
            self._note(f"Profiled steps {first} to {self._done}: {place}")
