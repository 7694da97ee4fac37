# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: complete or absent, and refused with a reason when they do not fit."""

import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras

from deeplab_axial.errors import InputError

_ADVICE = "It was written by another model or optimizer: use its own config, or another --model_dir."
_INITIAL_ADVICE = (
    "Name a checkpoint of the same network; for another number of classes set "
    "model_options.restore_semantic_last_layer_from_initial_checkpoint: false."
)


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
        status = tf.train.Checkpoint(**objects).restore(path)
        status.assert_existing_objects_matched()
        status.expect_partial()
    except (tf.errors.OpError, OSError, IndexError) as error:  # IndexError: data that is cut short
        raise InputError(
            f"{what}: {path!r} is no readable checkpoint ({_first_line(error)}). Check the path; it names the files "
            "without .index and .data-..."
        ) from error
    except (AssertionError, ValueError) as error:
        roots = sorted({name.split("/")[0] for name in names} - {"_CHECKPOINTABLE_OBJECT_GRAPH"})
        # TensorFlow's AssertionError prints the variables that it misses, values included.
        reason = "it lacks variables" if isinstance(error, AssertionError) else _first_line(error).rstrip(".")
        raise InputError(
            f"{what}: checkpoint {path!r} does not fit this config: {reason}. "
            f"The checkpoint holds {len(names)} variables under {', '.join(roots)}. {advice}"
        ) from error


def restore_initial(path: str, model: tf_keras.Model, semantic_last_layer: bool, instance_last_layer: bool) -> None:
    """Starts a model from the weights of another training.

    Args:
      path: prefix of a checkpoint of this library, or a folder of them (its newest is taken).
      model: a built `PanopticDeepLab`.
      semantic_last_layer: whether the last layer of the semantic head is restored.
      instance_last_layer: whether those of the centre and offset heads are.

    Raises:
      InputError: there is no checkpoint, or it does not fit.
    """
    what = "model_options.initial_checkpoint"
    prefix = latest(path) if tf.io.gfile.isdir(path) else path
    if prefix is None:
        raise InputError(f"{what}: folder {path!r} holds no checkpoint. Name a checkpoint's prefix or its folder.")
    parts = {"backbone": model.backbone, "semantic_decoder": model.semantic_decoder}
    parts["semantic_head"] = _head(model.semantic_head, semantic_last_layer)
    if model.instance_decoder is not None:
        parts["instance_decoder"] = model.instance_decoder
        parts["center_head"] = _head(model.center_head, instance_last_layer)
        parts["offset_head"] = _head(model.offset_head, instance_last_layer)
    restore(prefix, {"model": tf.train.Checkpoint(**parts)}, what, _INITIAL_ADVICE)


def _head(head: tf_keras.layers.Layer, with_last_layer: bool):
    return head if with_last_layer else tf.train.Checkpoint(conv=head.conv)


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
