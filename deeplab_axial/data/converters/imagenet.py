# SPDX-License-Identifier: Apache-2.0
"""ImageNet -> TFRecords, and any other classification data set with one folder or one tar per class.

ILSVRC2012's training set comes as a tar of tars, n01440764.tar, ...: unpack the outer one; the inner ones are read as
they are. Its validation images come in one folder, with the labels in a file of their own: sort them into class folders
first, as a folder without classes counts as a test split without labels.
"""

import difflib
import functools
import os
import random
import re
import tarfile
from typing import NamedTuple

import tensorflow as tf
from absl import logging

from deeplab_axial import files
from deeplab_axial.data import dataset_info, records
from deeplab_axial.data import value_range as ranges
from deeplab_axial.data.converters import conversion, image_files
from deeplab_axial.data.label_space import LabelClass, LabelSpace, distinct_color
from deeplab_axial.data.value_range import ValueRange
from deeplab_axial.errors import InputError
from deeplab_axial.progress import Bar

_IMAGE_ENDINGS = (".jpeg", ".jpg", ".png")
_TAR = ".tar"
_WORDNET_ID = re.compile(r"n(\d{8})")
_SHUFFLE_SEED = 0
_MAX_NAMED = 10


class _Item(NamedTuple):
    """One image: a file, or `size` bytes of a tar from `offset` on."""

    name: str
    label: LabelClass | None
    path: str
    offset: int = 0
    size: int | None = None


def _list(folder: str) -> list[str]:
    """The names in a folder without the hidden ones, sorted."""
    names = (name.rstrip("/") for name in tf.io.gfile.listdir(folder))  # listings of gs:// end folders with /
    return sorted(name for name in names if not name.startswith("."))


def _is_image(name: str) -> bool:
    return name.lower().endswith(_IMAGE_ENDINGS)


def _refuse(path: str) -> None:
    raise InputError(
        f"{path} must be an image ({', '.join(_IMAGE_ENDINGS)}): a class holds images and no folders or other files. "
        "Move it elsewhere; classes are told by the first folder below --root alone."
    )


def _folder_items(folder: str, prefix: str, label: LabelClass | None) -> list[_Item]:
    names = _list(folder)
    for name in names:
        if not _is_image(name):
            _refuse(os.path.join(folder, name))
    return [_Item(prefix + name, label, os.path.join(folder, name)) for name in names]


def _open(path: str):
    files.check_regular(path)
    # GFile fills a large buffer after each seek; a plain local file reads what is asked for.
    return tf.io.gfile.GFile(path, "rb") if files.is_remote(path) else open(path, "rb")


def _tar_items(path: str, class_name: str, label: LabelClass) -> list[_Item]:
    """The images of a tar, found by its headers; the data are read when they are converted."""
    items = {}
    try:
        with _open(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                # A tar of a folder has the folder's name in front.
                name = member.name.removeprefix("./").removeprefix(f"{class_name}/")
                if member.isdir() and "/" not in name:
                    continue
                if os.path.basename(name).startswith("."):
                    continue
                if not member.isreg() or "/" in name or not _is_image(name) or name in items:
                    _refuse(f"{path}/{member.name}")
                items[name] = _Item(f"{class_name}/{name}", label, path, member.offset_data, member.size)
    except (tarfile.TarError, tf.errors.OpError, OSError) as error:
        raise InputError(
            f"{path} must be a tar file that is complete and not compressed ({error}). Get it again."
        ) from error
    return [items[name] for name in sorted(items)]


def _class_sources(root: str) -> dict[str, str]:
    """{class name: its folder or tar}, sorted by name; {} where there are images only.

    Raises:
      InputError: `root` is no folder, or holds something else.
    """
    if not tf.io.gfile.isdir(root):
        raise InputError(f"--root must be a folder. Received: {root}. Correct the path.")
    sources, others = {}, []
    for file in _list(root):
        path = os.path.join(root, file)
        name = file.removesuffix(_TAR)
        if _is_image(file) or (name == file and not tf.io.gfile.isdir(path)):
            others.append(file)
        elif name in sources:
            raise InputError(f"{path}: a class must have one folder or one tar. Received: both. Remove one of them.")
        else:
            sources[name] = path
    if sources and others:
        raise InputError(
            f"{os.path.join(root, others[0])} must be the folder or the tar of a class, as the others are "
            f"({len(others)} files are neither). Move it elsewhere."
        )
    return dict(sorted(sources.items()))


def _make_label_space(names: list[str], name: str) -> LabelSpace:
    """Classes as the folders name them, in their order."""
    classes = []
    for i, class_name in enumerate(names):
        match = _WORDNET_ID.fullmatch(class_name)
        classes.append(LabelClass(i, class_name, False, distinct_color(i), int(match[1]) if match else i))
    return LabelSpace(name, tuple(classes), len(classes), len(classes), 2)


def _find_classes(names: list[str], space: LabelSpace, root: str) -> dict[str, LabelClass]:
    """The class of each folder, by its name or its WordNet id."""
    by_name = {c.name: c for c in space.classes}
    by_category = {c.category_id: c for c in space.classes}
    found, unknown = {}, []
    for name in names:
        match = _WORDNET_ID.fullmatch(name)
        label = by_name.get(name) or (by_category.get(int(match[1])) if match else None)
        if label is not None:
            found[name] = label
            continue
        near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.5)
        unknown.append(f"{name!r}" + (f" (nearest: {near[0]!r})" if near else ""))
    if unknown:
        more = f" and {len(unknown) - _MAX_NAMED} more" if len(unknown) > _MAX_NAMED else ""
        raise InputError(
            f"{root}: each folder or tar must bear the name or the WordNet id of a class of the label space "
            f"{space.name!r}. Received: {', '.join(unknown[:_MAX_NAMED])}{more}. Rename them, or name another "
            "--label_space."
        )
    missing = len(space.classes) - len({label.id for label in found.values()})
    if missing:
        logging.warning("%s has no images of %d of the %d classes.", root, missing, len(space.classes))
    return found


