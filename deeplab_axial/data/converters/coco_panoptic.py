# SPDX-License-Identifier: Apache-2.0
"""COCO panoptic format -> TFRecords: COCO itself and any other data set in its format."""

import functools
import os

from deeplab_axial.data import dataset_info
from deeplab_axial.data import value_range as ranges
from deeplab_axial.data.converters import conversion, image_files, panoptic_format, panoptic_json
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.data.value_range import ValueRange
from deeplab_axial.errors import InputError


def convert(
    image_dir: str | os.PathLike,
    panoptic_json: str | os.PathLike,
    panoptic_dir: str | os.PathLike | None,
    output_dir: str | os.PathLike,
    *,
    label_space: LabelSpace | None = None,
    label_divisor: int = 256,
    num_shards: int = 16,
    num_workers: int = 1,
    name: str = "coco_panoptic",
    upright: str | None = None,
    value_range: ValueRange | None = None,
) -> dataset_info.DatasetInfo:
    """Converts one split; see `conversion.convert_items` for what is written and how it is resumed.

    Things count from 1 in each class, crowd included, stuff from 0. The JSON and the presence of all files are checked
    before anything is written.

    Args:
      image_dir: folder of the images that the JSON names.
      panoptic_json: COCO panoptic JSON; one without "annotations", as of test-dev, gives records without labels.
      panoptic_dir: folder of the PNGs that the JSON names; None without ground truth.
      output_dir: folder of this split's records, made if missing.
      label_space: the classes. None makes them from all categories of the JSON, so that the splits of a data set agree:
        see `panoptic_format.make_label_space`. Categories that a given one lacks become void.
      label_divisor: more than the segments of one class in any image; not used if `label_space` is given.
      num_shards: files to write; never more than images.
      num_workers: threads.
      name: start of the files' names, and name of a label space that is made here.
      upright: what is turned as EXIF says, see `image_files.read_image`.
      value_range: (low, high), the values of images of 16 bits that are black and white; None for all 16 bits.

    Returns:
      What `dataset.json` says.

    Raises:
      InputError: an argument, the JSON or a file is not usable, or the PNGs, images and JSON disagree.
    """
    conversion.check_arguments(name, num_shards, num_workers)
    image_files.check_upright(upright)
    value_range = ranges.checked(value_range, "--value_range")
    image_dir, panoptic_json, output_dir = (os.fspath(path) for path in (image_dir, panoptic_json, output_dir))
    panoptic_dir = None if panoptic_dir is None else os.fspath(panoptic_dir)
    content = _read_json(panoptic_json, panoptic_dir)
    if label_space is None:
        label_space = panoptic_format.make_label_space(content["categories"], panoptic_json, name, label_divisor)
    elif panoptic_dir is not None:  # the JSON of test-dev lists things only
        panoptic_format.check_label_space(label_space, content["categories"], panoptic_json)
    items = panoptic_format.make_items(
        content,
        panoptic_json,
        lambda image: os.path.join(image_dir, image["file_name"]),
        lambda annotation: os.path.join(panoptic_dir, annotation["file_name"]),
        label_space,
    )
    image_files.check_files([item.image_path for item in items], image_dir, "--image_dir")
    if panoptic_dir is not None:
        image_files.check_files([item.png_path for item in items], panoptic_dir, "--panoptic_dir")
    options = {"upright": upright, "value_range": value_range}
    convert_item = functools.partial(panoptic_format.convert_item, space=label_space, **options)
    return conversion.convert_items(
        items,
        convert_item,
        label_space=label_space,
        task=dataset_info.PANOPTIC,
        has_labels=panoptic_dir is not None,
        output_dir=output_dir,
        name=name,
        num_shards=num_shards,
        num_workers=num_workers,
        fingerprint=conversion.fingerprint(*items, *image_files.changes(upright, value_range)),
        value_range=value_range,
    )


def _read_json(path: str, panoptic_dir: str | None) -> dict:
    """The JSON, with "annotations" if and only if there are PNGs."""
    content = panoptic_json.read(path, with_labels=panoptic_dir is not None)
    if panoptic_dir is None and content.pop("annotations", None):
        raise InputError(
            f"{path} has ground truth, so --panoptic_dir must name the folder of its PNGs. Received: none. Pass it, or "
            "name a JSON without annotations, as image_info_test-dev2017.json."
        )
    return content
