# SPDX-License-Identifier: Apache-2.0
"""The rules that a `label_space` section keeps."""

from collections.abc import Iterator
from typing import Any, NamedTuple

# Panoptic ids are stored as colours of PNGs.
_PNG_IDS = 2**24


class Problem(NamedTuple):
    """What is wrong with one field.

    Attributes:
      path: the field inside the section, as "label_class[2].color"; empty for the section itself.
      rule: what holds for a good one.
      received: the value.
      remedy: what to do.
    """

    path: str
    rule: str
    received: Any
    remedy: str


def find_problems(space: Any) -> Iterator[Problem]:
    """Everything that is wrong with a LabelSpaceOptions message, in the order of its fields."""
    if not space.name:
        yield Problem("name", "must be set", space.name, "Name the data set")
    if not space.label_class:
        remedy = 'Add one for each class, as label_class { id: 1 name: "car" is_thing: true }'
        yield Problem("label_class", "must be set", list(space.label_class), remedy)
    yield from _check_numbers(space)
    for i, label in enumerate(space.label_class):
        yield from _check_class(f"label_class[{i}]", label, space)
    yield from _check_duplicates(space)


def _check_numbers(space: Any) -> Iterator[Problem]:
    if space.num_classes < 0:
        remedy = "Leave it out for one more than the largest class id"
        yield Problem("num_classes", "must be 0 or more", space.num_classes, remedy)
    if space.ignore_label < 0:
        yield Problem("ignore_label", "must be 0 or more", space.ignore_label, "Leave it out for the default 255")
    if space.label_divisor < 2:
        remedy = "Leave it out for the default 1000"
        yield Problem("label_divisor", "must be at least 2", space.label_divisor, remedy)
    ids = max(space.num_classes, space.ignore_label + 1, *(label.id + 1 for label in space.label_class), 1)
    if ids * space.label_divisor > _PNG_IDS:
        rule = f"times the number of class ids, void included ({ids}), must be at most {_PNG_IDS}, what a PNG holds"
        yield Problem("label_divisor", rule, space.label_divisor, f"Set it to {max(_PNG_IDS // ids, 2)} or less")


def _check_class(path: str, label: Any, space: Any) -> Iterator[Problem]:
    if not label.HasField("id"):
        yield Problem(f"{path}.id", "must be set", None, "Give the number that stands for the class")
    elif label.id < 0:
        yield Problem(f"{path}.id", "must be 0 or more", label.id, "Number the classes from 0 or 1 on")
    elif label.id >= space.num_classes > 0:
        rule = f"must be less than num_classes ({space.num_classes})"
        yield Problem(f"{path}.id", rule, label.id, "Correct it, or enlarge num_classes")
    elif label.id == space.ignore_label:
        remedy = "Give the class another id, or ignore_label another value"
        yield Problem(f"{path}.id", "must not be ignore_label, which stands for void", label.id, remedy)
    if not label.name:
        yield Problem(f"{path}.name", "must be set", label.name, "Name the class")
    color = list(label.color)
    if color and (len(color) != 3 or not all(0 <= value <= 255 for value in color)):
        remedy = "Give red, green and blue, or leave it out for a colour of its own"
        yield Problem(f"{path}.color", "must have three values from 0 to 255", color, remedy)


def _check_duplicates(space: Any) -> Iterator[Problem]:
    first: dict[tuple[str, Any], int] = {}
    for i, label in enumerate(space.label_class):
        values = {"id": label.id if label.HasField("id") else None, "name": label.name or None}
        # Without a category_id of their own, two classes of one id would be reported twice.
        values["category_id"] = label.category_id if label.HasField("category_id") else values["id"]
        for field, value in values.items():
            other = first.setdefault((field, value), i)
            told = field == "category_id" and not label.HasField(field) and first["id", values["id"]] != i
            if value is not None and other != i and not told:
                rule = f"must differ from that of every other class, and label_class[{other}] has it"
                yield Problem(f"label_class[{i}].{field}", rule, value, "Change or remove one of the two")
