# SPDX-License-Identifier: Apache-2.0
"""Compiles the training step of a config for a TPU, without any TPU, and prints whether it fits.

  deeplab-axial tpu_check --config_file=CONFIG --topology=v5e:2x2 [--batch_size=NUMBER|auto]

Needs the extra [tpu-check]. What is compiled is the real step of one core: forward, backward and optimizer, at the
crop size of the config. To make machine code takes minutes, most of the time; --plan_only leaves it out.
"""

from absl import flags

from deeplab_axial.cli.options import experiment

flags.DEFINE_string("topology", None, "Chip and their number, as v5e:2x2.", required=True)
flags.DEFINE_string(
    "batch_size",
    "",
    "Images of one core: a number; auto for the most that fit; by default train_dataset_options.batch_size shared out.",
)
flags.DEFINE_bool("plan_only", False, "Whether to stop when the memory is planned, before machine code is made.")
flags.DEFINE_string("json", None, "File for the same figures as JSON.")
flags.DEFINE_float("timeout", 7200.0, "Seconds that one compilation may take.", lower_bound=1.0)
flags.declare_key_flag("config_file")
flags.declare_key_flag("set")
flags.declare_key_flag("placeholder")


def check() -> None:
    """Reads the config."""
    experiment.load_config()
