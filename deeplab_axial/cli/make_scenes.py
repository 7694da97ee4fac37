# SPDX-License-Identifier: Apache-2.0
"""The command `make_scenes`: what it does. Its flags are in `options`."""

from absl import flags

from deeplab_axial import locks
from deeplab_axial.data import scene_crops, scenes

FLAGS = flags.FLAGS
# task -> (what writes it, training and validation images)
TASKS = {
    "panoptic": (scenes.write_scenes, (500, 64)),
    "classification": (scene_crops.write_scene_crops, (2800, 350)),
}


def main() -> None:
    """Writes the images."""
    write, (num_train, num_val) = TASKS[FLAGS.task]
    num_train, num_val = FLAGS.num_train or num_train, FLAGS.num_val or num_val
    with locks.in_folder(FLAGS.output_dir, "make_scenes"):
        write(FLAGS.output_dir, num_train, num_val, seed=FLAGS.seed)
    print(f"{num_train} training and {num_val} validation images: {FLAGS.output_dir}")
