# SPDX-License-Identifier: Apache-2.0
"""Records that `checks` looks at, sound ones and changed ones."""

import io

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab_axial.data import (
    check_report,
    checks,
    dataset_info,
    records,
    tfrecord_files,
)
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.data.pipeline import ImageOptions
from deeplab_axial.data.source import Source

SPACE = LabelSpace(
    "street",
    (
        LabelClass(0, "road", False, (128, 64, 128), 7),
        LabelClass(2, "car", True, (0, 0, 142), 26),
        LabelClass(3, "person", True, (220, 20, 60), 24),
    ),
    num_classes=4,
    ignore_label=255,
    label_divisor=1000,
)
OPTIONS = ImageOptions((33, 49))
VOID = SPACE.void_id


def jpeg(height=32, width=48):
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def panoptic_map(height=32, width=48):
    """A road, a car of 200 pixels, a person of 400, a crowd of persons of 40, a rim of void."""
    panoptic = np.zeros((height, width), np.int32)
    panoptic[0] = VOID
    panoptic[2:12, 2:22] = 2001
    panoptic[12:32, 24:44] = 3001
    panoptic[2:6, 30:40] = 3002
    return panoptic


IDS = (0, 2001, 3001, 3002)


def encode(name="a.jpg", panoptic=None, ids=IDS, areas=None, crowd=(3002,)):
    panoptic = panoptic_map() if panoptic is None else panoptic
    areas = [int((panoptic == i).sum()) for i in ids] if areas is None else areas
    return records.encode_example(jpeg(), "jpeg", name, *panoptic.shape, panoptic, crowd, ids, areas)


def change(record, **changes):
    """A record with other features; None removes one."""
    example = tf.train.Example.FromString(record)
    feature = example.features.feature
    for name, value in changes.items():
        key = getattr(records, name)
        if isinstance(value, bytes):
            feature[key].bytes_list.value[:] = [value]
        elif value is None:
            del feature[key]
        else:
            feature[key].int64_list.value[:] = value
    return example.SerializeToString()


def write(folder, *shards, task=dataset_info.PANOPTIC, space=SPACE):
    """Records in files 0.tfrecord, 1.tfrecord, ..., without dataset.json."""
    files = [tfrecord_files.write_shard(folder, f"{i}.tfrecord", shard) for i, shard in enumerate(shards)]
    paths = tuple(str(folder / shard.file) for shard in files)
    count = sum(map(len, shards))
    return Source(paths, count, dataset_info.DatasetInfo(space, count, tuple(files), 0, 0, task=task))


def run_check(source, **options):
    arguments = {"image_options": OPTIONS, "output_stride": 8, "small_instance_threshold": 300, **options}
    return checks.check(source, **arguments)


def fault_lines(summary):
    text = check_report.format_faults(summary)
    return text.splitlines()


AGAIN = "Correct the annotation and convert the data set again."


def report(summary, **options):
    arguments = {"image_options": OPTIONS, "output_stride": 8, "is_training": True, **options}
    return check_report.format_summary(summary, **arguments)
