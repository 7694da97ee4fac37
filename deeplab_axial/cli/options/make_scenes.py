# SPDX-License-Identifier: Apache-2.0
"""Writes the synthetic data set "scenes".

  deeplab-axial make_scenes --output_dir=FOLDER
  deeplab-axial make_scenes --task=classification --output_dir=FOLDER

panoptic: scenes in COCO's panoptic format. classification: crops of other scenes, a folder a class, as ImageNet has
them; `convert imagenet` takes FOLDER/train and FOLDER/val.
"""

from absl import flags

flags.DEFINE_enum("task", "panoptic", ["panoptic", "classification"], "What the data set is for.")
flags.DEFINE_string("output_dir", None, "Folder for images and annotation.", required=True)
flags.DEFINE_integer("num_train", None, "Training images. Default: 500; of classification 2800.", lower_bound=1)
flags.DEFINE_integer("num_val", None, "Validation images. Default: 64; of classification 350.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of the scenes.")
