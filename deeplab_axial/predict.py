# SPDX-License-Identifier: Apache-2.0
"""Images in, COCO panoptic predictions out."""

import glob
import json
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def find_images(patterns: Sequence[str]) -> list[str]:
    """Image files behind files, folders and globs, sorted within each pattern.

    Raises:
      InputError: a pattern leads to no image.
    """
    paths: list[str] = []
    for pattern in patterns:
        found = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern))
        if os.path.isdir(pattern):
            found = [os.path.join(pattern, f) for f in sorted(os.listdir(pattern)) if f.lower().endswith(EXTENSIONS)]
        if not found:
            raise InputError(f"--input={pattern} leads to no image ({', '.join(EXTENSIONS)}). Correct the path.")
        paths.extend(found)
    return paths


def read_image(path: str) -> np.ndarray:
    """Reads an image as [H, W, 3] uint8 RGB, decoded as in training.

    Raises:
      InputError: the file is no image that TensorFlow decodes.
    """
    try:
        return tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False).numpy()
    except tf.errors.OpError as error:
        raise InputError(
            f"{path} is no readable image ({error.message.splitlines()[0]}). Replace or remove it."
        ) from error


def coco_segments(panoptic: np.ndarray, space: LabelSpace) -> tuple[np.ndarray, list[dict]]:
    """A panoptic map in COCO's format.

    Args:
      panoptic: [H, W] panoptic ids.
      space: their label space.

    Returns:
      [H, W, 3] uint8 with segment id = R + 256 G + 65536 B (0 is void), and segments_info, with the data set's own
      category ids.
    """
    ids, index = np.unique(panoptic, return_inverse=True)
    numbers = np.zeros(ids.size, np.int64)
    numbers[ids != space.void_id] = np.arange(1, 1 + np.count_nonzero(ids != space.void_id))
    segment_map = numbers[index.reshape(panoptic.shape)]
    areas = np.bincount(segment_map.ravel(), minlength=ids.size + 1)
    segments = [
        {
            "id": int(number),
            "category_id": space.by_id[int(panoptic_id) // space.label_divisor].category_id,
            "area": int(areas[number]),
        }
        for panoptic_id, number in zip(ids, numbers)
        if number
    ]
    return np.stack([segment_map & 255, segment_map >> 8 & 255, segment_map >> 16], -1).astype(np.uint8), segments


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
        """The data set's id of an image."""
        return self._annotation(path)["image_id"]

    def read(self, path: str, size: tuple[int, int]) -> np.ndarray:
        """The panoptic map [H, W] of an image, crowd as instances of their own.

        Raises:
          InputError: there is none, or it has another size or other categories.
        """
        annotation = self._annotation(path)
        file = os.path.join(self.panoptic_dir, annotation["file_name"])
        try:
            planes = np.asarray(Image.open(file).convert("RGB"), np.int64)
        except OSError as error:
            raise InputError(f"{file} cannot be read ({error}).") from error
        if planes.shape[:2] != tuple(size):
            raise InputError(f"{file} is {planes.shape[:2]} pixels, but its image is {tuple(size)}.")
        segment_map = planes @ [1, 256, 65536]
        panoptic = np.full(segment_map.shape, self.space.void_id, np.int64)
        counts: dict[int, int] = {}
        for segment in annotation["segments_info"]:
            label = self._class_of.get(segment["category_id"])
            if label is None:
                raise InputError(f"{file}: category_id {segment['category_id']} is not in the model's label space.")
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
