# SPDX-License-Identifier: Apache-2.0
"""Label spaces from configs, and those that are shipped."""

import functools
import os

from deeplab_axial import config
from deeplab_axial.config_messages import nearest
from deeplab_axial.config_rules import label_space_problems
from deeplab_axial.data.dataset_info import DATASET_FILE, DatasetInfo
from deeplab_axial.data.label_space import (
    SHIPPED_FOLDER,
    SHIPPED_NAMES,
    LabelClass,
    LabelSpace,
    distinct_color,
    moved,
    tell,
)
from deeplab_axial.errors import InputError
from deeplab_axial.protos import config_pb2, label_space_pb2
from deeplab_axial.training import label_space_file

__all__ = ["SHIPPED_NAMES", "build_label_space", "check_meaning", "load_label_space"]


def build_label_space(options: label_space_pb2.LabelSpaceOptions, source: str = "config") -> LabelSpace:
    """The label space of a `label_space` section, its classes in the order of their ids.

    Args:
      options: the section.
      source: name of the file in the messages.

    Raises:
      InputError: the section is not valid; lists every problem, one a line.
    """
    problems = label_space_problems(config_pb2.ExperimentOptions(label_space=options), source)
    if problems:
        raise InputError("\n".join(problems))
    classes = tuple(
        LabelClass(
            id=label.id,
            name=label.name,
            is_thing=label.is_thing,
            color=tuple(label.color) or distinct_color(label.id),
            category_id=label.category_id if label.HasField("category_id") else label.id,
        )
        for label in sorted(options.label_class, key=lambda label: label.id)
    )
    num_classes = options.num_classes or classes[-1].id + 1
    return LabelSpace(options.name, classes, num_classes, options.ignore_label, options.label_divisor)


def load_label_space(name_or_path: str | os.PathLike) -> LabelSpace:
    """Finds a label space.

    Args:
      name_or_path: one of SHIPPED_NAMES, which come first; a textproto with a `label_space` section, other sections and
        bases allowed; a `dataset.json` or its folder; or the label_space.json of a model's folder.

    Raises:
      InputError: there is nothing of this name, or the file is not valid.
    """
    name = os.fspath(name_or_path)
    if name in SHIPPED_NAMES:
        return _load_shipped(name)
    if os.path.basename(name) == DATASET_FILE:
        return DatasetInfo.read(os.path.dirname(name)).label_space
    if os.path.basename(name) == label_space_file.FILE_NAME and os.path.exists(name):
        return label_space_file.read(os.path.dirname(name))
    if os.path.isdir(name):
        return DatasetInfo.read(name).label_space
    if not os.path.exists(name):
        raise InputError(
            f"The label space must be the name of a shipped one, a textproto with a label_space section, or a "
            f"{DATASET_FILE} or its folder. Received: {name!r}, which does not exist. {nearest(name, SHIPPED_NAMES)}."
        )
    return build_label_space(config.load_label_space(name), name)


def check_meaning(own: LabelSpace, info: DatasetInfo, section: str) -> None:
    """Refuses a label space under which the numbers in records would stand for something else.

    Args:
      own: the config's.
      info: what `dataset.json` says.
      section: of the config that names the records, for the messages.

    Raises:
      InputError: the label divisor or ignore label differs, a name stands for another id, stuff has become a thing, or
        a class that has pixels is missing.
    """
    stored = info.label_space
    remedy = f"The dataset.json of {section} tells what its records hold. Correct label_space, or convert again."
    for field in ("label_divisor", "ignore_label"):
        value, needed = getattr(own, field), getattr(stored, field)
        if value != needed:
            raise InputError(f"label_space.{field} must be {needed}, as in the records. Received: {value}. {remedy}")
    exchanged = moved(own, stored)
    if exchanged:
        told = tell(exchanged, "in label_space", "in the records")
        raise InputError(
            f"label_space.label_class must not give a name to another id than the records do. Received: {told}. "
            f"{remedy}"
        )
    for i, c in own.by_id.items():
        if c.is_thing and i in stored.by_id and not stored.by_id[i].is_thing:
            raise InputError(
                "label_space.label_class may turn things into stuff only: records hold no instances of stuff. "
                f"Received: is_thing: true for {i} ({c.name}). Set it to false, or convert again with other categories."
            )
    pixels = info.class_pixels
    used = [c for c in stored.classes if pixels is None or pixels.get(c.id, 0) > 0]
    lost = [f"{c.id} ({c.name})" for c in used if c.id not in own.by_id]
    if lost:
        raise InputError(
            "label_space.label_class must have every class that has pixels in the records. Received: none with id "
            f"{', '.join(lost[:8])}{', ...' if len(lost) > 8 else ''}. {remedy}"
        )


@functools.cache
def _load_shipped(name: str) -> LabelSpace:
    path = SHIPPED_FOLDER / f"{name}.textproto"
    return build_label_space(config.load_label_space(path), str(path))
