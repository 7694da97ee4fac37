# SPDX-License-Identifier: Apache-2.0
"""Classes of a data set and the numbers that stand for them."""

import collections
import colorsys
import dataclasses
import functools
import pathlib
from collections.abc import Mapping

from deeplab_axial import json_files

# One textproto for each data set that is shipped; `builders.label_spaces` reads them.
SHIPPED_FOLDER = pathlib.Path(__file__).parents[1] / "label_spaces"
SHIPPED_NAMES = tuple(sorted(path.name.removesuffix(".textproto") for path in SHIPPED_FOLDER.glob("*.textproto")))


def distinct_color(i: int) -> tuple[int, int, int]:
    """A colour (red, green, blue) for the i-th class; different classes get different ones."""
    # Hues a golden section apart stay distinct however many there are.
    red, green, blue = colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.65, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


@dataclasses.dataclass(frozen=True)
class LabelClass:
    """One class.

    Attributes:
      id: number in panoptic maps, targets and logits.
      name: what people read.
      is_thing: countable (thing) or not (stuff).
      color: (red, green, blue), 0 to 255, for pictures.
      category_id: the class' id in the data set's own files.
    """

    id: int
    name: str
    is_thing: bool
    color: tuple[int, int, int]
    category_id: int


@dataclasses.dataclass(frozen=True)
class LabelSpace:
    """All classes of a data set.

    A panoptic id is `class id * label_divisor + instance id`. Stuff has instance id 0 and instances count from 1. Void
    is `ignore_label * label_divisor`; the ignore label may lie inside [0, num_classes), as COCO's class 0 does.

    Attributes:
      name: name of the data set.
      classes: the classes, ordered by id; ids need not be contiguous with 0.
      num_classes: channels of the semantic logits; larger than every class id.
      ignore_label: class id of void pixels.
      label_divisor: more than the largest instance id.
    """

    name: str
    classes: tuple[LabelClass, ...]
    num_classes: int
    ignore_label: int
    label_divisor: int

    def __post_init__(self):
        ids = [c.id for c in self.classes]
        if ids != sorted(set(ids)):
            raise ValueError(f"Class ids must be distinct and ascending. Received: {ids}")
        if ids and (ids[0] < 0 or ids[-1] >= self.num_classes):
            raise ValueError(f"Class ids must lie in [0, num_classes={self.num_classes}). Received: {ids}")
        repeated = sorted(name for name, n in collections.Counter(c.name for c in self.classes).items() if n > 1)
        if repeated:
            raise ValueError(f"Class names must be distinct. Received: {', '.join(repeated)} more than once")
        if self.ignore_label in ids:
            raise ValueError(f"ignore_label must not be the id of a class. Received: {self.ignore_label}")
        if self.label_divisor < 2:
            raise ValueError(f"label_divisor must be at least 2. Received: {self.label_divisor}")
        if self.ignore_label < 0:
            raise ValueError(f"ignore_label must be 0 or more. Received: {self.ignore_label}")
        largest = max(self.num_classes, self.ignore_label + 1) * self.label_divisor
        if largest > 2**31:  # panoptic maps are int32
            raise ValueError(
                f"label_divisor times the number of class ids, void included, must be at most 2^31. Received: {largest}"
            )
        for c in self.classes:
            if not all(0 <= value <= 255 for value in c.color):
                raise ValueError(f"Colors must lie in [0, 255]. Received: {c.color} of class {c.id}")

    @property
    def thing_ids(self) -> tuple[int, ...]:
        """Ids of the thing classes, ascending."""
        return tuple(c.id for c in self.classes if c.is_thing)

    @property
    def void_id(self) -> int:
        """The panoptic id of void pixels."""
        return self.ignore_label * self.label_divisor

    @functools.cached_property
    def by_id(self) -> dict[int, LabelClass]:
        """Classes under their ids."""
        return {c.id: c for c in self.classes}

    def to_dict(self) -> dict:
        """Plain types, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, d: dict) -> "LabelSpace":
        """The inverse of `to_dict`; raises ValueError for another dict."""
        return json_files.convert(d, cls)


# Ids that a message names.
_MOST_TOLD = 8


def differences(first: LabelSpace, second: LabelSpace, kinds: bool = True) -> dict[int, tuple[str, str]]:
    """The ids that stand for different classes.

    Args:
      first: one label space.
      second: another one.
      kinds: whether a thing of one that is stuff in the other counts, too.

    Returns:
      id -> what it is in the first and in the second, as ("cat", "dog"), ("cat", "no class") or, where thing and stuff
      differ, ("cat (thing)", "cat (stuff)").
    """
    found = {}
    for class_id in sorted(first.by_id.keys() | second.by_id.keys()):
        classes = [space.by_id.get(class_id) for space in (first, second)]
        names = [c.name if c else "no class" for c in classes]
        if kinds and all(classes) and classes[0].is_thing != classes[1].is_thing:
            names = [f"{c.name} ({'thing' if c.is_thing else 'stuff'})" for c in classes]
        if names[0] != names[1]:
            found[class_id] = (names[0], names[1])
    return found


def moved(first: LabelSpace, second: LabelSpace) -> dict[int, tuple[str, str]]:
    """Those of the `differences` where a class of one has the same name, but another id, in the other.

    What remains may be the same class under another name.
    """
    names = [{c.name for c in space.classes} for space in (first, second)]
    shared = names[0] & names[1]
    found = differences(first, second, kinds=False)
    return {class_id: told for class_id, told in found.items() if shared & set(told)}


def tell(found: Mapping[int, tuple[str, str]], first: str, second: str) -> str:
    """What `differences` or `moved` found, in words.

    Args:
      found: not empty.
      first: where the first label space holds, as "in training".
      second: likewise.

    Returns:
      As "id 1 is ball in training and star in the evaluation, 2 is star and ball".
    """
    parts = [f"{class_id} is {one} and {other}" for class_id, (one, other) in list(found.items())[:_MOST_TOLD]]
    class_id, (one, other) = next(iter(found.items()))
    parts[0] = f"id {class_id} is {one} {first} and {other} {second}"
    if len(found) > _MOST_TOLD:
        parts.append(f"and {len(found) - _MOST_TOLD} more ids differ")
    return ", ".join(parts)
