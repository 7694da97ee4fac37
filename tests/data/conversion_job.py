# SPDX-License-Identifier: Apache-2.0
"""A conversion of a toy data set that a test may disturb."""

import os
from collections import Counter

import numpy as np

from deeplab_axial.data import dataset_info, records
from deeplab_axial.data.converters import conversion
from deeplab_axial.data.label_space import LabelClass, LabelSpace

SPACE = LabelSpace(
    "toy", (LabelClass(1, "ball", True, (1, 2, 3), 17), LabelClass(2, "sky", False, (4, 5, 6), 3)), 3, 0, 9
)
NUM_ITEMS = 14
NUM_SHARDS = 4


def panoptic_of(i: int) -> np.ndarray:
    return np.random.default_rng(i).choice([0, 10, 11, 18], (3 + i, 5))


def convert_one(i: int) -> conversion.Converted:
    """Image i: a map with void, two balls and sky, and an image file of i kilobytes."""
    panoptic = panoptic_of(i)
    data = np.random.default_rng(i).bytes(1000 * i)
    example = records.encode_example(data, "png", f"{i}.png", *panoptic.shape, panoptic)
    pixels = Counter((panoptic // 9).ravel().tolist())
    return conversion.Converted(example, *panoptic.shape, pixels, {1: 2, 2: 1}, 1000 * i)


class Job:
    """A conversion that notes which items it converted, and may be told of faults."""

    def __init__(self, folder):
        self.folder, self.converted, self.faults = folder, [], {}

    def convert_item(self, i):
        self.converted.append(i)
        if i in self.faults:
            raise self.faults[i]
        return convert_one(i)

    def run(self, **changes):
        arguments = {
            "label_space": SPACE,
            "task": dataset_info.PANOPTIC,
            "has_labels": True,
            "output_dir": self.folder,
            "name": "toy",
            "num_shards": NUM_SHARDS,
            "num_workers": 2,
            "fingerprint": "same",
            **changes,
        }
        self.converted.clear()
        return conversion.convert_items(range(NUM_ITEMS), self.convert_item, **arguments)

    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def shards(self) -> dict[str, os.stat_result]:
        return {path.name: path.stat() for path in self.folder.glob("*.tfrecord")}
