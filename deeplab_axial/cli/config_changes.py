# SPDX-License-Identifier: Apache-2.0
"""Whether a run may go on with the present config: what differs from the one that it began with."""

import hashlib
import os
from typing import Any

from absl import flags, logging
from google.protobuf import text_format

from deeplab_axial import config, files
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2
from deeplab_axial.training import best, checkpoint_files

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

FLAGS = flags.FLAGS

flags.DEFINE_bool(
    "allow_config_change",
    False,
    "Go on with a run although fields of its config have changed that bear on what is learnt. The files of "
    "train_dataset_options.file_pattern are among them, also when they have only moved.",
)


def check(options: config_pb2.ExperimentOptions, model_dir: str) -> None:
    """Compares the config with the one in the model's folder, if there is a checkpoint to go on from.

    Args:
      options: the present config.
      model_dir: with config.FILE_NAME of the run, if it has one.

    Raises:
      InputError: there is a best checkpoint but none to go on from; or fields other than HARMLESS ones differ, or
        config.FILE_NAME is damaged, and --allow_config_change is not given.
    """
    kept = os.path.join(model_dir, best.BEST_FOLDER, best.BEST_FILE)
    if not checkpoint_files.any_there(model_dir) and files.exists(kept):
        raise InputError(
            f"--model_dir={model_dir} has no checkpoint to go on from, but {kept} of an earlier run, which this one "
            f"would be measured against. Remove or move the folder `{best.BEST_FOLDER}` and {best.EVALUATIONS_FILE}, "
            "or name another --model_dir."
        )
    path = os.path.join(model_dir, config.FILE_NAME)
    if not (checkpoint_files.any_there(model_dir) and files.exists(path)):
        return
    try:
        before = text_format.Parse(files.read(path).decode(), config_pb2.ExperimentOptions())
    except (OSError, ValueError, text_format.ParseError) as error:
        problem = f"{path} cannot be read, so nothing tells the config that the run began with ({error})."
        remedy = "Bring the file back"
    else:
        changes = differences(before, options)
        if not changes:
            return
        problem = f"The config has changed since the run in {model_dir} was last started:\n  " + "\n  ".join(changes)
        remedy = f"Undo the change ({path} is the config of the run), name another --model_dir"
    if not FLAGS.allow_config_change:
        raise InputError(f"{problem}\n{remedy}, or go on as it is with --allow_config_change.")
    logging.warning("%s\nGoing on as --allow_config_change says.", problem)


def fingerprint(options: config_pb2.ExperimentOptions) -> int:
    """48 bits that stand for what workers that train together must share: all but the places of their data."""
    shared = config_pb2.ExperimentOptions()
    shared.CopyFrom(options)
    shared.train_dataset_options.ClearField("file_pattern")
    shared.train_dataset_options.ClearField("data_service_address")
    shared.ClearField("eval_dataset_options")
    return int(hashlib.sha256(shared.SerializeToString(deterministic=True)).hexdigest()[:12], 16)


def differences(before: Any, now: Any, prefix: str = "") -> list[str]:
    """Fields of two messages of one type that differ, but for HARMLESS ones: "field: was X, now Y".

    A field that is not set equals one that is set to its default, but for _UNSET_COUNTS.
    """
    found = []
    for field in before.DESCRIPTOR.fields:
        path = f"{prefix}{field.name}"
        if path in HARMLESS:
            continue
        was, is_now = (_value(message, field) for message in (before, now))
        if was is not None and is_now is not None and field.message_type is not None and not config.is_repeated(field):
            found += differences(was, is_now, f"{path}.")
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
