# SPDX-License-Identifier: Apache-2.0
"""Reads a JSON in COCO's panoptic format, whatever tool wrote it, and recognises other formats."""

import json
from collections import Counter
from typing import Any

from absl import logging

from deeplab_axial import files
from deeplab_axial.errors import InputError

_REMEDY = "Name the data set's panoptic JSON."
_LARGEST_WHOLE = 2**53  # a float beyond it stands for several integers
_MAKE_PANOPTIC = (
    "It lacks 'segments_info', which together with one PNG an image tells which pixel belongs to which segment. Name "
    "the data set's panoptic JSON, as panoptic_val2017.json, or make one with panopticapi's "
    "converters/detection2panoptic_coco_format.py; docs/data.md shows the format."
)
_BY_HAND = "Write all images into one panoptic JSON, with one PNG of segment ids each: docs/data.md shows the format."


def read(path: str, with_labels: bool = True) -> dict:
    """Reads the JSON and checks that it has the format's lists.

    Numbers are integers then where the format has integers and the file says one otherwise: 2050.0, ids as "17",
    `iscrowd: null`. A warning says in one line what was read so.

    Args:
      path: the file; anything that `tf.io.gfile` takes.
      with_labels: whether "annotations" must be there, too.

    Raises:
      InputError: the file cannot be read or is something else; known formats are named, with what to do.
    """
    content = parse(path)
    known = _recognise(content)
    if known is not None:
        raise InputError(f"{path} must be in COCO's panoptic format. Received: {known[0]}. {known[1]}")
    for key in ("images", "categories", *(["annotations"] if with_labels else [])):
        value = content.get(key) if isinstance(content, dict) else None
        if not isinstance(value, list) or not value:
            raise InputError(
                f"{path}: {key!r} must be a non-empty list, as in COCO's panoptic format. Received: "
                f"{'an empty list' if value == [] else type(value).__name__}. Name a panoptic JSON"
                f"{' with ground truth' if with_labels else ''}."
            )
    notes = normalise(content)
    if notes:
        logging.warning("%s: read as it is meant: %s.", path, "; ".join(notes))
    return content


def parse(path: str) -> Any:
    """The content of a JSON file, with or without a byte order mark.

    Raises:
      InputError: the file cannot be read, is no JSON or is nested too deeply.
    """
    try:
        return json.loads(files.read(path).decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}). Name the data set's JSON.") from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply for an annotation. Name the data set's JSON.") from error
    except ValueError as error:  # UnicodeDecodeError is one
        raise InputError(f"{path} is not valid JSON ({error}). Name the data set's JSON.") from error


def _recognise(content: Any) -> tuple[str, str] | None:
    """(which other format it is, what to do), or None."""
    if isinstance(content, list):
        first = content[0] if content and isinstance(content[0], dict) else {}
        if "segments_info" in first:
            return "a list of annotations alone", "Put it into a JSON with 'images', 'annotations' and 'categories'."
        if "image_id" in first:
            return "a list of COCO results or annotations of single objects", _MAKE_PANOPTIC
    if not isinstance(content, dict):
        return None
    annotations = content.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    if isinstance(first, dict) and "segments_info" not in first:
        for key, name in (("caption", "captions"), ("keypoints", "keypoints"), ("segmentation", "instances")):
            if key in first:
                return f"COCO's {name} format (annotations with {key!r})", _MAKE_PANOPTIC
        if "bbox" in first:
            return "COCO's format of boxes (annotations with 'bbox')", _MAKE_PANOPTIC
    if "imgHeight" in content and "objects" in content:
        return "the polygons of one image of Cityscapes", "Run deeplab-axial convert cityscapes --root=FOLDER."
    if "shapes" in content and ("imagePath" in content or "imageData" in content):
        return "the shapes of one image by LabelMe", _BY_HAND
    if "label_space" in content and "shards" in content:
        return "the dataset.json of records that are converted already", _REMEDY
    if "labels" in content and "annotations" not in content:
        return "a list of classes, as Mapillary Vistas' config", "Run deeplab-axial convert mapillary --root=FOLDER."
    return None


def normalise(content: dict) -> list[str]:
    """Replaces, in place, what other tools write for integers in the lists that are there.

    Returns:
      What was replaced, in words.
    """
    images, categories, annotations = (_entries(content, key) for key in ("images", "categories", "annotations"))
    listed = [a["segments_info"] for a in annotations if isinstance(a.get("segments_info"), list)]
    segments = [segment for of_image in listed for segment in of_image if isinstance(segment, dict)]
    found: Counter[tuple[str, str]] = Counter()
    _convert(images, ("id", "height", "width"), (), found)
    _convert(categories, ("id", "isthing"), ("id",), found)
    _convert(annotations, ("image_id",), (), found)
    _convert(segments, ("id", "category_id", "area", "iscrowd"), ("id", "category_id"), found)
    _match_image_ids(images, annotations, found)
    for segment in segments:
        if "iscrowd" in segment and segment["iscrowd"] is None:
            segment["iscrowd"] = 0
            found["null as 0", "iscrowd"] += 1
        if segment.get("area") is None:
            found["absent, so that the pixels of the PNG count", "area"] += 1
    return [f"{key!r} {how} ({count} times)" for (how, key), count in found.items()]


def _entries(content: dict, key: str) -> list[dict]:
    """Those entries of a list that may be right."""
    value = content.get(key)
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _convert(entries: list[dict], keys: tuple[str, ...], ids: tuple[str, ...], found: Counter) -> None:
    """Makes integers of whole floats under the keys, and of strings of digits under those of them that are `ids`."""
    for entry in entries:
        for key in keys:
            value = entry.get(key)
            if type(value) is float and value.is_integer() and abs(value) <= _LARGEST_WHOLE:
                entry[key] = int(value)
                found["with a decimal point as whole numbers", key] += 1
            elif type(value) is str and key in ids and _is_number(value):
                entry[key] = int(value)
                found["as text as numbers", key] += 1


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def _match_image_ids(images: list[dict], annotations: list[dict], found: Counter) -> None:
    """Images may have names for ids; ids as text become numbers only if annotations do not find their images else."""
    ids = {image.get("id") for image in images if isinstance(image.get("id"), int | str)}
    wanted = {a.get("image_id") for a in annotations if isinstance(a.get("image_id"), int | str)}
    if not wanted <= ids:
        _convert(images, ("id",), ("id",), found)
        _convert(annotations, ("image_id",), ("image_id",), found)
