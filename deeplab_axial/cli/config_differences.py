# SPDX-License-Identifier: Apache-2.0
"""What differs between the present config and the one that a run keeps in its folder."""

import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import text_format

from deeplab_axial import config, files
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2
from deeplab_axial.training import best
from deeplab_axial.training.log import EVALUATION, NETWORK

# What may differ when a run goes on: it does not change what is learnt, only names, evaluation, when things are
# written, memory and speed. The initial checkpoint has been read already. All of a section, where one is named.
HARMLESS = (
    "experiment_name",
    "published",
    "eval_dataset_options",
    "evaluator_options",
    "model_options.initial_checkpoint",
    "model_options.restore_semantic_last_layer_from_initial_checkpoint",
    "model_options.restore_instance_last_layer_from_initial_checkpoint",
    "model_options.backbone.attention_logits_at_once",
    "model_options.backbone.attention_kernel",
    "trainer_options.num_checkpoints_to_keep",
    "trainer_options.save_checkpoints_steps",
    "trainer_options.save_summaries_steps",
    "trainer_options.steps_per_loop",
    "trainer_options.recompute",
    "trainer_options.use_xla",
    "train_dataset_options.data_service_address",
)
# Not set means something else than the default here: the preset's own span, or that there is no such thing. So it does
# of what excludes each other (oneof). All other sections are there with their defaults if they are not set.
_UNSET_COUNTS = (
    "attention_span",
    "instance_decoder_override",
    "lookahead",
    "photometric_distortion",
    "inception_crop",
    "rand_augment",
    "label_space",
)
# What bears on what is predicted for an image; all of a section, where one is named.
_NETWORK = (
    "model_options",
    "label_space",
    "trainer_options.precision",
    "trainer_options.solver_options.batchnorm_epsilon",
    "evaluator_options.center_score_threshold",
    "evaluator_options.nms_kernel",
    "evaluator_options.keep_k_centers",
    "evaluator_options.stuff_area_limit",
    "evaluator_options.thing_area_limit",
)
# Of which an evaluation takes no notice, or which change its memory alone.
_NOT_EVALUATED = (
    "model_options.initial_checkpoint",
    "model_options.restore_semantic_last_layer_from_initial_checkpoint",
    "model_options.restore_instance_last_layer_from_initial_checkpoint",
    "model_options.backbone.attention_logits_at_once",
    "model_options.backbone.attention_kernel",
    "model_options.backbone.drop_path_keep_prob",
    "model_options.backbone.drop_path_schedule",
)
# What bears on which images are measured, and how large and in how many variants the network sees them.
_EVALUATION = (
    "eval_dataset_options.dataset",
    "eval_dataset_options.file_pattern",
    "eval_dataset_options.crop_size",
    "eval_dataset_options.min_resize_value",
    "eval_dataset_options.max_resize_value",
    "eval_dataset_options.resize_factor",
    "eval_dataset_options.pad_with_grey_alone",
    "evaluator_options.eval_scales",
    "evaluator_options.add_flipped_images",
    "evaluator_options.eval_steps",
)
# Of which an export has nothing: it only matters what images were measured.
_WHICH_IMAGES = (
    "eval_dataset_options.dataset",
    "eval_dataset_options.file_pattern",
    "evaluator_options.eval_steps",
)

Differences = Mapping[str, list[str]]


def since_run(
    options: config_pb2.ExperimentOptions, model_dir: str, checkpoint: str | None = None
) -> dict[str, list[str]]:
    """Fields that differ from the config that a run keeps: {NETWORK: fields, EVALUATION: fields}, those that are any.

    Args:
      options: the present config.
      model_dir: folder of the run, or its folder of the best checkpoint.
      checkpoint: prefix of the checkpoint in use, if it may lie elsewhere.

    Raises:
      InputError: the run's config is damaged.
    """
    path = _find(os.path.dirname(checkpoint) if checkpoint else model_dir)
    if path is None:
        return {}
    try:
        before = config.read_alone(path)
    except InputError as error:
        raise InputError(
            f"{path} cannot be read, so nothing tells whether the config is the run's ({error}). Bring the file back, "
            "or remove it: then nothing is compared."
        ) from error
    changes = differences(before, options, ignored=_NOT_EVALUATED)
    found = {NETWORK: _among(changes, _NETWORK), EVALUATION: _among(changes, _EVALUATION)}
    return {kind: fields for kind, fields in found.items() if fields}


def tell(differs: Differences, model_dir: str) -> None:
    """Says on standard error what `since_run` found."""
    kinds = {
        NETWORK: "warning: what is predicted differs from the run's, for the config does",
        EVALUATION: "note: the evaluation is not that of the run's config",
    }
    for kind, text in kinds.items():
        if kind in differs:
            print(f"{text} ({model_dir}):", *differs[kind], sep="\n  ", file=sys.stderr, flush=True)


def of_an_export(differs: Differences) -> list[str]:
    """Those that change what an export predicts for an image, which is resized and scaled as in evaluation."""
    fields = itertools.chain(*differs.values())
    return sorted(field for field in fields if field.partition(":")[0] not in _WHICH_IMAGES)


def _find(folder: str) -> str | None:
    """The run's config: in a folder, or above the folder of the best checkpoint."""
    folder = folder if files.is_remote(folder) else os.path.abspath(folder)
    folders = [folder]
    if os.path.basename(folder.rstrip("/")) == best.BEST_FOLDER:
        folders.append(os.path.dirname(folder.rstrip("/")))
    paths = (os.path.join(folder, config.FILE_NAME) for folder in folders)
    return next((path for path in paths if files.exists(path)), None)


def _among(changes: Sequence[str], sections: Sequence[str]) -> list[str]:
    """Those of "field: was X, now Y" whose field is one of the sections or in one."""
    fields = {change: change.partition(":")[0] for change in changes}
    return [c for c, field in fields.items() if any(field == s or field.startswith(f"{s}.") for s in sections)]


def differences(before: Any, now: Any, prefix: str = "", ignored: Sequence[str] = HARMLESS) -> list[str]:
    """Fields of two messages of one type that differ, but for the ignored ones: "field: was X, now Y".

    A field that is not set equals one that is set to its default, but for _UNSET_COUNTS.
    """
    found = []
    for field in before.DESCRIPTOR.fields:
        path = f"{prefix}{field.name}"
        if path in ignored:
            continue
        was, is_now = (_value(message, field) for message in (before, now))
        if was is not None and is_now is not None and field.message_type is not None and not config.is_repeated(field):
            found += differences(was, is_now, f"{path}.", ignored)
        elif was != is_now:
            found.append(f"{path}: was {_shown(was)}, now {_shown(is_now)}")
    return found


def _value(message: Any, field: Any) -> Any:
    """None if it is not set and that means something."""
    if config.is_repeated(field):
        return list(getattr(message, field.name))
    unset_counts = field.name in _UNSET_COUNTS or field.containing_oneof is not None
    return None if unset_counts and not message.HasField(field.name) else getattr(message, field.name)


def _shown(value: Any) -> str:
    """As a textproto has it, on one line."""
    if value is None or value == []:
        return "not set"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.7g}"
    return "{ " + text_format.MessageToString(value, as_one_line=True) + " }"
