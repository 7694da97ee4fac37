# SPDX-License-Identifier: Apache-2.0
"""Why an input pipeline failed: TensorFlow's error, which knows no file, becomes one that names file and image."""

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf
from absl import logging

from deeplab_axial.data import pipeline, records, tfrecord_files
from deeplab_axial.errors import InputError

# What TensorFlow raises for a record that is damaged, that does not parse, or that an assertion refuses. A message that
# quotes bytes of the record may end as UnicodeDecodeError.
_DATA_ERRORS = (tf.errors.InvalidArgumentError, tf.errors.DataLossError, UnicodeDecodeError)
# What it raises for a file that has gone, and for storage that fails.
_STORAGE_ERRORS = (
    tf.errors.AbortedError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.UnauthenticatedError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)
_LONGEST_REASON = 200
_ASSERTION = re.compile(r"assertion failed: \[(.*)\]\s*$", re.MULTILINE)


@contextlib.contextmanager
def explain_errors(source: pipeline.Source, with_panoptic: bool = True) -> Iterator[None]:
    """Turns what a broken record, or one that cannot be read any more, raises inside into an InputError.

    The records are read again, one by one, only when an iterator of a data set failed. An error that the data did not
    cause passes through.

    Args:
      source: what is read inside.
      with_panoptic: whether the ground truth is decoded inside, too.

    Raises:
      InputError: names the file, the record and the image.
    """
    try:
        yield
    except _STORAGE_ERRORS as error:
        if not comes_from_a_data_set(error):
            raise
        raise InputError(_missing(source.files) or _failing(error)) from error
    except _DATA_ERRORS as error:
        if not comes_from_a_data_set(error):
            raise
        logging.info("Looking for a broken record in %d files.", len(source.files))
        problem = _missing(source.files) or _find_broken_record(source.files, with_panoptic) or _refusal(error)
        raise InputError(problem or _failing(error)) from error


def comes_from_a_data_set(error: Exception) -> bool:
    """Whether the operation that failed is a GetNext of an iterator; the network's own raise the same types.

    So do those that the processes of a training have in common, where one of them is gone.
    """
    if not isinstance(error, tf.errors.OpError):
        return isinstance(error, UnicodeDecodeError)
    is_of_workers = isinstance(error, _STORAGE_ERRORS) and re.search("[Cc]ollective|NCCL", error.message)
    return "GetNext" in error.message and (not is_of_workers or isinstance(error, tf.errors.NotFoundError))


def _missing(files: tuple[str, ...]) -> str | None:
    """What to say of record files that are gone; None if none is."""
    gone = []
    for path in files:
        try:
            if not tf.io.gfile.exists(path):
                gone.append(path)
        except tf.errors.OpError:  # it is there, or its storage does not answer
            continue
    if not gone:
        return None
    return (
        f"{len(gone)} of {len(files)} record files cannot be found any more, the first {gone[0]}. They were there at "
        "the start: bring them back, or mount their drive again, and run the same command."
    )


def _failing(error: tf.errors.OpError) -> str:
    return f"The records cannot be read any more ({reason(error)}). See to their storage and run the same command."


def _find_broken_record(files: tuple[str, ...], with_panoptic: bool) -> str | None:
    for path in files:
        number = 0
        try:
            for number, serialized in enumerate(tfrecord_files.sound_records(path), start=1):
                problem = _problem(serialized, with_panoptic)
                if problem is not None:
                    return f"{path}, record {number}: {problem} Convert the data set again."
        except tf.errors.DataLossError as error:
            return f"{path}, record {number + 1}: it is damaged ({reason(error)}). Convert the data set again."
        damage = tfrecord_files.scan(path).problem
        if damage is not None:
            return damage
    return None


def _problem(serialized: tf.Tensor, with_panoptic: bool) -> str | None:
    """What is wrong with a record, or None."""
    try:
        name = records.parse_example(serialized)[records.FILENAME].numpy().decode(errors="replace")
    except _DATA_ERRORS as error:
        return f"it is no image with features as {records.ENCODED!r} ({reason(error)})."
    try:
        pipeline.decode(serialized, with_panoptic=False)
    except _DATA_ERRORS as error:
        return f"image {name!r} does not decode ({reason(error)}). Replace it."
    try:
        pipeline.decode(serialized, with_panoptic)
    except _DATA_ERRORS as error:
        return f"the panoptic map of image {name!r} does not decode ({reason(error)})."
    return None


def _refusal(error: tf.errors.OpError | UnicodeDecodeError) -> str | None:
    """The message of a tf.debugging.Assert, without TensorFlow's frame around it."""
    found = _ASSERTION.search(_message(error))
    return found and found[1]


def reason(error: tf.errors.OpError | UnicodeDecodeError) -> str:
    """What TensorFlow says of a record, in one short line and without its frame."""
    text = next((line for line in _message(error).splitlines() if line.strip()), type(error).__name__)
    text = re.sub(r"^\{\{.*?\}\}\s*|\s*\[Op:\w+\].*$", "", text).strip()
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


def _message(error: tf.errors.OpError | UnicodeDecodeError) -> str:
    return error.object.decode(errors="replace") if isinstance(error, UnicodeDecodeError) else error.message
