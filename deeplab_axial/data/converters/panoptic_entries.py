# SPDX-License-Identifier: Apache-2.0
"""Entries of a JSON in COCO's panoptic format: checked, and segments numbered."""

from collections import Counter
from typing import NamedTuple

from absl import logging

from deeplab_axial.data import records
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError


class Segment(NamedTuple):
    """One segment of an image.

    Attributes:
      id: its colour in the PNG, R + 256 G + 65536 B.
      panoptic_id: class id * label_divisor + instance id; the void id if the label space lacks its category.
      is_crowd: whether it is a group of things that were not told apart.
      area: pixels as the annotation says; None if it does not.
    """

    id: int
    panoptic_id: int
    is_crowd: bool
    area: int | None


def integer(entry: dict, key: str, where: str, low: int, high: int = 2**62) -> int:
    """The integer under a key.

    Args:
      entry: a dict, if the file is right.
      key: the key.
      where: the entry's place in its file, for the message.
      low: smallest value.
      high: largest value.

    Raises:
      InputError: there is none, or it is out of range.
    """
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, int) or not low <= value <= high:  # bool is an int: COCO writes both 0 and false
        limits = f"in [{low}, {high}]" if high < 2**62 else f"of at least {low}"
        raise InputError(f"{where}: {key!r} must be an integer {limits}. Received: {value!r}. Correct the file.")
    return int(value)


def text(entry: dict, key: str, where: str) -> str:
    """The text under a key; raises InputError if there is none. See `integer`."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: {key!r} must be a non-empty string. Received: {value!r}. Correct the file.")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON allows
        raise InputError(f"{where}: {key!r} must be valid Unicode. Received: {value!r}. Correct the file.") from error
    return value


def check_count(segments: Counter[int], space: LabelSpace, where: str) -> None:
    """Refuses an image with more segments of a class than there are ids.

    Args:
      segments: how many the image has, by class id.
      space: the classes.
      where: the image's place, for the message.

    Raises:
      InputError: says both numbers.
    """
    for class_id, count in segments.items():
        label = space.by_id[class_id]
        most = space.label_divisor - label.is_thing  # things count from 1, stuff from 0
        if count > most:
            raise InputError(
                f"{where}: at most {most} segments of class {label.name!r} fit into one image, as label_divisor is "
                f"{space.label_divisor}. Received: {count}. Pass --label_divisor={count + 1} or more, for all splits "
                "alike."
            )


class Numbering:
    """Gives segments their panoptic ids."""

    def __init__(self, space: LabelSpace, categories: list[dict]):
        self.space = space
        self.by_category = {c.category_id: c for c in space.classes}
        self.names = {category["id"]: category.get("name", category["id"]) for category in categories}
        self.unnamed: Counter[int] = Counter()  # segments of categories that the label space lacks

    def number(self, segments: list[dict], where: str) -> tuple[Segment, ...]:
        """The segments of one image, in the order of the annotation."""
        result: dict[int, Segment] = {}
        used: Counter[int] = Counter()
        for i, entry in enumerate(segments):
            place = f"{where}, segments_info[{i}]"
            segment_id = integer(entry, "id", place, 1, records.MAX_PANOPTIC_ID)
            if segment_id in result:
                raise InputError(
                    f"{place}: segment ids must be distinct. Received twice: {segment_id}. Correct the file."
                )
            is_crowd = "iscrowd" in entry and bool(integer(entry, "iscrowd", place, 0, 1))
            area = integer(entry, "area", place, 0) if entry.get("area") is not None else None
            panoptic_id = self._panoptic_id(entry, place, used)
            result[segment_id] = Segment(segment_id, panoptic_id, is_crowd, area)
        check_count(used, self.space, where)
        return tuple(result.values())

    def _panoptic_id(self, entry: dict, place: str, used: Counter[int]) -> int:
        category_id = integer(entry, "category_id", place, 0)
        if category_id not in self.names:
            raise InputError(
                f"{place}: category_id must be one of the JSON's categories. Received: {category_id}. Correct the file."
            )
        label = self.by_category.get(category_id)
        if label is None:
            self.unnamed[category_id] += 1
            return self.space.void_id
        used[label.id] += 1
        # Things count from 1, stuff from 0.
        return label.id * self.space.label_divisor + used[label.id] - (not label.is_thing)

    def warn(self, path: str) -> None:
        """Says once what became void."""
        if self.unnamed:
            names = ", ".join(str(self.names[k]) for k in sorted(self.unnamed))
            count = sum(self.unnamed.values())
            logging.warning(
                "%s: %d segments are void, as the label space lacks their category: %s.", path, count, names
            )