def _make_items(root: str, sources: dict[str, str], space: LabelSpace) -> list[_Item]:
    if not sources:
        return _folder_items(root, "", None)
    labels = _find_classes(list(sources), space, root)
    items = []
    # Over a million headers of ImageNet's tars take their time.
    for name, path in Bar(sources.items(), desc="list the images", unit="class"):
        is_tar = path.endswith(_TAR)
        of_class = _tar_items(path, name, labels[name]) if is_tar else _folder_items(path, f"{name}/", labels[name])
        if not of_class:
            raise InputError(f"{path} must hold images. Received: none. Complete the data set, or remove it.")
        items += of_class
    return items


def _read(item: _Item, value_range: ValueRange | None) -> image_files.ImageFile:
    if item.size is None:
        return image_files.read_image(item.path, value_range=value_range)
    try:
        with _open(item.path) as file:
            file.seek(item.offset)
            data = file.read(item.size)
    except (tf.errors.OpError, OSError) as error:
        raise InputError(f"{item.path} cannot be read ({error}). Check the file.") from error
    return image_files.decode_image(data, f"{item.path}, {item.name}", value_range=value_range)


def _convert_item(item: _Item, value_range: ValueRange | None) -> conversion.Converted:
    image = _read(item, value_range)
    label = item.label
    example = records.encode_example(
        image.data,
        image.format,
        item.name,
        image.height,
        image.width,
        panoptic=None,
        class_label=None if label is None else label.id,
        class_text="" if label is None else label.name,
    )
    counts = {} if label is None else {label.id: 1}
    return conversion.Converted(example, image.height, image.width, {}, counts, image.source_bytes, image.remarks)


def convert(
    root: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    label_space: LabelSpace | None = None,
    num_shards: int = 16,
    num_workers: int = 1,
    name: str = "imagenet",
    value_range: ValueRange | None = None,
) -> dataset_info.DatasetInfo:
    """Converts one split.

    The images are shuffled, always in the same way, so that each shard mixes the classes. They keep their original
    bytes and need not be what their name says: ImageNet has a PNG named .JPEG. Hidden files are left out. A folder of
    images without classes becomes records without labels.

    Args:
      root: folder with one folder, or one tar that is not compressed, per class; or with images only.
      output_dir: folder of this split's records, made if missing.
      label_space: the classes; a folder belongs to the class whose name it bears or, for a WordNet id as n01440764,
        whose category_id is the number in it. None makes the classes of the folders' names, sorted; a class' id is its
        position then. Needed where the images have no classes.
      num_shards: files to write; never more than images.
      num_workers: threads.
      name: start of the files' names and, without a label_space, name of the data set.
      value_range: (low, high), the values of images of 16 bits that are black and white; None for all 16 bits.

    Returns:
      What `dataset.json` says.

    Raises:
      InputError: an argument or a file is not usable, a folder is of no known class, holds no images or holds folders.
    """
    conversion.check_arguments(name, num_shards, num_workers)
    value_range = ranges.checked(value_range, "--value_range")
    root = os.fspath(root)
    sources = _class_sources(root)
    if label_space is None and not sources:
        raise InputError(
            f"{root} must hold a folder or a tar for each class. Received: none. Correct --root; for a test split "
            "without labels pass the --label_space of the training split."
        )
    space = label_space or _make_label_space(list(sources), name)
    items = _make_items(root, sources, space)
    if not items:
        raise InputError(f"{root} must hold images. Received: an empty folder. Correct --root.")
    # Names only: who replaces a damaged image goes on with the shards that are finished.
    names = [(item.name, item.label and item.label.id) for item in items]
    mark = conversion.fingerprint(names, *image_files.changes(None, value_range))
    random.Random(_SHUFFLE_SEED).shuffle(items)
    return conversion.convert_items(
        items,
        functools.partial(_convert_item, value_range=value_range),
        label_space=space,
        task=dataset_info.CLASSIFICATION,
        has_labels=bool(sources),
        output_dir=output_dir,
        name=name,
        num_shards=num_shards,
        num_workers=num_workers,
        fingerprint=mark,
        value_range=value_range,
    )
