# SPDX-License-Identifier: Apache-2.0
"""Restores a model from a DeepLab2 checkpoint, by the table of `deeplab2_names`.

A part of the model (backbone, decoder, head without its last layer, last layer) is restored as a whole, or is not in
the checkpoint and named so; a part that fits by half is an error. Nothing is assigned before all of it is checked.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf
import tf_keras

from deeplab_axial.errors import InputError
from deeplab_axial.files import check_parts, check_regular, without_glob
from deeplab_axial.importing import deeplab2_names, remedies
from deeplab_axial.importing.deeplab2_names import Entry, Part
from deeplab_axial.importing.report import Report

Shapes = Mapping[str, tuple[int, ...]]

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_SLOT = "/.OPTIMIZER_SLOT/"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_STEP = "global_step"
# The prefix of the vision trainer of TensorFlow's Model Garden, which pretrained backbones.
_MODEL_GARDEN = "backbone/_encoder/"
# What MaX-DeepLab has in its encoder beyond the backbone.
_MAX_DEEPLAB = re.compile(
    r"encoder/(_stage5_extra|_decoder_stage\d|_class_feature|_mask_feature|_?memory_feature)|/_block\d+_transformer/"
)
_INSTANCE_ROOTS = ("instance_decoder", "instance_center_head", "instance_regression_head")
_PANOPTIC_ROOTS = ("semantic_decoder", "semantic_head", "semantic_last_layer", *_INSTANCE_ROOTS)
_SHOWN = 2


def read_shapes(path: str, what: str) -> dict[str, tuple[int, ...]]:
    """The keys of a checkpoint with the shapes of their values.

    Args:
      path: prefix of the checkpoint.
      what: where the path comes from, for messages, as "model_options.initial_checkpoint".

    Raises:
      InputError: there is no checkpoint, it is damaged, or it is of another kind than TensorFlow 2's.
    """
    is_file = tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path)
    try:
        check_parts(path)
        if is_file:
            check_regular(path)
    except OSError as error:
        raise _unreadable(path, what, error) from error
    if is_file and tf.io.gfile.GFile(path, "rb").read(len(_HDF5)) == _HDF5:
        raise InputError(
            f"{what}: {path!r} is an HDF5 file of Keras weights, not a checkpoint. Name the prefix of a checkpoint of "
            "TensorFlow 2 (files PREFIX.index and PREFIX.data-...)."
        )
    try:
        shapes = {name: tuple(shape) for name, shape in tf.train.list_variables(without_glob(path))}
        if not shapes:  # so TensorFlow takes an .index file
            raise tf.errors.NotFoundError(None, None, "no variables")
    except (tf.errors.OpError, OSError, IndexError, ValueError) as error:
        raise _unreadable(path, what, error) from error
    if _GRAPH not in shapes:
        raise InputError(
            f"{what}: {path!r} is a checkpoint of TensorFlow 1: it names variables, as {min(shapes)!r}, and has no "
            "object graph. Name a checkpoint that was written with tf.train.Checkpoint, as DeepLab2's are."
        )
    return shapes


def recognises(keys: Iterable[str]) -> bool:
    """Whether a checkpoint with these keys is DeepLab2's."""
    return any(key.startswith(("encoder/", _MODEL_GARDEN)) for key in keys)


