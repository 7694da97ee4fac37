# SPDX-License-Identifier: Apache-2.0
"""A data set in COCO's panoptic format that a test may change."""

import json

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab_axial.data import records
from deeplab_axial.data.converters.coco_panoptic import convert


class Source:
    """A data set in COCO panoptic format that a test may spoil."""

    def __init__(self, image_dir, json_path, panoptic_dir, output_dir):
        self.image_dir, self.json, self.panoptic_dir, self.output = image_dir, json_path, panoptic_dir, output_dir

    def convert(self, **kwargs):
        return convert(self.image_dir, self.json, self.panoptic_dir, self.output, **kwargs)

    def load(self) -> dict:
        return json.loads(self.json.read_text())

    def save(self, content):
        self.json.write_text(json.dumps(content))

    def segment_ids(self, file_name) -> np.ndarray:
        return np.asarray(Image.open(self.panoptic_dir / file_name).convert("RGB"), np.int64) @ [1, 256, 65536]

    def records(self, info) -> dict[str, dict]:
        """The records under their file names."""
        files = [str(self.output / shard.file) for shard in info.shards]
        parsed = [records.parse_example(r) for r in tf.data.TFRecordDataset(files)]
        assert len(parsed) == info.num_images
        return {p[records.FILENAME].numpy().decode(): p for p in parsed}
