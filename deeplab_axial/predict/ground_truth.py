# SPDX-License-Identifier: Apache-2.0
"""Ground truth beside predictions."""

import json
import os

import numpy as np
from PIL import Image

from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError


class GroundTruth:
    """Ground truth in COCO's panoptic format, looked up by the name of the image.

    Args:
      panoptic_json: the annotation.
      panoptic_dir: folder of its PNGs.
      space: label space to express it in.

    Raises:
      InputError: the annotation cannot be read.
    """

    def __init__(self, panoptic_json: str, panoptic_dir: str, space: LabelSpace):
        self.panoptic_dir = panoptic_dir
        self.space = space
        try:
            with open(panoptic_json, encoding="utf-8") as file:
                content = json.load(file)
            names = {image["id"]: os.path.basename(image["file_name"]) for image in content["images"]}
            self._annotations = {names[a["image_id"]]: a for a in content["annotations"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{panoptic_json} is no panoptic annotation in COCO's format ({error!r}).") from error
        self._class_of = {c.category_id: c for c in space.classes}

    def image_id(self, path: str) -> int | str:
        """The data set's id of an image.

        Raises:
          InputError: there is no annotation of this name.
        """
        return self._annotation(path)["image_id"]

    def read(self, path: str, size: tuple[int, int]) -> np.ndarray:
        """The panoptic map [H, W] of an image, crowd as instances of their own.

        Raises:
          InputError: there is none, or it has another size or other categories.
        """
        annotation = self._annotation(path)
        file = os.path.join(self.panoptic_dir, annotation["file_name"])
        try:
            with Image.open(file) as image:
                planes = np.asarray(image.convert("RGB"), np.int64)
        except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for some broken PNGs
            raise InputError(f"{file} cannot be read ({error}). Complete the ground truth.") from error
        if planes.shape[:2] != tuple(size):
            raise InputError(
                f"{file} must be as large as its image, {size[0]} x {size[1]} (height x width). Received: "
                f"{planes.shape[0]} x {planes.shape[1]}. Check that --panoptic_dir belongs to the images."
            )
        segment_map = planes @ [1, 256, 65536]
        panoptic = np.full(segment_map.shape, self.space.void_id, np.int64)
        counts: dict[int, int] = {}
        for segment in annotation["segments_info"]:
            label = self._class_of.get(segment["category_id"])
            if label is None:
                raise InputError(
                    f"{file}: category_id {segment['category_id']} is not in the model's label space "
                    f"{self.space.name!r}. Name the ground truth of the data set that the model was trained on."
                )
            number = counts[label.id] = counts.get(label.id, -1 + label.is_thing) + 1
            panoptic[segment_map == segment["id"]] = label.id * self.space.label_divisor + number
        return panoptic.astype(np.int32)

    def _annotation(self, path: str) -> dict:
        name = os.path.basename(path)
        if name not in self._annotations:
            raise InputError(
                f"The ground truth has no annotation for {name}. Leave --panoptic_json out, or name others."
            )
        return self._annotations[name]
