# SPDX-License-Identifier: Apache-2.0
"""Cityscapes -> TFRecords, from the folder tree that its downloads unpack to.

Ground truth is the panoptic JSON that cityscapesScripts' createPanopticImgs writes into gtFine or, without one, the
*_gtFine_instanceIds.png of the download; the records are the same. cityscapesScripts' rules hold: a pixel of value
1000 label id + number belongs to a single thing, a smaller value on a thing's label is a group, which is crowd, and
what evaluation ignores is void.
"""

import dataclasses
import functools
import os
from collections import Counter

import numpy as np
import tensorflow as tf
from absl import logging

from deeplab_axial.data import dataset_info, exif, image_bytes
from deeplab_axial.data import value_range as ranges
from deeplab_axial.data.converters import conversion, image_files, panoptic_entries, panoptic_format, panoptic_json
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.data.value_range import ValueRange
from deeplab_axial.errors import InputError

SPLITS = ("train", "val", "test")
_IMAGE_ENDING = "_leftImg8bit.png"
_TRUTH_ENDING = "_gtFine_instanceIds.png"
_JSON_IMAGE_ENDING = "_gtFine_leftImg8bit.png"  # how createPanopticImgs names the images
_FIRST_INSTANCE = 1000  # smaller values are label ids
_LABEL_IDS = range(34)  # the licence plates' -1 is never drawn
_THING_LABEL_IDS = range(24, 34)
# Label ids of the classes that evaluation counts, in the order of their train ids.
_EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


@dataclasses.dataclass(frozen=True)
class _Item:
    """An image and its map of instance ids; without a map in the test split."""

    name: str
    image_path: str
    truth_path: str | None


def _list(folder: str, remedy: str) -> list[str]:
    """The names in a folder, sorted."""
    if not tf.io.gfile.isdir(folder):
        raise InputError(f"{folder} must be a folder. Received: none. {remedy}")
    return sorted(name.rstrip("/") for name in tf.io.gfile.listdir(folder))  # listings of gs:// end folders with /


def _find(root: str, kind: str, split: str, ending: str) -> dict[str, str]:
    """The files root/kind/split/CITY/*ending as {CITY_xxxxxx_yyyyyy: path}, sorted."""
    folder = os.path.join(root, kind, split)
    remedy = f"Unpack Cityscapes' {kind} below --root, or correct --root and --split."
    found = {}
    for city in _list(folder, remedy):
        path = os.path.join(folder, city)
        if tf.io.gfile.isdir(path):
            names = [name for name in _list(path, remedy) if name.endswith(ending)]
            found.update({name.removesuffix(ending): os.path.join(path, name) for name in names})
    if not found:
        raise InputError(f"{folder} must hold files CITY/*{ending}. Received: none. {remedy}")
    return dict(sorted(found.items()))


def _check_pairs(images: dict[str, str], truths: dict[str, str], truth: str) -> None:
    """Every image must have ground truth and the other way round; `truth` says where that was looked for."""
    for having, lacking, where in ((images, truths, truth), (truths, images, "leftImg8bit")):
        alone = [path for key, path in having.items() if key not in lacking]
        if alone:
            raise InputError(
                f"Every image must have ground truth, and the other way round. Received: {alone[0]} without "
                f"counterpart in {where} ({len(alone)} of {len(having)} files). Complete the data set, or remove what "
                "is left over."
            )


