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

import dataclasses
import os

from absl import flags

from deeplab_axial import builders, locks
from deeplab_axial.data import value_range
from deeplab_axial.data.converters import cityscapes, coco_panoptic, image_files, imagenet, mapillary
from deeplab_axial.data.dataset_info import DatasetInfo
from deeplab_axial.data.label_space import LabelSpace
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
_MAX_NAMED = 20
_LABEL_DIVISOR = 256  # where the label space is made from the data

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
    f"Panoptic id = class * label_divisor + instance id. Default: that of the label space, or {_LABEL_DIVISOR}.",
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
    list(image_files.UPRIGHT),
    "Turns as EXIF says: the image, if labels were made on what viewers show; both or none, if on pixels as stored.",
)
flags.DEFINE_string(
    "value_range", None, "LOW:HIGH of images of 16 bits: what is black and white, as 0:4095 for 12 bits."
)


def main(dataset: str) -> None:
    """Converts the data set of that kind."""
    if dataset not in DATASETS:
        raise InputError(f"Unknown data set {dataset!r}. Known: {', '.join(DATASETS)}.")
    _check_flags(dataset)
    with locks.in_folder(FLAGS.output_dir, "convert"):  # before the annotation is read, which may take long
        info = _convert(dataset)
    print("\n".join(_summarise(info)))


def _check_flags(dataset: str) -> None:
    """Refuses flags that are missing, and those that would be ignored."""
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


def _label_space(default: str | None = None) -> LabelSpace | None:
    """The label space of the flags; None if the data shall say it."""
    name = FLAGS.label_space or default
    if name is None:
        return None
    space = builders.load_label_space(name)
    return dataclasses.replace(space, label_divisor=FLAGS.label_divisor) if FLAGS.label_divisor else space


def _convert(dataset: str) -> DatasetInfo:
    common = {"num_shards": FLAGS.num_shards, "num_workers": FLAGS.num_workers or os.cpu_count() or 1}
    if FLAGS.name is not None:
        common["name"] = FLAGS.name
    if FLAGS.upright is not None:
        common["upright"] = FLAGS.upright
    if FLAGS.value_range is not None:
        common["value_range"] = value_range.parse(FLAGS.value_range)
    divisor = FLAGS.label_divisor or _LABEL_DIVISOR
    if dataset == "cityscapes":
        common["label_space"] = _label_space("cityscapes_panoptic")
        return cityscapes.convert(FLAGS.root, FLAGS.split, FLAGS.output_dir, **common)
    common["label_space"] = _label_space()
    if dataset == "mapillary":
        version = FLAGS.mapillary_version
        return mapillary.convert(FLAGS.root, FLAGS.split, version, FLAGS.output_dir, label_divisor=divisor, **common)
    if dataset == "imagenet":
        return imagenet.convert(FLAGS.root, FLAGS.output_dir, **common)
    files = (FLAGS.image_dir, FLAGS.panoptic_json, FLAGS.panoptic_dir)
    return coco_panoptic.convert(*files, FLAGS.output_dir, label_divisor=divisor, **common)


def _summarise(info: DatasetInfo) -> list[str]:
    """What was made, line by line."""
    size = sum(shard.bytes for shard in info.shards)
    ratio = f", {size / info.source_bytes:.2f} times the original files" if info.source_bytes else ""
    lines = [
        f"{info.num_images} images in {len(info.shards)} files ({size / 2**20:.1f} MiB{ratio}): {FLAGS.output_dir}"
    ]
    counts = info.class_counts if info.class_pixels is None else info.class_pixels
    empty = [label.name for label in info.label_space.classes if counts is not None and not counts.get(label.id)]
    if empty:
        what = "image" if info.class_pixels is None else "pixel"
        more = ", ..." if len(empty) > _MAX_NAMED else ""
        names = ", ".join(empty[:_MAX_NAMED])
        lines.append(f"{len(empty)} of {len(info.label_space.classes)} classes have no {what}: {names}{more}")
    if not info.has_labels:
        lines.append("The records have no ground truth.")
    return lines
