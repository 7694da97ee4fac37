# SPDX-License-Identifier: Apache-2.0
"""Turns a data set into TFRecord files, with dataset.json beside them.

The data set is named first:

  deeplab-axial convert coco_panoptic --image_dir=val2017 --panoptic_json=panoptic_val2017.json \\
      --panoptic_dir=panoptic_val2017 --output_dir=records/val
  deeplab-axial convert cityscapes --root=cityscapes --split=train --output_dir=records/cityscapes/train
  deeplab-axial convert mapillary --root=mapillary --split=training --mapillary_version=1.2 --output_dir=records/train
  deeplab-axial convert imagenet --root=imagenet/train --output_dir=records/imagenet/train

coco_panoptic takes COCO and any other data set in COCO's panoptic format; without --panoptic_dir, images without ground
truth. A conversion that was stopped, or failed at some images, goes on when the same command is run again.
"""

from absl import flags

from deeplab_axial.choices import UPRIGHT
from deeplab_axial.errors import InputError

FLAGS = flags.FLAGS

# data set -> (flags that it needs, flags that it also takes)
DATASETS = {
    "coco_panoptic": (
        ("image_dir", "panoptic_json"),
        ("panoptic_dir", "label_space", "label_divisor", "upright", "value_range"),
    ),
    "cityscapes": (("root", "split"), ("label_space", "label_divisor", "upright", "value_range")),
    "mapillary": (
        ("root", "split", "mapillary_version"),
        ("label_space", "label_divisor", "upright", "value_range"),
    ),
    "imagenet": (("root",), ("label_space", "value_range")),
}
LABEL_DIVISOR = 256  # where the label space is made from the data

flags.DEFINE_string("output_dir", None, "Folder for the TFRecord files; one split a folder.", required=True)
flags.DEFINE_integer("num_shards", 16, "Number of files.", lower_bound=1)
flags.DEFINE_integer("num_workers", None, "Files made at a time. Default: as many as CPUs.", lower_bound=1)
flags.DEFINE_string("name", None, "Start of the files' names, and name of the data set. Default: that of the data set.")
flags.DEFINE_string(
    "label_space",
    None,
    "The classes: a shipped label space, a textproto or a dataset.json. Default: those of the data; for cityscapes the "
    "shipped ones.",
)
flags.DEFINE_integer(
    "label_divisor",
    None,
    f"Panoptic id = class * label_divisor + instance id. Default: that of the label space, or {LABEL_DIVISOR}.",
    lower_bound=2,
)
flags.DEFINE_string("image_dir", None, "coco_panoptic: folder of the images.")
flags.DEFINE_string("panoptic_json", None, "coco_panoptic: the annotation, a JSON file.")
flags.DEFINE_string("panoptic_dir", None, "coco_panoptic: folder of the panoptic PNGs; none without ground truth.")
flags.DEFINE_string("root", None, "cityscapes, mapillary, imagenet: folder of the data set.")
flags.DEFINE_string("split", None, "cityscapes: train, val or test; mapillary: training, validation or testing.")
flags.DEFINE_enum("mapillary_version", None, ["1.2", "2.0"], "mapillary: version of its labels.")
flags.DEFINE_enum(
    "upright",
    None,
    list(UPRIGHT),
    "Turns as EXIF says: the image, if labels were made on what viewers show; both or none, if on pixels as stored.",
)
flags.DEFINE_string(
    "value_range", None, "LOW:HIGH of images of 16 bits: what is black and white, as 0:4095 for 12 bits."
)


def check(dataset: str) -> None:
    """Refuses an unknown data set, flags that are missing, and those that would be ignored."""
    if dataset not in DATASETS:
        raise InputError(f"Unknown data set {dataset!r}. Known: {', '.join(DATASETS)}.")
    required, optional = DATASETS[dataset]
    missing = [f"--{name}" for name in required if not FLAGS[name].value]
    if missing:
        raise InputError(f"convert {dataset} needs {' and '.join(missing)}. Received: none. Pass what is missing.")
    others = {name for lists in DATASETS.values() for names in lists for name in names} - {*required, *optional}
    unused = [f"--{name}" for name in sorted(others) if FLAGS[name].present]
    if unused:
        raise InputError(
            f"convert {dataset} takes no {' and no '.join(unused)}. It takes: "
            f"{', '.join(f'--{name}' for name in (*required, *optional))}. Remove what is not for it."
        )
