# SPDX-License-Identifier: Apache-2.0
"""Reads the records of a config and reports what is wrong with them, before anything is trained.

  deeplab-axial check_data --config_file=CONFIG [--split=train] [--limit=1000]

Prints one line for each fault (what, in which file and record, what to do), then figures: sizes, crop, classes,
instances. The exit status is 1 if there is an error, 0 if there are warnings at most.
"""

from absl import flags

from deeplab_axial.cli.options import experiment

flags.DEFINE_enum("split", None, ("train", "eval"), "Which records; by default all that the config names.")
flags.DEFINE_integer("limit", 0, "Most records of a split to read, spread over its files; 0 for all.", lower_bound=0)
flags.declare_key_flag("config_file")
flags.declare_key_flag("set")
flags.declare_key_flag("placeholder")


def check() -> None:
    """Reads the config."""
    experiment.load_config()
