# SPDX-License-Identifier: Apache-2.0
"""The flags of every command that takes a config, and the config that they name."""

import re
from collections.abc import Sequence

from absl import flags

from deeplab_axial import config
from deeplab_axial.backbones import presets
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2

FLAGS = flags.FLAGS

flags.DEFINE_string("config_file", None, "The experiment, a textproto.", required=True)
flags.DEFINE_multi_string(
    "set",
    [],
    "Changes a field of the config, as --set=trainer_options.solver_options.base_learning_rate=0.001. May be repeated.",
)
flags.DEFINE_multi_string(
    "placeholder",
    [],
    "Fills ${NAME} in the config, as --placeholder=NAME=VALUE; wins over the environment variable NAME. May be "
    "repeated.",
)


def load_config(mode: str | None = None) -> config_pb2.ExperimentOptions:
    """The config that the flags name."""
    return config.load(
        FLAGS.config_file,
        FLAGS.set,
        mode=mode,
        backbone_names=presets.NAMES,
        refused_backbones=presets.REFUSED,
        placeholders=_placeholders(FLAGS.placeholder),
    )


def load_segmentation_config(command: str, mode: str | None = None) -> config_pb2.ExperimentOptions:
    """As `load_config`, for a command that has no use for a classifier.

    Raises:
      InputError: the config is not valid, or has model_options.classification.
    """
    options = load_config(mode)
    if options.model_options.HasField("classification"):
        raise InputError(
            f"{FLAGS.config_file}: `deeplab-axial {command}` is for segmentation. Received: "
            "model_options.classification. Train and evaluate the classifier; to segment, name its folder in "
            "model_options.initial_checkpoint of a config with model_options.panoptic_deeplab."
        )
    return options


def _placeholders(entries: Sequence[str]) -> dict[str, str]:
    """The values of "NAME=VALUE" entries."""
    values: dict[str, str] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not re.fullmatch(r"\w+", name):
            raise InputError(
                f"--placeholder must be NAME=VALUE. Received: {entry}. Write --placeholder=TRAIN_SET=FILES."
            )
        if values.setdefault(name, value) != value:
            received = f"{name}={values[name]} and {entry}"
            raise InputError(f"--placeholder gives each name one value. Received: {received}. Remove one.")
    return values
