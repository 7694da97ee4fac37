# SPDX-License-Identifier: Apache-2.0
"""Turns a data set into TFRecord files, with dataset.json beside them.

The data set is named first:

  deeplab-axial convert coco_panoptic --image_dir=val2017 --panoptic_json=panoptic_val2017.json \\
      --panoptic_dir=panoptic_val2017 --output_dir=records/val --num_shards=8

coco_panoptic takes COCO and any other data set in COCO's panoptic format.
"""

from absl import flags

from deeplab_axial.data.converters import coco_panoptic
from deeplab_axial.errors import InputError

FLAGS = flags.FLAGS
DATASETS = ("coco_panoptic",)

flags.DEFINE_string("image_dir", None, "Folder of the images.", required=True)
flags.DEFINE_string("panoptic_json", None, "The panoptic annotation, a JSON file.", required=True)
flags.DEFINE_string("panoptic_dir", None, "Folder of the panoptic PNGs.", required=True)
flags.DEFINE_string("output_dir", None, "Folder for the TFRecord files; one split a folder.", required=True)
flags.DEFINE_integer("num_shards", 16, "Number of files.", lower_bound=1)
flags.DEFINE_integer("label_divisor", 256, "Panoptic id = class * label_divisor + instance id.", lower_bound=2)
flags.DEFINE_string("name", "coco_panoptic", "Name of the data set, and of the files.")


def main(dataset: str) -> None:
    """Converts the data set of that kind."""
    if dataset not in DATASETS:
        raise InputError(f"Unknown data set {dataset!r}. Known: {', '.join(DATASETS)}.")
    info = coco_panoptic.convert(
        FLAGS.image_dir,
        FLAGS.panoptic_json,
        FLAGS.panoptic_dir,
        FLAGS.output_dir,
        num_shards=FLAGS.num_shards,
        label_divisor=FLAGS.label_divisor,
        name=FLAGS.name,
    )
    megabytes = sum(shard.bytes for shard in info.shards) / 2**20
    print(f"{info.num_images} images in {len(info.shards)} files ({megabytes:.1f} MiB): {FLAGS.output_dir}")
