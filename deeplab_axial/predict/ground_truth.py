# SPDX-License-Identifier: Apache-2.0
"""Ground truth beside predictions."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np
from absl import logging

from deeplab_axial import files
from deeplab_axial.data import image_bytes, records
from deeplab_axial.data.converters.panoptic_entries import integer, text
from deeplab_axial.data.converters.panoptic_json import read as read_panoptic_json
from deeplab_axial.data.label_space import LabelClass, LabelSpace
from deeplab_axial.errors import InputError

# Categories that a message names.
_MOST_TOLD = 8


class GroundTruth:
    """Ground truth in COCO's panoptic format, looked up by the path of the image.

    An image's entry is the one whose `file_name` has the most last parts in common with its path, as "b/x.jpg" of
    "photos/b/x.jpg"; of two that agree in as many, the one whose `file_name` has no others. The name of the file, at
    least, must be the same.

    A faulty entry is an error when its image is asked for, and not before: it spoils no other image.

    Args:
      panoptic_json: the annotation.
      panoptic_dir: folder of its PNGs.
      space: label space to express it in.

    Raises:
      InputError: the annotation cannot be read, has another format, or its categories are others than the classes.
    """

    def __init__(self, panoptic_json: str, panoptic_dir: str, space: LabelSpace):
        self.panoptic_dir = panoptic_dir
        self.space = space
        content = read_panoptic_json(panoptic_json)
        names = {}
        for image in content["images"]:
            if isinstance(image, dict) and "id" in image and isinstance(image.get("file_name"), str):
                names[repr(image["id"])] = image["file_name"]  # repr: an id may be anything
        # Name of the image -> the parts of its path in the data set, the annotation, and its place for messages.
        self._annotations: dict[str, list[tuple[list[str], dict, str]]] = defaultdict(list)
        for i, annotation in enumerate(content["annotations"]):
            if not isinstance(annotation, dict) or "image_id" not in annotation:
                continue
            parts = _parts(names.get(repr(annotation["image_id"]), ""))
            if parts:
                place = f"{panoptic_json}, annotations[{i}] ({parts[-1]})"
                self._annotations[parts[-1]].append((parts, annotation, place))
        self._class_of = {c.category_id: c for c in space.classes}
        _check_categories(content, panoptic_json, self._class_of)

    def image_id(self, path: str) -> int | str:
        """The data set's id of an image.

        Raises:
          InputError: there is no annotation of this name, it is not clear which is the image's, or its id is no id.
        """
        annotation, where = self._annotation(path)
        image_id = annotation["image_id"]
        if isinstance(image_id, str):
            return text(annotation, "image_id", where)
        if not isinstance(image_id, int) or isinstance(image_id, bool) or abs(image_id) >= 2**63:
            raise InputError(
                f"{where}: 'image_id' must be a number of 64 bits or a string. Received: {image_id!r}. Correct it."
            )
        return image_id

    def read(self, path: str, size: tuple[int, int]) -> np.ndarray:
        """The panoptic map [H, W] of an image, crowd as instances of their own.

        Raises:
          InputError: there is none, its entry is faulty, or it has another size or other categories.
        """
        annotation, where = self._annotation(path)
        file = os.path.join(self.panoptic_dir, text(annotation, "file_name", where))
        planes = _read_png(file, size)
        segment_map = planes @ [1, 256, 65536]
        panoptic = np.full(segment_map.shape, self.space.void_id, np.int64)
        segments = annotation.get("segments_info")
        if not isinstance(segments, list):
            raise InputError(f"{where}: 'segments_info' must be a list. Received: {segments!r}. Correct the file.")
        counts: Counter[int] = Counter()
        for i, segment in enumerate(segments):
            place = f"{where}, segments_info[{i}]"
            segment_id = integer(segment, "id", place, 1, records.MAX_PANOPTIC_ID)
            category_id = integer(segment, "category_id", place, 0)
            label = self._class_of.get(category_id)
            if label is None:
                raise InputError(
                    f"{file}: category_id {category_id} is not in the model's label space {self.space.name!r}. Name "
                    "the ground truth of the data set that the model was trained on."
                )
            number = counts[label.id] + label.is_thing
            counts[label.id] += 1
            if number >= self.space.label_divisor:
                raise InputError(
                    f"{where}: the model's label_divisor holds {self.space.label_divisor - 1} segments of a class. "
                    f"Received: more of {label.name!r}. Leave the image out."
                )
            panoptic[segment_map == segment_id] = label.id * self.space.label_divisor + number
        return panoptic.astype(np.int32)

    def _annotation(self, path: str) -> tuple[dict, str]:
        """An image's annotation, and its place for messages."""
        sought = _parts(os.path.abspath(path))
        name = sought[-1]
        if name not in self._annotations:
            raise InputError(
                f"The ground truth has no annotation for {name}. Leave --panoptic_json out, or name others."
            )
        found = self._annotations[name]
        fits = [_fit(parts, sought) for parts, _, _ in found]
        most = max(fits)
        best = [entry for entry, fit in zip(found, fits) if fit == most]
        if len(best) > 1:
            names = [repr("/".join(parts)) for parts, _, _ in best]
            raise InputError(
                f"{path}: several annotations of the ground truth may be the image's: {_listed(names)}. Keep the "
                "images in folders of the same names as in its 'file_name', or correct the JSON."
            )
        _, annotation, where = best[0]
        return annotation, where


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _fit(parts: list[str], sought: list[str]) -> tuple[int, bool]:
    """How many last parts of two paths are the same, and whether these are all of the first."""
    count = 0
    for one, other in zip(reversed(parts), reversed(sought)):
        if one != other:
            break
        count += 1
    return count, count == len(parts)


