# SPDX-License-Identifier: Apache-2.0
"""The command `convert`: what it does. Its flags are in `options`."""

import dataclasses
import os

from absl import flags

from deeplab_axial import builders, locks
from deeplab_axial.cli.options.convert import LABEL_DIVISOR
from deeplab_axial.data import value_range
from deeplab_axial.data.converters import cityscapes, coco_panoptic, imagenet, mapillary
from deeplab_axial.data.dataset_info import DatasetInfo
from deeplab_axial.data.label_space import LabelSpace

FLAGS = flags.FLAGS

_MAX_NAMED = 20


def main(dataset: str) -> None:
    """Converts the data set of that kind."""
    with locks.in_folder(FLAGS.output_dir, "convert"):  # before the annotation is read, which may take long
        info = _convert(dataset)
    print("\n".join(_summarise(info)))


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
    divisor = FLAGS.label_divisor or LABEL_DIVISOR
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
