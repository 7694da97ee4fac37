# SPDX-License-Identifier: Apache-2.0
"""The checkpoints in a folder: which there are, which of them can be read, and where damaged ones go.

A checkpoint is the files PREFIX.index and PREFIX.data-...; the file LIST names those that are complete.
"""

import errno
import os
import re
import time
from collections.abc import Iterable

import tensorflow as tf
from absl import logging

from deeplab_axial import files
from deeplab_axial.errors import InputError

LIST = "checkpoint"
NAME = "ckpt"
_LARGEST_LIST = 2**24  # bytes
# In front of the names of files that cannot be read and are kept aside.
DAMAGED = "damaged-"
# Not the fault of the files: the same reading may succeed later, or with other permissions.
_REFUSALS = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.PermissionDeniedError,
    tf.errors.ResourceExhaustedError,
    tf.errors.UnauthenticatedError,
    tf.errors.UnavailableError,
)


def listed(folder: str) -> list[str] | None:
    """Prefixes that LIST names, the newest last; none without LIST, and None if it is damaged."""
    if not files.exists(os.path.join(folder, LIST)):
        return []
    try:
        files.read(os.path.join(folder, LIST), _LARGEST_LIST)
    except OSError as error:
        if error.errno in (errno.EFBIG, errno.EINVAL):  # of `files.read`: it is no list, whatever it is
            return None
    try:
        state = tf.train.get_checkpoint_state(folder)
    except ValueError:  # UnicodeDecodeError among them
        return None
    if state is None:
        _check_that_storage_answers(os.path.join(folder, LIST))
        return None
    newest = state.model_checkpoint_path
    return [*(path for path in state.all_model_checkpoint_paths if path != newest), newest]


def any_there(folder: str) -> bool:
    """Whether a run would go on from this folder, or end with an error because all that is there is damaged."""
    return files.exists(os.path.join(folder, LIST)) or bool(_found(folder))


def newest_step(folder: str) -> int | None:
    """The largest step in the names of the checkpoints that LIST or the folder has, complete or not; None without."""
    matches = (re.search(r"-(\d+)$", path) for path in [*(listed(folder) or ()), *_found(folder)])
    return max((int(match[1]) for match in matches if match), default=None)


def write_list(folder: str, names: Iterable[str]) -> None:
    """Writes LIST, as tf.train.CheckpointManager does, for checkpoints that are in the folder; the newest last."""
    names = list(names)
    lines = [f'model_checkpoint_path: "{names[-1]}"', *(f'all_model_checkpoint_paths: "{name}"' for name in names)]
    # The manager goes on to manage those alone that have a time.
    lines += [f"all_model_checkpoint_timestamps: {time.time()}" for _ in names]
    files.write_atomically(os.path.join(folder, LIST), "\n".join([*lines, "last_preserved_timestamp: 1", ""]))


def open_reader(prefix: str) -> tf.compat.v1.train.NewCheckpointReader:
    """A reader of a checkpoint: tf.train.load_checkpoint without its look for a folder of that name.

    Raises:
      tf.errors.OpError: there is no such checkpoint, or its index is damaged.
      OSError: one of its files is a FIFO, device, folder or socket, which TensorFlow would wait for.
    """
    files.check_parts(prefix)
    return tf.compat.v1.train.NewCheckpointReader(files.without_glob(prefix))


def why_unreadable(prefix: str) -> str | None:
    """Reads a checkpoint in full, every tensor with its checksum, and says what is wrong; None if nothing is.

    Raises:
      InputError: the storage refuses to give the files.
    """
    try:
        reader = open_reader(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, OSError, IndexError, ValueError) as error:  # IndexError: data that is cut short
        _check_that_storage_answers(prefix)
        return files.first_line(error)
    return None


