# SPDX-License-Identifier: Apache-2.0
"""Models for Python programs, from exports and from checkpoints; `deeplab_axial.load` is the way in."""

import os

import tensorflow as tf
import tf_keras

from deeplab_axial import builders, config, export, files, keys
from deeplab_axial.backbones import presets
from deeplab_axial.choices import EVALUATION
from deeplab_axial.data import record_paths
from deeplab_axial.data.dataset_info import DATASET_FILE, DatasetInfo
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.data.value_range import ValueRange
from deeplab_axial.errors import InputError
from deeplab_axial.predict import PanopticModel
from deeplab_axial.protos import config_pb2
from deeplab_axial.training import averaging, checkpoints, label_space_file

_SAVED_MODEL = "saved_model.pb"
_IMAGES = "images"


def load(path: str | os.PathLike, padding: str | None = None) -> PanopticModel:
    """See `deeplab_axial.load`."""
    path = os.fspath(path)
    if files.is_remote(path):
        raise InputError(f"What is loaded must be on this machine. Received: {path}. Copy it from the store first.")
    if not os.path.isdir(path):
        if os.path.exists(f"{path}.index"):
            return _load_checkpoint(path, padding)
        raise InputError(
            f"{path!r} is no export, model folder or checkpoint: there is no such folder, and no {path}.index. "
            "Correct the path; a checkpoint is named without .index and .data-..."
        )
    if os.path.exists(os.path.join(path, _SAVED_MODEL)):
        return _load_export(path, padding)
    versions = [name for name in os.listdir(path) if name.isdecimal()]
    versions = [name for name in versions if os.path.exists(os.path.join(path, name, _SAVED_MODEL))]
    if versions:
        return _load_export(os.path.join(path, max(versions, key=int)), padding)
    prefix = checkpoints.latest(path)
    if prefix is not None:
        return _load_checkpoint(prefix, padding)
    if os.path.exists(os.path.join(path, config.FILE_NAME)):
        raise InputError(f"{path!r} holds no checkpoint. Train first: deeplab-axial train --mode=train.")
    raise InputError(
        f"{path!r} is no export of deeplab-axial (it has no {_SAVED_MODEL}) and no model folder (no "
        f"{config.FILE_NAME}). Make one with `deeplab-axial export`."
    )


def _load_export(folder: str, padding: str | None) -> PanopticModel:
    module, metadata = export.load(folder)
    if padding not in (None, metadata.padding):
        raise InputError(
            f"{folder!r} pads images as it was exported, with padding {metadata.padding}. Received: padding {padding}. "
            f"Leave it out, export again with --padding={padding}, or name the checkpoint."
        )
    signature = module.signatures["serving_default"]
    missing = {keys.PANOPTIC_MAP, keys.SEMANTIC_MAP, keys.STUFF_SCORES} - set(signature.structured_outputs)
    if missing:
        raise InputError(
            f"{folder!r} was exported by deeplab-axial {metadata.version}, whose exports have no "
            f"{', '.join(sorted(missing))}. Export its checkpoint again with this release."
        )
    shape = signature.structured_input_signature[1][_IMAGES].shape.as_list()

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return signature(**{_IMAGES: images})

    description = f"{folder}, step {metadata.step}"
    return PanopticModel(serve, metadata.label_space, description, tuple(shape[:3]), metadata.value_range)


def _load_checkpoint(prefix: str, padding: str | None) -> PanopticModel:
    options = _read_config(prefix)
    if options.model_options.HasField("classification"):
        raise InputError(f"{prefix!r} is a classifier, which segments nothing. Name a model for panoptic segmentation.")
    space = _find_label_space(options, prefix)
    # Layers keep the policy under which they are made; that of the program around them stays.
    policy = tf_keras.mixed_precision.global_policy()
    try:
        tf_keras.mixed_precision.set_global_policy(options.trainer_options.precision)
        model = builders.build_model(options)
    finally:
        tf_keras.mixed_precision.set_global_policy(policy)
    step = averaging.restore_for_inference(prefix, model, "deeplab_axial.load")
    predictor = builders.build_predictor(options, model, space, padding or EVALUATION)
    function = tf.function(
        predictor.predict_images,
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name=_IMAGES)],
        autograph=False,
    )
    return PanopticModel(function, space, f"{prefix}, step {step}", value_range=_value_range(options))


def _read_config(prefix: str) -> config_pb2.ExperimentOptions:
    """The config beside a checkpoint, or in the folder above its own."""
    folder = os.path.dirname(os.path.abspath(prefix))
    for candidate in (folder, os.path.dirname(folder)):
        path = os.path.join(candidate, config.FILE_NAME)
        if os.path.exists(path):
            return config.load(path, backbone_names=presets.NAMES, refused_backbones=presets.REFUSED)
    raise InputError(
        f"{prefix!r} has no {config.FILE_NAME} in its folder, which training writes there, so nothing tells the "
        "network. Bring the file, or export the checkpoint: deeplab-axial export --config_file=CONFIG."
    )


def _find_label_space(options: config_pb2.ExperimentOptions, prefix: str) -> LabelSpace:
    """What the classes of a checkpoint are: what training wrote beside it.

    Older folders do not have it; there it is found as in training, but the records themselves need not be there.

    Raises:
      InputError: nothing tells, or the network has another number of classes.
    """
    space = label_space_file.read_beside(prefix) or _label_space(options)
    if space is None:
        raise InputError(
            f"{prefix!r}: nothing tells its classes. The config has no label_space section, beside its file_pattern is "
            f"no {DATASET_FILE} (working directory {os.getcwd()}), and its field dataset is no known name. Bring the "
            f"data set's {DATASET_FILE} back, or load an export, which holds its classes."
        )
    channels = options.model_options.panoptic_deeplab.semantic_head.output_channels
    if space.num_classes != channels:
        raise InputError(
            f"{prefix!r}: the network has {channels} classes, but its data set {space.name!r} has {space.num_classes}. "
            "The records were converted anew since the training; load an export, or convert them as before."
        )
    return space


def _label_space(options: config_pb2.ExperimentOptions) -> LabelSpace | None:
    if options.HasField("label_space"):
        return builders.build_label_space(options.label_space)
    info = _dataset_info(options)
    if info is not None:
        return info.label_space
    datasets = (options.eval_dataset_options, options.train_dataset_options)
    shipped = [dataset.dataset for dataset in datasets if dataset.dataset in builders.SHIPPED_NAMES]
    return builders.load_label_space(shipped[0]) if shipped else None


def _value_range(options: config_pb2.ExperimentOptions) -> ValueRange | None:
    """That of the records; None where they are gone: an image that needs one is refused then."""
    try:
        info = _dataset_info(options)
    except (InputError, tf.errors.OpError):
        return None
    return info and info.value_range


def _dataset_info(options: config_pb2.ExperimentOptions) -> DatasetInfo | None:
    """What the first dataset.json beside the config's records says; None where there is none any more."""
    datasets = (options.eval_dataset_options, options.train_dataset_options)
    for pattern in (pattern for dataset in datasets for pattern in dataset.file_pattern):
        found = record_paths.matching(os.path.join(os.path.dirname(pattern), DATASET_FILE))
        if found:
            return DatasetInfo.read(os.path.dirname(found[0]))
    return None
