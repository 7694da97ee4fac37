# SPDX-License-Identifier: Apache-2.0
"""Prints the model of a config: its parts, parameters and multiply-adds, beside what is published.

deeplab-axial describe --config_file=CONFIG [--input_size=HEIGHT,WIDTH]
"""

from absl import flags

from deeplab_axial.cli.options import experiment

flags.DEFINE_list(
    "input_size",
    None,
    "Height and width of the image in pixels; that of the published figures, or the evaluation crop, by default.",
)
flags.declare_key_flag("config_file")
flags.declare_key_flag("set")
flags.declare_key_flag("placeholder")


def check() -> None:
    """Reads the config."""
    experiment.load_config()