def _check_categories(content: dict, path: str, class_of: Mapping[int, LabelClass]) -> None:
    """Refuses categories that stand for other classes than those of the same category id.

    As in `label_space.moved`, these are the ones whose name is that of another class. Other names may be those of the
    same classes: a label space may rename them. It may turn things into stuff, too, but not stuff into things.
    """
    id_of = {label.name: category_id for category_id, label in class_of.items()}
    differing, renamed = [], []
    for category in content["categories"]:
        if not isinstance(category, dict) or not isinstance(category.get("id"), int):
            continue
        category_id, name, label = category["id"], category.get("name"), class_of.get(category["id"])
        names = f"category {category_id} is {name} there and {label.name if label else 'no class'} in the model"
        if isinstance(name, str) and id_of.get(name, category_id) != category_id:
            differing.append(names)
        elif label is not None and label.is_thing and not category.get("isthing", True):
            differing.append(f"category {category_id} ({label.name}) is stuff there and a thing in the model")
        elif label is not None and name is not None and name != label.name:
            renamed.append(names)
    if differing:
        raise InputError(
            f"{path}: the categories must be the classes of the model. Received: {_listed(differing)}. Name the ground "
            "truth of the data set that the model was trained on, or correct its categories."
        )
    if renamed:
        logging.warning("%s: these count as the same classes under other names: %s.", path, _listed(renamed))


def _listed(told: list[str]) -> str:
    return ", ".join(told[:_MOST_TOLD]) + ", ..." * (len(told) > _MOST_TOLD)


def _read_png(file: str, size: tuple[int, int]) -> np.ndarray:
    """Its colours, int64 [H, W, 3]."""
    try:
        with image_bytes.opened(files.read(file)) as image:
            found = image.height, image.width
            planes = np.asarray(image.convert("RGB"), np.int64) if found == tuple(size) else None
    except (OSError, image_bytes.UnreadableImage) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{file} cannot be read ({reason}). Complete the ground truth.") from error
    if planes is None:
        raise InputError(
            f"{file} must be as large as its image, {size[0]} x {size[1]} (height x width). Received: {found[0]} x "
            f"{found[1]}. Check that --panoptic_dir belongs to the images."
        )
    return planes
