# SPDX-License-Identifier: Apache-2.0
"""Writes the synthetic data set "scenes".

  deeplab-axial make_scenes --output_dir=FOLDER
  deeplab-axial make_scenes --task=classification --output_dir=FOLDER

panoptic: scenes in COCO's panoptic format. classification: crops of other scenes, a folder a class, as ImageNet has
them; `convert imagenet` takes FOLDER/train and FOLDER/val.
"""

from absl import flags

from deeplab_axial import locks
from deeplab_axial.data import scene_crops, scenes

FLAGS = flags.FLAGS
# task -> (what writes it, training and validation images)
TASKS = {
    "panoptic": (scenes.write_scenes, (500, 64)),
    "classification": (scene_crops.write_scene_crops, (2800, 350)),
}

flags.DEFINE_enum("task", "panoptic", list(TASKS), "What the data set is for.")
flags.DEFINE_string("output_dir", None, "Folder for images and annotation.", required=True)
flags.DEFINE_integer("num_train", None, "Training images. Default: 500; of classification 2800.", lower_bound=1)
flags.DEFINE_integer("num_val", None, "Validation images. Default: 64; of classification 350.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of the scenes.")


def main() -> None:
    """Writes the images."""
    write, (num_train, num_val) = TASKS[FLAGS.task]
    num_train, num_val = FLAGS.num_train or num_train, FLAGS.num_val or num_val
    with locks.in_folder(FLAGS.output_dir, "make_scenes"):
        write(FLAGS.output_dir, num_train, num_val, seed=FLAGS.seed)
    print(f"{num_train} training and {num_val} validation images: {FLAGS.output_dir}")
