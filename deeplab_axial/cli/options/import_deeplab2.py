# SPDX-License-Identifier: Apache-2.0
"""Turns a DeepLab2 checkpoint into one of this library.

  deeplab-axial import_deeplab2 --config_file=CONFIG --checkpoint=PREFIX --output_dir=FOLDER

CONFIG is the DeepLab2 textproto that the checkpoint was trained with. FOLDER then serves as --model_dir of `train
--mode=eval` and `export`, and as model_options.initial_checkpoint. A checkpoint of a pretrained backbone gives the
backbone alone, for model_options.initial_checkpoint; to start a training, a DeepLab2 checkpoint can also be named there
directly, without import.
"""

from absl import flags

from deeplab_axial.cli.options import experiment

flags.DEFINE_string("checkpoint", None, "Prefix of the DeepLab2 checkpoint, or its folder.", required=True)
flags.DEFINE_string("output_dir", None, "Folder for the checkpoint; must be empty or absent.", required=True)
flags.declare_key_flag("config_file")
flags.declare_key_flag("set")
flags.declare_key_flag("placeholder")


def check() -> None:
    """Reads the config."""
    experiment.load_config()
