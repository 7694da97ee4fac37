# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: complete or absent, and refused with a reason when they do not fit."""

import contextlib
import functools
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab_axial import files
from deeplab_axial.errors import InputError
from deeplab_axial.importing import deeplab2
from deeplab_axial.importing.report import Report
from deeplab_axial.training import checkpoint_files
from deeplab_axial.training.workers import Workers

_ADVICE = "It was written by another model or optimizer: use its own config, or another --model_dir."
_INITIAL_ADVICE = (
    "Name a checkpoint of the same network; for another number of classes set "
    "model_options.restore_semantic_last_layer_from_initial_checkpoint: false."
)
AS_THE_CONFIG_SAYS = "as the config says"
# What an initial checkpoint restores as a whole or not at all, as paths of attributes of the model.
_PARTS = (
    "backbone",
    "semantic_decoder",
    "semantic_head/conv",
    "semantic_head/last",
    "instance_decoder",
    "center_head/conv",
    "center_head/last",
    "offset_head/conv",
    "offset_head/last",
    "classification_head",
)
SEMANTIC_LAST_LAYERS = ("semantic_head/last", "classification_head")
_INSTANCE_LAST_LAYERS = ("center_head/last", "offset_head/last")


def latest(folder: str) -> str | None:
    """Prefix of the newest complete checkpoint in a folder, or None.

    Raises:
      InputError: there was one, but its files are gone or the file that names it is damaged.
    """
    known = checkpoint_files.listed(folder)
    if known == []:
        return None
    if known is None or not files.exists(f"{known[-1]}.index"):
        named = repr(known[-1]) if known else "what it names"
        raise InputError(
            f"{folder}: the file `{checkpoint_files.LIST}` says there is one, but {named} is gone or the file is "
            "damaged. Bring the files back; training falls back to an older checkpoint, if there is one."
        )
    return known[-1]


def restore(path: str, objects: Mapping[str, Any], what: str, advice: str = _ADVICE) -> None:
    """Restores all variables of objects from a checkpoint.

    Args:
      path: prefix of the checkpoint.
      objects: root names in the checkpoint -> trackable objects, all built.
      what: where the path comes from, for messages, as "model_options.initial_checkpoint".
      advice: what to do about a checkpoint that does not fit.

    Raises:
      InputError: the checkpoint is missing or damaged, lacks a variable, or has one of another shape.
    """
    problem = _restore(path, objects, what, advice)
    if problem is not None:
        raise InputError(problem)


def _restore(path: str, objects: Mapping[str, Any], what: str, advice: str) -> str | None:
    """Does what `restore` does, and returns what is wrong."""
    try:
        names = set(checkpoint_files.open_reader(path).get_variable_to_shape_map())
        if not names:  # so TensorFlow takes an .index file
            raise tf.errors.NotFoundError(None, None, "no variables")
    except (tf.errors.OpError, OSError, IndexError, ValueError) as error:  # IndexError: data that is cut short
        return _unreadable(path, what, error)
    try:
        # Partial: what does not fit is reported here, once.
        checkpoint = tf.train.Checkpoint(**objects)
        checkpoint.restore(files.without_glob(path)).expect_partial().assert_existing_objects_matched()
    except (tf.errors.OpError, OSError, IndexError, AssertionError, ValueError) as error:
        # When the objects die, TensorFlow would list every value of the checkpoint, whose fault the message tells.
        tf.get_logger().addFilter(_is_no_list_of_values)
        if not isinstance(error, (AssertionError, ValueError)):
            return _unreadable(path, what, error)
        roots = sorted({name.split("/")[0] for name in names} - {"_CHECKPOINTABLE_OBJECT_GRAPH"})
        reason = _missing(error) if isinstance(error, AssertionError) else files.first_line(error).rstrip(".")
        return (
            f"{what}: checkpoint {path!r} does not fit this config: {reason}. "
            f"The checkpoint holds {len(names)} variables under {', '.join(roots)}. {advice}"
        )
    return None


def _unreadable(path: str, what: str, error: Exception) -> str:
    return (
        f"{what}: {path!r} is no readable checkpoint ({files.first_line(error)}). Check the path; it names the files "
        "without .index and .data-..."
    )


def _is_no_list_of_values(record: logging.LogRecord) -> bool:
    """A filter of a logger, for what TensorFlow says when it forgets a checkpoint that was not restored in full."""
    text = str(record.msg)
    return not text.startswith(
        ("Value in checkpoint could not", "Value in object could not", "Detecting that an object")
    )