def _json_items(path: str, images: dict[str, str], space: LabelSpace) -> list[panoptic_format.Item]:
    """The items of a panoptic JSON, whose PNGs lie beside it in the folder of the same name."""
    ignored = [c.name for c in space.classes if c.category_id not in _EVALUATED]
    if ignored:
        raise InputError(
            f"{path} lacks the labels that evaluation ignores. Received in the label space: {', '.join(ignored)}. Move "
            f"the JSON away, and *{_TRUTH_ENDING} are read, which show them."
        )
    if path.endswith("_trainId.json"):
        in_json = {label_id: train_id for train_id, label_id in enumerate(_EVALUATED)}
    else:
        in_json = {label_id: label_id for label_id in _EVALUATED}
    classes = tuple(dataclasses.replace(c, category_id=in_json[c.category_id]) for c in space.classes)
    by_json = dataclasses.replace(space, classes=classes)
    content = panoptic_json.read(path)
    panoptic_format.check_label_space(by_json, content["categories"], path)

    def image_path(image: dict) -> str:
        key = image["file_name"].removesuffix(_JSON_IMAGE_ENDING)
        if key not in images:
            raise InputError(
                f"{path} names the image {image['file_name']}, but leftImg8bit has no {key}{_IMAGE_ENDING}. Complete "
                "leftImg8bit, or make the JSON again with cityscapesScripts' createPanopticImgs."
            )
        return images[key]

    folder = path.removesuffix(".json")
    items = panoptic_format.make_items(
        content, path, image_path, lambda annotation: os.path.join(folder, annotation["file_name"]), by_json
    )
    items = [dataclasses.replace(item, name=os.path.basename(item.image_path)) for item in items]
    _check_pairs(images, {item.name.removesuffix(_IMAGE_ENDING): item.png_path for item in items}, path)
    _list(folder, f"It must hold the PNGs of {path}: make both with cityscapesScripts' createPanopticImgs.")
    image_files.check_files([item.png_path for item in items], folder, "--root")
    return sorted(items, key=lambda item: item.name)


def _map_items(root: str, split: str, images: dict[str, str], space: LabelSpace) -> list[_Item]:
    """The items of the download; the test split's have no map."""
    if split == "test":
        return [_Item(os.path.basename(path), path, None) for path in images.values()]
    truths = _find(root, "gtFine", split, _TRUTH_ENDING)
    _check_pairs(images, truths, os.path.join(root, "gtFine"))
    lacking = sorted(set(_EVALUATED) - {c.category_id for c in space.classes})
    if lacking:
        logging.warning("Cityscapes' labels %s become void, as the label space lacks them.", lacking)
    return [_Item(os.path.basename(path), path, truths[key]) for key, path in images.items()]


def _read_instance_ids(data: bytes, path: str, size: tuple[int, int]) -> np.ndarray:
    """A map of instance ids, int32 [H, W]; `size` is the image's (height, width), pixels."""
    try:
        with image_bytes.opened(data) as image:
            found, mode = image.size[::-1], image.mode
            ids = np.asarray(image)
    except image_bytes.UnreadableImage as error:
        raise InputError(f"{path} must be a PNG that decodes ({error}). Replace the file.") from error
    if not mode.startswith("I"):
        raise InputError(f"{path} must be a 16-bit map of instance ids. Received: mode {mode}. Replace the file.")
    if found != size:
        raise InputError(
            f"{path} must be as large as its image, {size[0]} x {size[1]} (height x width). Received: {found[0]} x "
            f"{found[1]}. Replace one of the two files."
        )
    return ids.astype(np.int32)


def _number_segments(areas: np.ndarray, path: str, space: LabelSpace) -> list[panoptic_format.Segment]:
    """The segments of an image in the order of their instance ids; `areas` are the pixels of each instance id."""
    by_label = {c.category_id: c for c in space.classes}
    segments, used = [], Counter()
    for value in np.flatnonzero(areas).tolist():
        label_id = value if value < _FIRST_INSTANCE else value // _FIRST_INSTANCE
        if label_id not in _LABEL_IDS:
            raise InputError(
                f"{path} must hold label ids of Cityscapes, 0 to {_LABEL_IDS[-1]}, or 1000 times them plus a number. "
                f"Received: {value}. Replace the file by the download's."
            )
        label = by_label.get(label_id)
        if label is None:
            continue
        number = used[label.id] + label.is_thing  # things count from 1, stuff from 0
        used[label.id] += 1
        is_crowd = value < _FIRST_INSTANCE and label_id in _THING_LABEL_IDS
        panoptic_id = label.id * space.label_divisor + number
        segments.append(panoptic_format.Segment(value, panoptic_id, is_crowd, int(areas[value])))
    panoptic_entries.check_count(used, space, path)
    return segments


