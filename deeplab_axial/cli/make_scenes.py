# SPDX-License-Identifier: Apache-2.0
"""Writes the synthetic data set "scenes", in COCO's panoptic format.

deeplab-axial make_scenes --output_dir=FOLDER
"""

from absl import flags

from deeplab_axial.data import scenes

FLAGS = flags.FLAGS

flags.DEFINE_string("output_dir", None, "Folder for images and annotation.", required=True)
flags.DEFINE_integer("num_train", 500, "Training images.", lower_bound=1)
flags.DEFINE_integer("num_val", 64, "Validation images.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of the scenes.")


def main() -> None:
    """Writes the scenes."""
    scenes.write_scenes(FLAGS.output_dir, FLAGS.num_train, FLAGS.num_val, seed=FLAGS.seed)
    print(f"{FLAGS.num_train} training and {FLAGS.num_val} validation images: {FLAGS.output_dir}")