def restore_initial(
    path: str,
    model: tf_keras.Model,
    semantic_last_layer: bool = True,
    instance_last_layer: bool = True,
    semantic_reason: str = AS_THE_CONFIG_SAYS,
) -> Report:
    """Starts a model from the weights of another training.

    Backbone, decoders and heads are restored as far as the checkpoint has them, each as a whole: so a segmentation
    model starts from a classifier's backbone.

    Args:
      path: prefix of a checkpoint of this library or of DeepLab2, or a folder of them (its newest is taken).
      model: built; a `PanopticDeepLab` or a classifier.
      semantic_last_layer: whether the last layer of the semantic head (of the classifier) is restored.
      instance_last_layer: whether those of the centre and offset heads are.
      semantic_reason: for the report, why the last layer of the semantic head is not restored.

    Returns:
      What was restored, and what not.

    Raises:
      InputError: there is no checkpoint, or it does not fit.
    """
    what = "model_options.initial_checkpoint"
    prefix = latest(path) if tf.io.gfile.isdir(path) else path
    if prefix is None:
        raise InputError(f"{what}: folder {path!r} holds no checkpoint. Name a checkpoint's prefix or its folder.")
    skip = {
        **({} if semantic_last_layer else dict.fromkeys(SEMANTIC_LAST_LAYERS, semantic_reason)),
        **({} if instance_last_layer else dict.fromkeys(_INSTANCE_LAST_LAYERS, AS_THE_CONFIG_SAYS)),
    }
    keys = deeplab2.read_shapes(prefix, what)
    if deeplab2.recognises(keys):
        return deeplab2.restore(prefix, model, what, skip=skip)
    return _restore_parts(prefix, model, what, skip, [key for key in keys if key.endswith(deeplab2.SUFFIX)])


def _restore_parts(path: str, model: tf_keras.Model, what: str, skip: Mapping[str, str], keys: list[str]) -> Report:
    """Restores what a checkpoint of this library with these keys has of the model's parts."""
    report = Report("deeplab-axial", path)
    taken: dict[str, Any] = {}
    for name in _PARTS:
        part = _attribute(model, name)
        if part is None:
            continue
        if not any(key.startswith(f"model/{name}/") for key in keys):
            report.absent[name] = "not in the checkpoint"
        elif name in skip:
            report.absent[name] = skip[name]
        else:
            taken[name] = part
            report.restored[name] = len(part.variables)
    for name in report.absent:
        report.new += [variable.name.removesuffix(":0") for variable in _attribute(model, name).variables]
    if not taken:
        roots = ", ".join(sorted({key.split("/")[0] for key in keys}))
        raise InputError(
            f"{what}: checkpoint {path!r} does not fit this config: it has no part of the model. It is neither a "
            "checkpoint of this library, whose keys start with model/backbone/, nor of DeepLab2, whose keys start with "
            f"encoder/. The checkpoint holds {len(keys)} variables under {roots}. {_INITIAL_ADVICE}"
        )
    restore(path, {"model": parts_of(model, taken)}, what, _INITIAL_ADVICE)
    for name, part in taken.items():
        surplus = sum(key.startswith(f"model/{name}/") for key in keys) - len(part.variables)
        if surplus > 0:
            raise InputError(
                f"{what}: checkpoint {path!r} does not fit this config: its {name} has {surplus} variables that the "
                f"model's has not. {_INITIAL_ADVICE}"
            )
    read = tuple(f"model/{name}/" for name in taken)
    for key in keys:
        name = key.removesuffix(deeplab2.SUFFIX)
        if key.startswith(read):
            report.taken.append(name)
            continue
        report.left_over.append(name)
        root = key.split("/")[0]
        reasons = {
            "optimizer": "of the optimizer's state",
            "part_optimizers": "of the optimizer's state",
            "average": "of the averages of the weights",
            "model": "of parts that are not restored",
        }
        reason = reasons.get(root, "counters")
        report.left[reason] = report.left.get(reason, 0) + 1
    return report


def _attribute(model: tf_keras.Model, path: str) -> Any:
    """The part of a model at a path of attributes; None if it has none."""
    value: Any = model
    for name in path.split("/"):
        value = getattr(value, name, None)
    return value