def restore(
    path: str,
    model: tf_keras.Model,
    what: str,
    *,
    skip: Mapping[str, str] | None = None,
    same_function: bool = False,
) -> Report:
    """Gives a model the weights of a DeepLab2 checkpoint.

    Args:
      path: prefix of the checkpoint.
      model: built, of the flavor "deeplab2".
      what: where the path comes from, for messages.
      skip: parts that keep their initialisation, as "semantic_head/last", and why; None: all are restored.
      same_function: whether a model that computes something else with these weights is refused too: one whose attention
        has a span.

    Returns:
      What was restored, what was not, what was left in the checkpoint.

    Raises:
      InputError: the checkpoint is not readable, is not DeepLab2's, or does not fit the model.
    """
    shapes = read_shapes(path, what)
    if not recognises(shapes):
        raise InputError(
            f"{what}: {path!r} is no checkpoint of DeepLab2, whose keys start with encoder/ (or {_MODEL_GARDEN}). "
            f"This one's start with {_roots(shapes)}. Checkpoints of this library need no import."
        )
    _check_model(model, what, path, same_function)
    # DeepLab2's key -> key in the file. Slot variables of an optimizer stand under the variable's own key.
    files = {_normal(key): key for key in shapes if key.endswith(SUFFIX) and _SLOT not in key}
    table = deeplab2_names.parts(model)
    report = Report("DeepLab2", path)
    taken: list[Part] = []
    for part in table:
        if skip and part.name in skip:
            report.absent[part.name] = skip[part.name]
        elif not any(key.startswith(f"{part.root}/") for key in files):
            report.absent[part.name] = "not in the checkpoint"
        else:
            taken.append(part)
            report.restored[part.name] = len(part.entries)
    absent = [part for part in table if part.name in report.absent]
    report.new += [_name(entry.variable) for part in absent for entry in part.entries]
    _check_fit(taken, {key: shapes[name] for key, name in files.items()}, what, path)
    arrays = _read(path, what, files, [entry for part in taken for entry in part.entries])
    if _STEP in files:
        report.step = int(_read_one(path, what, files[_STEP]))
    _count_what_is_left(report, shapes, taken, table)
    span = getattr(model.backbone, "attention", {}).get("span")
    if span:
        report.notes.append(
            f"DeepLab2's attention saw the whole axis, this model's sees {span} positions: train on before you use it."
        )
    assign([entry for part in taken for entry in part.entries], arrays)
    return report


def assign(entries: Iterable[Entry], arrays: Mapping[str, np.ndarray]) -> None:
    """Gives variables the arrays of their keys, all of them, in the shapes that the table names."""
    entries = list(entries)
    if arrays.keys() != {entry.key for entry in entries}:
        differing = sorted(arrays.keys() ^ {entry.key for entry in entries})
        raise ValueError(f"Arrays and table must have the same keys. Received: only one has {_some(differing)}.")
    for entry in entries:
        array = arrays[entry.key]
        if array.shape != entry.shape:
            raise ValueError(f"{entry.key} must have shape {entry.shape}. Received: {array.shape}.")
        entry.variable.assign(array.reshape(entry.variable.shape))


def _normal(key: str) -> str:
    key = key.removesuffix(SUFFIX)
    return f"encoder/{key.removeprefix(_MODEL_GARDEN)}" if key.startswith(_MODEL_GARDEN) else key


def _check_model(model: tf_keras.Model, what: str, path: str, same_function: bool) -> None:
    """Refuses models that take the weights but make something else of them."""
    backbone = model.backbone
    stages = (backbone.stage1, *backbone.stages)
    blocks = [block for stage in stages for block in stage if getattr(block, "attention", None)]
    differs = None
    if backbone.stem_layer.max_pool or (blocks and backbone.striding != "subsample"):
        differs = (
            'its flavor is "paper" (max pool after the stem, strides by average pooling), which computes something '
            'else with the same weights. Set model_options.backbone.flavor: "deeplab2", and the multipliers of the '
            "DeepLab2 config: there, the letter of a name alone does not set the width"
        )
    elif any(block.attention_kind != "axial" for block in blocks):
        differs = "its attention is in square windows, which DeepLab2 has not. Use an axial or convolutional backbone"
    elif same_function and any(block.attention.get("span") for block in blocks):
        differs = (
            "its attention has a span, DeepLab2's spans the whole axis. Set model_options.backbone.attention_span: 0 "
            "to import, or name the checkpoint in model_options.initial_checkpoint to train with a span from there"
        )
    if differs:
        raise InputError(f"{what}: {path!r} is a checkpoint of DeepLab2 and does not fit this config: {differs}.")


