# SPDX-License-Identifier: Apache-2.0
"""Mapillary Vistas 1.2 and 2.0 -> TFRecords, from the folder tree that the download unpacks to.

Both versions hold panoptic ground truth in COCO's format, for the same images. The package of 2.0 has it twice, in
{split}/v1.2/panoptic/panoptic_2018.json and {split}/v2.0/panoptic/panoptic_2020.json, with the PNGs beside the JSON;
the older download of 1.2 has it in {split}/panoptic. The images are {split}/images/*.jpg.
"""

import functools
import os

import tensorflow as tf
from absl import logging

from deeplab_axial.data import dataset_info
from deeplab_axial.data import value_range as ranges
from deeplab_axial.data.converters import conversion, image_files, panoptic_format, panoptic_json
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.data.value_range import ValueRange
from deeplab_axial.errors import InputError

SPLITS = ("training", "validation", "testing")
# Where each version's JSON may lie below the split's folder.
_JSONS = {
    "1.2": ("v1.2/panoptic/panoptic_2018.json", "panoptic/panoptic_2018.json"),
    "2.0": ("v2.0/panoptic/panoptic_2020.json",),
}
VERSIONS = tuple(_JSONS)


def _find_json(folder: str, version: str) -> str:
    """The panoptic JSON of a version in the folder of a split."""
    paths = [os.path.join(folder, *place.split("/")) for place in _JSONS[version]]
    for path in paths:
        if tf.io.gfile.exists(path):
            return path
    raise InputError(
        f"{' or '.join(paths)} must hold the ground truth of Mapillary Vistas {version}. Received: no such file. "
        "Unpack the data set below --root, or correct --root, --split or --mapillary_version."
    )


def _list_images(folder: str) -> list[str]:
    """The names of the images in a folder, sorted."""
    remedy = "Unpack the data set below --root, or correct --root and --split."
    if not tf.io.gfile.isdir(folder):
        raise InputError(f"{folder} must be a folder of images. Received: none. {remedy}")
    names = sorted(name for name in tf.io.gfile.listdir(folder) if name.lower().endswith(".jpg"))
    if not names:
        raise InputError(f"{folder} must hold images, *.jpg. Received: none. {remedy}")
    return names


def _convert_unlabelled(path: str, upright: str | None, value_range: ValueRange | None) -> conversion.Converted:
    image = image_files.read_image(path, upright=upright, value_range=value_range)
    return panoptic_format.encode_unlabelled(image, os.path.basename(path))


def _labelled_items(
    path: str, content: dict, images: str, names: list[str], space: LabelSpace
) -> list[panoptic_format.Item]:
    """The items of a panoptic JSON, whose PNGs lie beside it; `names` are those of the folder `images`."""
    folder = os.path.dirname(path)
    items = panoptic_format.make_items(
        content,
        path,
        lambda image: os.path.join(images, image["file_name"]),
        lambda annotation: os.path.join(folder, annotation["file_name"]),
        space,
    )
    image_files.check_files([item.image_path for item in items], images, "--root")
    image_files.check_files([item.png_path for item in items], folder, "--root")
    alone = sorted(set(names) - {item.name for item in items})
    if alone:
        logging.warning("%s: %d of %d images are not in %s and left out.", alone[0], len(alone), len(names), path)
    return items


def convert(
    root: str | os.PathLike,
    split: str,
    version: str,
    output_dir: str | os.PathLike,
    *,
    label_space: LabelSpace | None = None,
    label_divisor: int = 256,
    num_shards: int = 16,
    num_workers: int = 1,
    name: str | None = None,
    upright: str | None = None,
    value_range: ValueRange | None = None,
) -> dataset_info.DatasetInfo:
    """Converts one split; see `conversion.convert_items` for what is written and how it is resumed.

    The JSON and the presence of all files are checked before anything is written.

    Args:
      root: folder that holds the splits' folders; anything that `tf.io.gfile` takes.
      split: "training", "validation" or "testing"; the images of testing have no labels.
      version: "1.2" or "2.0", which have other classes.
      output_dir: folder of this split's records, made if missing.
      label_space: the classes; categories that it lacks become void. None takes all categories of the JSON, things
        first: see `panoptic_format.make_label_space`. Needed for testing, which has no JSON.
      label_divisor: more than the segments of one class in any image; not used if `label_space` is given.
      num_shards: files to write; never more than images.
      num_workers: threads.
      name: start of the files' names, and name of a label space that is made here; None is "mapillary_vistas_1.2" or
        "mapillary_vistas_2.0".
      upright: what is turned as EXIF says, see `image_files.read_image`.
      value_range: (low, high), the values of images of 16 bits that are black and white; None for all 16 bits.

    Returns:
      What `dataset.json` says.

    Raises:
      InputError: an argument is not usable, the tree is incomplete, or PNGs, images and JSON disagree.
    """
    if split not in SPLITS:
        raise InputError(f"--split must be one of {', '.join(SPLITS)}. Received: {split!r}. Pass one of them.")
    if version not in VERSIONS:
        raise InputError(f"--mapillary_version must be {' or '.join(VERSIONS)}. Received: {version!r}. Pass one.")
    name = f"mapillary_vistas_{version}" if name is None else name
    conversion.check_arguments(name, num_shards, num_workers)
    image_files.check_upright(upright)
    value_range = ranges.checked(value_range, "--value_range")
    has_labels = split != "testing"
    options = {"upright": upright, "value_range": value_range}
    if label_space is None and not has_labels:
        raise InputError(
            "testing has no labels, and so no list of classes. Received: no label space. Pass "
            f"--label_space=mapillary_vistas_{version}, or the dataset.json of the converted training split."
        )
    folder = os.path.join(os.fspath(root), split)
    images = os.path.join(folder, "images")
    names = _list_images(images)
    if has_labels:
        path = _find_json(folder, version)
        content = panoptic_json.read(path)
        if label_space is None:
            label_space = panoptic_format.make_label_space(content["categories"], path, name, label_divisor)
        else:
            panoptic_format.check_label_space(label_space, content["categories"], path)
        items = _labelled_items(path, content, images, names, label_space)
        convert_item = functools.partial(panoptic_format.convert_item, space=label_space, **options)
    else:
        items = [os.path.join(images, image) for image in names]
        convert_item = functools.partial(_convert_unlabelled, **options)
    return conversion.convert_items(
        items,
        convert_item,
        label_space=label_space,
        task=dataset_info.PANOPTIC,
        has_labels=has_labels,
        output_dir=output_dir,
        name=name,
        num_shards=num_shards,
        num_workers=num_workers,
        fingerprint=conversion.fingerprint(*items, *image_files.changes(upright, value_range)),
        value_range=value_range,
    )