def parts_of(model: tf_keras.Model, names: Iterable[str]) -> tf.train.Checkpoint:
    """An object that is saved and restored like the model, but has only the named parts ("semantic_head/last")."""
    tree: dict[str, Any] = {}
    for path in names:
        first, _, rest = path.partition("/")
        tree.setdefault(first, []).extend([rest] if rest else [])
    children = {name: getattr(model, name) for name in tree}
    return tf.train.Checkpoint(**{n: parts_of(part, tree[n]) if tree[n] else part for n, part in children.items()})


def _missing(error: AssertionError) -> str:
    """The variables that a checkpoint lacks. TensorFlow prints the first of them, values included."""
    names = [name.removesuffix(":0") for name in re.findall(r"<tf\.Variable '([^']+)'", str(error))]
    return f"it lacks variables{', as ' + ', '.join(names[:3]) if names else ''}"


class Manager:
    """The checkpoints of a model folder.

    Args:
      folder: where they are.
      objects: root names -> trackable objects, all built.
      step: counts the training steps.
      max_to_keep: older ones are deleted.
      workers: that train together; all save and restore at the same time, and the chief alone writes to the folder.
    """

    def __init__(
        self,
        folder: str,
        objects: Mapping[str, Any],
        step: tf.Variable,
        max_to_keep: int,
        workers: Workers | None = None,
    ):
        self.folder = folder
        self.workers = workers or Workers()
        self.objects = {**objects, "step": step}
        self.step = step
        self.max_to_keep = max_to_keep

    @functools.cached_property
    def _manager(self) -> tf.train.CheckpointManager:
        # Made late: it reads the list of checkpoints, which `restore_latest` mends.
        return tf.train.CheckpointManager(
            tf.train.Checkpoint(**self.objects),
            self.folder,
            self.max_to_keep,
            step_counter=self.step,
            checkpoint_name=checkpoint_files.NAME,
        )

    def restore_latest(self) -> str | None:
        """Restores the newest checkpoint that can be read, if there is one, and returns its prefix.

        Damaged ones are put aside with a warning; see `checkpoint_files.newest_readable`.

        Raises:
          InputError: none of the checkpoints can be read, the newest that can does not fit, or it is not there for
            all workers.
        """
        if not self.workers.is_chief:
            self.workers.wait()
        path = checkpoint_files.newest_readable(self.folder, mend=self.workers.is_chief)
        if self.workers.is_chief:
            self.workers.wait()
        if self.workers.any(path is None) and self.workers.any(path is not None):
            raise InputError(
                "--model_dir must be a folder that all workers share. Received: "
                f"{self.folder}, in which {'this one finds no checkpoint' if path is None else 'some find none'}. "
                "Name a network drive or a bucket."
            )
        if path is not None:
            restore(path, self.objects, f"--model_dir={self.folder}")
        return path

    def save(self) -> str:
        """Writes a checkpoint, unless there is one of this step already.

        Raises:
          InputError: it cannot be written; those before it are untouched.
        """
        step = int(self.step.numpy())
        path = os.path.join(self.folder, f"{checkpoint_files.NAME}-{step}")
        if self.workers.any(self.workers.is_chief and path in self._manager.checkpoints):
            return path
        if not self.workers.is_chief:
            self._take_part()
            return path
        before = self._manager.checkpoints
        try:
            path = self._manager.save(checkpoint_number=step)
            if path is not None:
                checkpoint_files.remove(set(before) - set(self._manager.checkpoints))
            return path
        except (tf.errors.OpError, OSError) as error:
            if self.workers.tells_loss(error):
                raise
            with contextlib.suppress(OSError):  # makes room
                checkpoint_files.remove_unfinished(self.folder)
            raise InputError(
                f"Cannot write a checkpoint to {self.folder} ({files.first_line(error)}). Free or change the place and "
                f"run again: training resumes from {latest(self.folder) or 'the start'}."
            ) from error

    def _take_part(self) -> None:
        """Saves with the chief, for nobody: as they are saved, moving statistics are averaged over all workers."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                tf.train.Checkpoint(**self.objects).write(os.path.join(folder, checkpoint_files.NAME))
            except (tf.errors.OpError, OSError) as error:
                if self.workers.tells_loss(error):
                    raise
                raise InputError(
                    f"Cannot write to {folder}, a temporary folder ({files.first_line(error)}). Free it, or set TMPDIR "
                    "to another place, and run all workers again."
                ) from error
