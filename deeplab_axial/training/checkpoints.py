# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: complete or absent, and refused with a reason when they do not fit."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab_axial.errors import InputError
from deeplab_axial.importing import deeplab2
from deeplab_axial.importing.report import Report

_ADVICE = "It was written by another model or optimizer: use its own config, or another --model_dir."
_INITIAL_ADVICE = (
    "Name a checkpoint of the same network; for another number of classes set "
    "model_options.restore_semantic_last_layer_from_initial_checkpoint: false."
)
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
_SEMANTIC_LAST_LAYERS = ("semantic_head/last", "classification_head")
_INSTANCE_LAST_LAYERS = ("center_head/last", "offset_head/last")


def latest(folder: str) -> str | None:
    """Prefix of the newest complete checkpoint in a folder, or None.

    Raises:
      InputError: there was one, but its files are gone or the file that names it is damaged.
    """
    path = tf.train.latest_checkpoint(folder)
    if path is None and tf.io.gfile.exists(os.path.join(folder, "checkpoint")):
        # Training would start over, unasked.
        state = tf.train.get_checkpoint_state(folder)
        named = repr(state.model_checkpoint_path) if state is not None else "what it names"
        raise InputError(
            f"{folder}: the file `checkpoint` says there is one, but {named} is gone or the file is damaged. "
            "Bring the files back, or remove the folder to start over."
        )
    return path


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
    try:
        names = {name for name, _ in tf.train.list_variables(path)}
        if not names:  # so TensorFlow takes an .index file
            raise tf.errors.NotFoundError(None, None, "no variables")
        # Partial: what does not fit is reported here, once.
        tf.train.Checkpoint(**objects).restore(path).expect_partial().assert_existing_objects_matched()
    except (tf.errors.OpError, OSError, IndexError) as error:  # IndexError: data that is cut short
        raise InputError(
            f"{what}: {path!r} is no readable checkpoint ({_first_line(error)}). Check the path; it names the files "
            "without .index and .data-..."
        ) from error
    except (AssertionError, ValueError) as error:
        roots = sorted({name.split("/")[0] for name in names} - {"_CHECKPOINTABLE_OBJECT_GRAPH"})
        reason = _missing(error) if isinstance(error, AssertionError) else _first_line(error).rstrip(".")
        raise InputError(
            f"{what}: checkpoint {path!r} does not fit this config: {reason}. "
            f"The checkpoint holds {len(names)} variables under {', '.join(roots)}. {advice}"
        ) from error


def restore_initial(
    path: str, model: tf_keras.Model, semantic_last_layer: bool = True, instance_last_layer: bool = True
) -> Report:
    """Starts a model from the weights of another training.

    Backbone, decoders and heads are restored as far as the checkpoint has them, each as a whole: so a segmentation
    model starts from a classifier's backbone.

    Args:
      path: prefix of a checkpoint of this library or of DeepLab2, or a folder of them (its newest is taken).
      model: built; a `PanopticDeepLab` or a classifier.
      semantic_last_layer: whether the last layer of the semantic head (of the classifier) is restored.
      instance_last_layer: whether those of the centre and offset heads are.

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
        *(() if semantic_last_layer else _SEMANTIC_LAST_LAYERS),
        *(() if instance_last_layer else _INSTANCE_LAST_LAYERS),
    }
    keys = deeplab2.read_shapes(prefix, what)
    if deeplab2.recognises(keys):
        return deeplab2.restore(prefix, model, what, skip=skip)
    return _restore_parts(prefix, model, what, skip, [key for key in keys if key.endswith(deeplab2.SUFFIX)])


def _restore_parts(path: str, model: tf_keras.Model, what: str, skip: set[str], keys: list[str]) -> Report:
    """Restores what a checkpoint of this library with these keys has of the model's parts."""
    report = Report("deeplab-axial", path)
    taken: dict[str, Any] = {}
    for name in _PARTS:
        part = _attribute(model, name)
        if part is None:
            continue
        if name in skip:
            report.absent[name] = "as the config says"
        elif not any(key.startswith(f"model/{name}/") for key in keys):
            report.absent[name] = "not in the checkpoint"
        else:
            taken[name] = part
            report.restored[name] = len(part.variables)
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
        if key.startswith(read):
            continue
        root = key.split("/")[0]
        reasons = {"optimizer": "of the optimizer's state", "model": "of parts that are not restored"}
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


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()


class Manager:
    """The checkpoints of a model folder.

    Args:
      folder: where they are.
      objects: root names -> trackable objects, all built.
      step: counts the training steps.
      max_to_keep: older ones are deleted.
    """

    def __init__(self, folder: str, objects: Mapping[str, Any], step: tf.Variable, max_to_keep: int):
        self.folder = folder
        self.objects = {**objects, "step": step}
        self.step = step
        self._manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(**self.objects), folder, max_to_keep, step_counter=step, checkpoint_name="ckpt"
        )

    def restore_latest(self) -> str | None:
        """Restores the newest checkpoint, if there is one, and returns its prefix."""
        path = latest(self.folder)
        if path is not None:
            restore(path, self.objects, f"--model_dir={self.folder}")
        return path

    def save(self) -> str:
        """Writes a checkpoint, unless there is one of this step already."""
        path = os.path.join(self.folder, f"ckpt-{int(self.step.numpy())}")
        if path in self._manager.checkpoints:
            return path
        try:
            return self._manager.save(checkpoint_number=int(self.step.numpy()))
        except tf.errors.OpError as error:
            raise InputError(
                f"Cannot write a checkpoint to {self.folder} ({_first_line(error)}). Free or change the place and run "
                f"again: training resumes from {latest(self.folder) or 'the start'}."
            ) from error