def _convert_item(
    item: _Item, space: LabelSpace, upright: str | None = None, value_range: ValueRange | None = None
) -> conversion.Converted:
    """Makes the record of an image and its map of instance ids."""
    options = {"has_labels": item.truth_path is not None, "upright": upright, "value_range": value_range}
    image = image_files.read_image(item.image_path, **options)
    if item.truth_path is None:
        return panoptic_format.encode_unlabelled(image, item.name)
    data = image_files.read_bytes(item.truth_path)
    ids = exif.turn(_read_instance_ids(data, item.truth_path, image.label_size), image.labels_turn)
    areas = np.bincount(ids.ravel())
    segments = _number_segments(areas, item.truth_path, space)
    table = np.full(areas.size, space.void_id, np.int32)  # instance id -> panoptic id
    for segment in segments:
        table[segment.id] = segment.panoptic_id
    return panoptic_format.encode_panoptic(
        image, item.name, table[ids], segments, space, image.source_bytes + len(data)
    )


def convert(
    root: str | os.PathLike,
    split: str,
    output_dir: str | os.PathLike,
    *,
    label_space: LabelSpace,
    num_shards: int = 16,
    num_workers: int = 1,
    name: str = "cityscapes_panoptic",
    upright: str | None = None,
    value_range: ValueRange | None = None,
) -> dataset_info.DatasetInfo:
    """Converts one split; see `conversion.convert_items` for what is written and how it is resumed.

    Reads root/leftImg8bit/{split}/CITY/*_leftImg8bit.png and, in this order of preference,
    root/gtFine/cityscapes_panoptic_{split}.json, ..._{split}_trainId.json or gtFine/{split}/CITY/*_instanceIds.png.
    Segments keep the order of their instance ids. Things count from 1 in each class, groups included, stuff from 0. The
    tree is checked for missing files before anything is written, the sizes when the files are read.

    Args:
      root: folder that holds leftImg8bit and gtFine; anything that `tf.io.gfile` takes.
      split: "train", "val" or "test"; the images of test get no labels.
      output_dir: folder of this split's records, made if missing.
      label_space: the classes; `category_id` is Cityscapes' label id (7 is road). Labels that it lacks become void.
      num_shards: files to write; never more than images.
      num_workers: threads.
      name: start of the files' names.
      upright: what is turned as EXIF says, see `image_files.read_image`.
      value_range: (low, high), the values of images of 16 bits that are black and white; None for all 16 bits.

    Returns:
      What `dataset.json` says.

    Raises:
      InputError: an argument or the label space is not usable, the tree is incomplete, or files disagree.
    """
    conversion.check_arguments(name, num_shards, num_workers)
    image_files.check_upright(upright)
    value_range = ranges.checked(value_range, "--value_range")
    if split not in SPLITS:
        raise InputError(f"--split must be one of {', '.join(SPLITS)}. Received: {split!r}. Pass one of them.")
    panoptic_format.check_label_space(label_space, [{"id": i} for i in _LABEL_IDS], "Cityscapes' label ids, 0 to 33")
    root = os.fspath(root)
    images = _find(root, "leftImg8bit", split, _IMAGE_ENDING)
    jsons = [os.path.join(root, "gtFine", f"cityscapes_panoptic_{split}{end}.json") for end in ("", "_trainId")]
    jsons = [path for path in jsons if split != "test" and tf.io.gfile.exists(path)]
    items = _json_items(jsons[0], images, label_space) if jsons else _map_items(root, split, images, label_space)
    convert_item = panoptic_format.convert_item if jsons else _convert_item
    return conversion.convert_items(
        items,
        functools.partial(convert_item, space=label_space, upright=upright, value_range=value_range),
        label_space=label_space,
        task=dataset_info.PANOPTIC,
        has_labels=split != "test",
        output_dir=output_dir,
        name=name,
        num_shards=num_shards,
        num_workers=num_workers,
        fingerprint=conversion.fingerprint(*items, *image_files.changes(upright, value_range)),
        value_range=value_range,
    )
