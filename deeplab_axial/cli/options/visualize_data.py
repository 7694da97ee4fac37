# SPDX-License-Identifier: Apache-2.0
"""Draws contact sheets of what the network gets: augmented images with their targets.

  deeplab-axial visualize_data --config_file=CONFIG --output_dir=FOLDER [--num_images=8]

A row is one image: input, semantic target, centres and offsets, as training makes them. --split=eval draws the inputs
of the evaluation with their ground truth. Of a classifier, the crops are drawn with their classes, four in a row. The
files are sheet-000.png, sheet-001.png and so on.
"""

from absl import flags

from deeplab_axial.cli.options import experiment

FLAGS = flags.FLAGS

flags.DEFINE_string("output_dir", None, "Folder for the sheets.", required=True)
flags.DEFINE_enum("split", "train", ("train", "eval"), "Inputs of training or of the evaluation.")
flags.DEFINE_integer("num_images", 8, "Images to draw.", lower_bound=1)
flags.DEFINE_integer("first_step", 0, "Training step that the first image belongs to.", lower_bound=0)
flags.declare_key_flag("config_file")
flags.declare_key_flag("set")
flags.declare_key_flag("placeholder")


def check() -> None:
    """Reads the config."""
    experiment.load_config(FLAGS.split)
