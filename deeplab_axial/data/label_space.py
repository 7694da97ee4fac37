# SPDX-License-Identifier: Apache-2.0
"""Classes of a data set and the numbers that stand for them."""

import colorsys
import dataclasses
import functools
import pathlib

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
        if self.ignore_label in ids:
            raise ValueError(f"ignore_label must not be the id of a class. Received: {self.ignore_label}")
        if self.label_divisor < 2:
            raise ValueError(f"label_divisor must be at least 2. Received: {self.label_divisor}")

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
        """The inverse of `to_dict`."""
        classes = tuple(LabelClass(**{**c, "color": tuple(c["color"])}) for c in d["classes"])
        return cls(**{**d, "classes": classes})
