# SPDX-License-Identifier: Apache-2.0
"""What a finished shard holds: counted while it is made, verified by reading it back, kept in a sidecar file."""

import dataclasses
import json
import os
import re
from collections import Counter

import numpy as np
import tensorflow as tf

from deeplab_axial.data import dataset_info, records, tfrecord_files
from deeplab_axial.data.converters.image_files import Remark
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError


@dataclasses.dataclass
class Tally:
    """What a shard holds, or several together.

    Attributes:
      records: images.
      bytes: size of the files.
      max_height: height of the tallest image, pixels.
      max_width: width of the widest image, pixels.
      source_bytes: bytes of the original files.
      class_pixels: pixels of each class id.
      class_counts: segments of each class id; images of each class id for classification.
      remarks: what was odd, under its kind: (how often, first example).
    """

    records: int = 0
    bytes: int = 0
    max_height: int = 0
    max_width: int = 0
    source_bytes: int = 0
    class_pixels: Counter[int] = dataclasses.field(default_factory=Counter)
    class_counts: Counter[int] = dataclasses.field(default_factory=Counter)
    remarks: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict)

    def add(self, other: "Tally") -> None:
        """Adds what another tally holds."""
        self.records += other.records
        self.bytes += other.bytes
        self.max_height = max(self.max_height, other.max_height)
        self.max_width = max(self.max_width, other.max_width)
        self.source_bytes += other.source_bytes
        self.class_pixels.update(other.class_pixels)
        self.class_counts.update(other.class_counts)
        for what, (count, example) in other.remarks.items():
            self.remark(Remark(what, count, example))

    def remark(self, remark: Remark) -> None:
        """Adds a remark to those of its kind."""
        count, example = self.remarks.get(remark.what, (0, remark.example))
        self.remarks[remark.what] = (count + remark.count, example)


def _count_classes(panoptic: np.ndarray, label_divisor: int) -> dict[int, int]:
    """Pixels of each class id in a panoptic map, integers [H, W]."""
    counts = np.bincount(panoptic.ravel() // label_divisor)
    return {int(i): int(counts[i]) for i in np.flatnonzero(counts)}


def verify(path: str, tally: Tally, task: str, space: LabelSpace) -> None:
    """Reads a shard back, checksums included, and counts again.

    Args:
      path: the shard.
      tally: what it must hold.
      task: dataset_info.PANOPTIC or CLASSIFICATION.
      space: the classes.

    Raises:
      WriteError: the file holds something else than was meant.
    """
    count, pixels, labels = 0, Counter(), Counter()
    try:
        for serialized in tf.data.TFRecordDataset(path).as_numpy_iterator():
            features = tf.train.Example.FromString(serialized).features.feature
            count += 1
            if task == dataset_info.CLASSIFICATION:
                labels.update(features[records.CLASS_LABEL].int64_list.value)
            elif records.SEGMENTATION in features:
                height, width = (features[key].int64_list.value[0] for key in (records.HEIGHT, records.WIDTH))
                encoded = features[records.SEGMENTATION].bytes_list.value[0]
                panoptic = records.decode_panoptic(encoded, records.PNG, height, width)
                pixels.update(_count_classes(panoptic, space.label_divisor))
    except (tf.errors.OpError, OSError, InputError) as error:
        raise tfrecord_files.WriteError(
            f"{path} cannot be read back ({error}). Check the disk and try again."
        ) from error
    is_panoptic = task == dataset_info.PANOPTIC
    meant = (tally.records, tally.class_pixels if is_panoptic else tally.class_counts)
    found = (count, pixels if is_panoptic else labels)
    if found != meant:
        raise tfrecord_files.WriteError(
            f"{path} must hold what was written. Received: (records, histogram of classes) {found} instead of {meant}. "
            "Check the disk."
        )


def _sidecar(folder: str, file: str) -> str:
    return os.path.join(folder, f".{file}.json")


def write_sidecar(folder: str, file: str, tally: Tally, fingerprint: str) -> None:
    """Marks a shard as finished.

    Raises:
      WriteError: the sidecar cannot be written.
    """
    content = {"fingerprint": fingerprint, **vars(tally)}
    tfrecord_files.write_text(_sidecar(folder, file), json.dumps(content))


def read_sidecar(folder: str, file: str, fingerprint: str) -> Tally | None:
    """What a finished shard holds; None if it is not finished or was made of something else."""
    path = os.path.join(folder, file)
    try:
        with tf.io.gfile.GFile(_sidecar(folder, file)) as sidecar:
            content = json.loads(sidecar.read())
        size = tf.io.gfile.stat(path).length
        if content.pop("fingerprint") != fingerprint or content["bytes"] != size:
            return None
        for key in ("class_pixels", "class_counts"):
            content[key] = Counter({int(k): int(v) for k, v in content[key].items()})
        content["remarks"] = {what: (int(count), str(first)) for what, (count, first) in content["remarks"].items()}
        return Tally(**content)
    except (tf.errors.OpError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # an unreadable sidecar vouches for nothing: the shard is made again


def remove_sidecar(folder: str, file: str) -> None:
    """Takes the mark from a shard that is about to be replaced."""
    if tf.io.gfile.exists(_sidecar(folder, file)):
        tf.io.gfile.remove(_sidecar(folder, file))


def list_files(folder: str, name: str) -> dict[str, list[str]]:
    """What conversions under this name left in a folder: {"shard" | "sidecar" | "partial": file names}."""
    pattern = re.compile(rf"(\.?){re.escape(name)}-\d{{5}}-of-\d{{5}}\.tfrecord(\.json)?(\.partial)?")
    found: dict[str, list[str]] = {"shard": [], "sidecar": [], "partial": []}
    for file in tf.io.gfile.listdir(folder):
        match = pattern.fullmatch(file)
        if match and match[3]:
            found["partial"].append(file)
        elif match and bool(match[1]) == bool(match[2]):
            found["sidecar" if match[1] else "shard"].append(file)
    return found
