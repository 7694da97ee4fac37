# SPDX-License-Identifier: Apache-2.0
"""What a finished shard holds: counted while it is made, verified by reading it back, kept in a sidecar file."""

import dataclasses
import json
import os
import re
from collections import Counter
from typing import TypedDict

import numpy as np
import tensorflow as tf
from google.protobuf import message

from deeplab_axial import json_files
from deeplab_axial.data import dataset_info, records, tfrecord_files
from deeplab_axial.data.converters.image_files import Remark
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError
from deeplab_axial.json_files import Count


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

    records: Count = 0
    bytes: Count = 0
    max_height: Count = 0
    max_width: Count = 0
    source_bytes: Count = 0
    class_pixels: dict[int, Count] = dataclasses.field(default_factory=Counter)
    class_counts: dict[int, Count] = dataclasses.field(default_factory=Counter)
    remarks: dict[str, tuple[Count, str]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.class_pixels, self.class_counts = Counter(self.class_pixels), Counter(self.class_counts)

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
        for serialized in tfrecord_files.sound_records(path).as_numpy_iterator():
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


def is_ours(path: str) -> bool:
    """Whether the first record of a shard has the keys that this library writes, and DeepLab2 does not."""
    try:
        tfrecord_files.check_shards([path])
        for serialized in tf.data.TFRecordDataset(path).take(1).as_numpy_iterator():
            keys = set(tf.train.Example.FromString(serialized).features.feature)
            return records.CHANNELS in keys and (records.SEGMENTATION not in keys or records.CROWD_IDS in keys)
    except (tf.errors.OpError, OSError, ValueError, message.DecodeError):
        return False
    return False


class _Sidecar(TypedDict):
    """What a sidecar holds beside a tally."""

    fingerprint: str


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
        content = json_files.read(_sidecar(folder, file), _Sidecar, "")
        if content is None or content.pop("fingerprint") != fingerprint:
            return None
        unknown: list[str] = []
        tally = json_files.convert(content, Tally, "", unknown)
        # What another release counts, this one cannot vouch for.
        return tally if not unknown and tally.bytes == tf.io.gfile.stat(path).length else None
    except (tf.errors.OpError, ValueError):  # InputError among them
        return None  # an unreadable sidecar vouches for nothing: the shard is made again


def remove_sidecar(folder: str, file: str) -> None:
    """Takes the mark from a shard that is about to be replaced."""
    if tf.io.gfile.exists(_sidecar(folder, file)):
        tf.io.gfile.remove(_sidecar(folder, file))


def list_others(folder: str, name: str) -> list[str]:
    """The TFRecord files in a folder that conversions under this name did not make."""
    own = set(list_files(folder, name)["shard"])
    return sorted(file for file in tf.io.gfile.listdir(folder) if file.endswith(".tfrecord") and file not in own)


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
