# SPDX-License-Identifier: Apache-2.0
"""Evaluation beside a training: each checkpoint once, in their order, until the last step's."""

import os
import time
from collections.abc import Callable, Iterator

from deeplab_axial import files
from deeplab_axial.errors import InputError
from deeplab_axial.training import best, checkpoint_files

# Holds the checkpoint that is being evaluated: the training may delete its own copy at any time.
_STAGING_FOLDER = ".evaluating"


def follow(
    evaluations: best.Evaluations,
    last_step: int,
    evaluate: Callable[[str], dict],
    timeout: float | None,
    note: Callable[[str], None],
    poll_seconds: float = 1.0,
) -> bool:
    """Evaluates the checkpoints of a model's folder, those that are there and those that come.

    What was evaluated before, by this process or another, is not evaluated again. A checkpoint that is deleted before
    its turn is left out.

    Args:
      evaluations: of the folder.
      last_step: of the training.
      evaluate: prefix of a checkpoint -> its metrics, with "step".
      timeout: seconds to wait for a new checkpoint; None for ever.
      note: told, in a sentence, what is left out and what is best.
      poll_seconds: between two looks at the folder.

    Returns:
      Whether the checkpoint of the last step was evaluated; otherwise none came in time.
    """
    staging = os.path.join(evaluations.folder, _STAGING_FOLDER)
    gone: set[str] = set()

    def leave_out(path: str) -> None:
        gone.add(path)
        note(f"{path} was deleted before it could be evaluated: going on with the next.")

    waiting_since = time.monotonic()
    while True:
        last_found, pending = -1, None
        for path in _checkpoints(evaluations.folder):
            if path in gone:
                continue
            try:
                step = evaluations.step_of(path)
            except FileNotFoundError:
                leave_out(path)
                continue
            if step is None:
                pending = path
                break
            last_found = max(last_found, step)
        if pending is not None:
            copy = _stage(pending, staging)
            if copy is None:
                leave_out(pending)
                continue
            try:
                _evaluate(evaluations, copy, evaluate, note)
            finally:  # Ctrl-C and SIGTERM, too
                files.remove(staging)
            waiting_since = time.monotonic()
        elif last_found >= last_step:
            return True
        elif timeout is not None and time.monotonic() - waiting_since >= timeout:
            return False
        else:
            time.sleep(poll_seconds)


def _checkpoints(folder: str) -> list[str]:
    """Prefixes of the complete checkpoints, oldest first."""
    # A list that is just being replaced looks damaged on some network file systems.
    known = next((known for known in _tries(folder) if known is not None), None)
    if known is None:
        raise InputError(
            f"{os.path.join(folder, checkpoint_files.LIST)} is damaged. The training writes it anew with its next "
            "checkpoint, or when it is started again: run again then."
        )
    return known


def _tries(folder: str) -> Iterator[list[str] | None]:
    """Reads the list of checkpoints, up to three times in two seconds."""
    for wait in (0.0, 0.5, 1.5):
        time.sleep(wait)
        yield checkpoint_files.listed(folder)


def _stage(path: str, staging: str) -> str | None:
    """Copies a checkpoint to where nobody deletes it; None if it is gone."""
    try:
        files.remove(staging)  # of an evaluation that was killed
        return best.copy_checkpoint(path, staging)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be copied to {staging} ({error}). Free or change the place.") from error


def _evaluate(
    evaluations: best.Evaluations, prefix: str, evaluate: Callable[[str], dict], note: Callable[[str], None]
) -> None:
    metrics = evaluate(prefix)
    if evaluations.add(prefix, metrics):
        note(evaluations.describe_best())
