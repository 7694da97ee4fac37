# SPDX-License-Identifier: Apache-2.0
"""`dataset.json`: what lies in a folder of records.

The folder may be anything that `tf.io.gfile` takes, as "gs://...".
"""

import dataclasses
import json
import os

import tensorflow as tf

from deeplab_axial.data import tfrecord_files
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.data.tfrecord_files import Shard
from deeplab_axial.errors import InputError

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
    """

    label_space: LabelSpace
    num_images: int
    shards: tuple[Shard, ...]
    max_height: int
    max_width: int
    class_pixels: dict[int, int] | None = None
    task: str = PANOPTIC
    has_labels: bool = True
    class_counts: dict[int, int] | None = None
    source_bytes: int = 0
    fingerprint: str = ""

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
        try:
            with tf.io.gfile.GFile(path) as file:
                content = json.loads(file.read())
            info = cls(
                label_space=LabelSpace.from_dict(content["label_space"]),
                num_images=int(content["num_images"]),
                shards=tuple(Shard(s["file"], int(s["records"]), int(s["bytes"])) for s in content["shards"]),
                max_height=int(content["max_height"]),
                max_width=int(content["max_width"]),
                class_pixels=_counts(content["class_pixels"]),
                # Files of version 0.1 lack what follows.
                task=str(content.get("task", PANOPTIC)),
                has_labels=bool(content.get("has_labels", True)),
                class_counts=_counts(content.get("class_counts")),
                source_bytes=int(content.get("source_bytes", 0)),
                fingerprint=str(content.get("fingerprint", "")),
            )
        except (tf.errors.OpError, OSError) as error:
            raise InputError(f"{path} cannot be read ({error}). {remedy}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({type(error).__name__}: {error}). {remedy}") from error
        if info.num_images != sum(shard.records for shard in info.shards):
            raise InputError(f"{path} is damaged: num_images is not the sum of its shards' records. {remedy}")
        if info.task not in (PANOPTIC, CLASSIFICATION):
            raise InputError(
                f"{path} is damaged: task must be {PANOPTIC!r} or {CLASSIFICATION!r}. Received: {info.task!r}. {remedy}"
            )
        return info


def _counts(content: dict | None) -> dict[int, int] | None:
    """JSON has strings for keys."""
    return None if content is None else {int(k): int(v) for k, v in content.items()}
