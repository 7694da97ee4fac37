# SPDX-License-Identifier: Apache-2.0
"""`dataset.json`: what lies in a folder of records.

The folder may be anything that `tf.io.gfile` takes, as "gs://...".
"""

import dataclasses
import json
import os

from deeplab_axial import json_files
from deeplab_axial.data import tfrecord_files
from deeplab_axial.data import value_range as value_ranges
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.data.tfrecord_files import Shard
from deeplab_axial.data.value_range import ValueRange
from deeplab_axial.errors import InputError
from deeplab_axial.json_files import Count

DATASET_FILE = "dataset.json"
PANOPTIC = "panoptic"
CLASSIFICATION = "classification"


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` says about a converted data set.

    Attributes:
      label_space: its classes.
      num_images: images in all shards.
      shards: the files.
      max_height: height of the tallest image, pixels; 0 if not known.
      max_width: width of the widest image, pixels; 0 if not known.
      class_pixels: pixels of each class id over all images, void under the ignore label; None if not counted.
      task: PANOPTIC or CLASSIFICATION.
      has_labels: whether the records hold ground truth; the test splits of benchmarks do not.
      class_counts: segments of each class id over all images, crowd included; for CLASSIFICATION images of each class
        id; None if not counted.
      source_bytes: bytes of the original image and label files; 0 if not known.
      fingerprint: stands for what was converted and how; a conversion with the same one need not be made again.
      value_range: (low, high) that images of 16 bits were scaled from; None where nobody said one.
    """

    label_space: LabelSpace
    num_images: Count
    shards: tuple[Shard, ...]
    max_height: Count
    max_width: Count
    class_pixels: dict[int, Count] | None = None
    # Files of version 0.1 lack what follows.
    task: str = PANOPTIC
    has_labels: bool = True
    class_counts: dict[int, Count] | None = None
    source_bytes: Count = 0
    fingerprint: str = ""
    value_range: ValueRange | None = None

    def __post_init__(self):
        value_ranges.checked(self.value_range, "value_range")

    def write(self, folder: str | os.PathLike) -> None:
        """Writes `dataset.json` into the folder; the file is complete or absent."""
        content = {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "label_space": self.label_space.to_dict(),
            "shards": [shard._asdict() for shard in self.shards],
        }
        tfrecord_files.write_text(os.path.join(folder, DATASET_FILE), json.dumps(content, indent=1))

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "DatasetInfo":
        """Reads `dataset.json` from the folder.

        Raises:
          InputError: the file is missing or not what `write` writes.
        """
        path = os.path.join(folder, DATASET_FILE)
        remedy = "Run `deeplab-axial convert` to make the data set."
        info = json_files.read(path, cls, remedy)
        if info is None:
            raise InputError(f"{path} cannot be read (there is no such file). {remedy}")
        if info.num_images != sum(shard.records for shard in info.shards):
            raise InputError(f"{path} is damaged: num_images is not the sum of its shards' records. {remedy}")
        if info.task not in (PANOPTIC, CLASSIFICATION):
            raise InputError(
                f"{path} is damaged: task must be {PANOPTIC!r} or {CLASSIFICATION!r}. Received: {info.task!r}. {remedy}"
            )
        return info