def newest_readable(folder: str, mend: bool = True) -> str | None:
    """Finds the newest checkpoint that can be read in full. What is damaged is left out, loudly.

    Args:
      folder: of the model.
      mend: whether damaged files get a name with DAMAGED in front, LIST is written anew and what a kill left behind is
        removed; by one process of a job only.

    Returns:
      Its prefix; None if no checkpoint was ever finished.

    Raises:
      InputError: there are checkpoints, but none can be read; all files stay as they are.
    """
    known = listed(folder)
    found = _found(folder)
    candidates = list(dict.fromkeys([*reversed(known or ()), *reversed(found)]))
    damaged: dict[str, str] = {}
    newest = None
    for prefix in candidates:
        reason = why_unreadable(prefix)
        if reason is None:
            newest = prefix
            break
        damaged[prefix] = reason
    is_listed = files.exists(os.path.join(folder, LIST))
    never_finished = not is_listed and len(candidates) <= 1
    if newest is None and not never_finished:
        said = [f"{prefix}: {reason}" for prefix, reason in damaged.items()]
        said = [f"the file {LIST} is damaged", *said] if known is None else said
        raise InputError(
            f"{folder} holds no checkpoint that can be read: {'; '.join(said)}. Bring the files back, or name another "
            "--model_dir to start over."
        )
    for prefix, reason in damaged.items():
        kept = _set_aside(prefix) if mend else "another name"
        there = f"is kept as {kept}" if kept else "is gone"
        logging.warning("%s cannot be read (%s). What there is of it %s.", prefix, reason, there)
    if known is None:
        kept = _set_aside(os.path.join(folder, LIST)) if mend else "another name"
        logging.warning("%s is damaged. It is kept as %s.", os.path.join(folder, LIST), kept)
    if newest is not None and (damaged or known is None or not is_listed):
        logging.warning("Falling back to the newest checkpoint that can be read: %s", newest)
        if mend:
            older = [prefix for prefix in found if prefix in candidates[candidates.index(newest) + 1 :]]
            write_list(folder, map(os.path.basename, [*older, newest]))
    elif damaged:
        logging.warning("It was the first, and no checkpoint was ever finished: starting over.")
    if mend:
        remove_unfinished(folder)
    return newest


def remove(prefixes: Iterable[str]) -> None:
    """Removes the files of checkpoints, if they are there: in a folder "run[1]" TensorFlow does not find them."""
    for prefix in prefixes:
        for path in _files_of(prefix):
            files.remove(path)


def remove_unfinished(folder: str) -> None:
    """Removes the folders of checkpoints whose writing was cut short."""
    for name in files.names(folder):
        if re.fullmatch(rf"{NAME}-\d+_temp", name):
            files.remove(os.path.join(folder, name))


def _found(folder: str) -> list[str]:
    """Prefixes of what looks like a checkpoint of this library, by rising step, listed or not."""
    matches = (re.fullmatch(rf"{NAME}-(\d+)\.index", name) for name in files.names(folder))
    return [os.path.join(folder, f"{NAME}-{step}") for step in sorted(int(match[1]) for match in matches if match)]


def _files_of(prefix: str) -> list[str]:
    """The index first, then the data; a plain file for what is no checkpoint."""
    folder, name = os.path.split(prefix)
    pattern = rf"{re.escape(name)}(\.index|\.data-\d+-of-\d+)?"
    return [os.path.join(folder, n) for n in sorted(files.names(folder), reverse=True) if re.fullmatch(pattern, n)]


def _set_aside(prefix: str) -> str | None:
    """Renames the files of a checkpoint, or one file, to names that nothing else has; None if there are none."""
    folder, name = os.path.split(prefix)
    there = files.names(folder)
    number, new = 1, f"{DAMAGED}{name}"
    while any(other == new or other.startswith(f"{new}.") for other in there):
        number += 1
        new = f"{DAMAGED}{number}-{name}"
    paths = _files_of(prefix)
    with files.explained(folder):
        for path in paths:
            files.move(path, os.path.join(folder, new + os.path.basename(path).removeprefix(name)))
    return os.path.join(folder, new) if paths else None


def _check_that_storage_answers(prefix: str) -> None:
    """Raises InputError if a file that is there cannot be opened for a reason that is not in the file."""
    for path in _files_of(prefix):
        try:
            files.check_regular(path)
        except OSError as error:
            if error.errno == errno.EINVAL:  # what it is would be waited for
                continue
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                file.read(1)
        except _REFUSALS as error:
            raise InputError(
                f"{path} cannot be read at present ({files.first_line(error)}). Check permissions and network, and run "
                "again."
            ) from error
        except tf.errors.OpError:
            continue