def _check_fit(taken: Sequence[Part], shapes: Shapes, what: str, path: str) -> None:
    entries = [entry for part in taken for entry in part.entries]
    missing = [entry for entry in entries if entry.key not in shapes]
    wrong = [entry for entry in entries if entry.key in shapes and shapes[entry.key] != entry.shape]
    known = {entry.key for entry in entries}
    roots = tuple(f"{part.root}/" for part in taken)
    extra = sorted(key for key in shapes if key.startswith(roots) and key not in known and not _MAX_DEEPLAB.search(key))
    problems = []
    if missing:
        examples = [f"{_name(e.variable)} (key {e.key}, shape {e.shape})" for e in missing]
        problems.append(f"it lacks {len(missing)} of the model's variables, as {_some(examples)}")
    if wrong:
        examples = [f"{_name(e.variable)} needs {e.shape} and {e.key} has {shapes[e.key]}" for e in wrong]
        problems.append(f"{len(wrong)} have another shape, as {_some(examples)}")
    if extra:
        problems.append(f"it has {len(extra)} that the model has not, as {_some(extra)}")
    if problems:
        remedy = remedies.remedy(
            [entry.key for entry in missing] + extra, {e.key: (e.shape, shapes[e.key]) for e in wrong}
        )
        raise InputError(
            f"{what}: {path!r} is a checkpoint of DeepLab2 and does not fit this config: {'; '.join(problems)}. "
            f"{remedy}"
        )


def _read(path: str, what: str, files: Mapping[str, str], entries: Sequence[Entry]) -> dict[str, np.ndarray]:
    return {entry.key: _read_one(path, what, files[entry.key]) for entry in entries}


def _read_one(path: str, what: str, name: str) -> np.ndarray:
    try:
        return tf.train.load_variable(without_glob(path), name)
    except (tf.errors.OpError, OSError, IndexError) as error:  # IndexError: data that is cut short
        raise _unreadable(path, what, error) from error


def _unreadable(path: str, what: str, error: Exception) -> InputError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return InputError(
        f"{what}: {path!r} is no readable checkpoint ({reason}). Check the path; it names the files without .index and "
        ".data-..."
    )


def _count_what_is_left(report: Report, shapes: Shapes, taken: Sequence[Part], table: Sequence[Part]) -> None:
    read = {entry.key for part in taken for entry in part.entries}
    ours = {part.root for part in table}
    unknown: dict[str, int] = {}
    for name in shapes:
        key = _normal(name)
        root = key.split("/")[0]
        if name == _GRAPH:
            continue
        if key in read and _SLOT not in name:
            report.taken.append(key)
            continue
        report.left_over.append(key)
        if _SLOT in name or root in ("optimizer", "backbone_optimizer"):
            reason = "of the optimizer's state"
        elif root in (_STEP, "save_counter"):
            reason = "counters"
        elif _MAX_DEEPLAB.search(key):
            reason = "of MaX-DeepLab's own layers"
        elif root in ours:
            reason = "of last layers that the config does not restore"
        elif root.startswith(_INSTANCE_ROOTS) and "semantic_decoder" in ours:
            reason = "of instance parts, which the config has not"
        elif root.startswith(_PANOPTIC_ROOTS):
            reason = "of decoders and heads, which the config has not"
        else:
            unknown[root] = unknown.get(root, 0) + 1
            continue
        report.left[reason] = report.left.get(reason, 0) + 1
    for root, number in unknown.items():
        report.left[f"unknown, under {root}/"] = number


def _name(variable: tf.Variable) -> str:
    """The variable's name without that of the whole model, which stands first."""
    return variable.name.removesuffix(":0").partition("/")[2]


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:_SHOWN]) + (", ..." if len(words) > _SHOWN else "")


def _roots(shapes: Shapes) -> str:
    return _some(sorted({key.split("/")[0] for key in shapes} - {_GRAPH}))
