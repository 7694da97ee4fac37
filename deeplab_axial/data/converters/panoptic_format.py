# SPDX-License-Identifier: Apache-2.0
"""COCO's panoptic format: a JSON with images, categories and segments, and a PNG of segment ids for each image."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging

from deeplab_axial.data import exif, image_bytes, records
from deeplab_axial.data.converters import image_files
from deeplab_axial.data.converters.conversion import Converted
from deeplab_axial.data.converters.image_files import ImageFile, Remark
from deeplab_axial.data.converters.panoptic_entries import Numbering, Segment, integer, text
from deeplab_axial.data.label_space import LabelClass, LabelSpace, distinct_color
from deeplab_axial.data.value_range import ValueRange
from deeplab_axial.errors import InputError


@dataclasses.dataclass(frozen=True)
class Item:
    """One image of the JSON.

    Attributes:
      name: its file name in the JSON.
      image_path: the image.
      png_path: the PNG of segment ids; None without ground truth.
      height: pixels.
      width: pixels.
      segments: its segments, in the order of the annotation.
    """

    name: str
    image_path: str
    png_path: str | None
    height: int
    width: int
    segments: tuple[Segment, ...]


def _color(category: dict, class_id: int, where: str) -> tuple[int, int, int]:
    color = category.get("color")
    if color is None:
        return distinct_color(class_id)
    if not isinstance(color, list) or len(color) != 3 or any(type(c) is not int or not 0 <= c <= 255 for c in color):
        raise InputError(f"{where}: 'color' must be 3 integers from 0 to 255. Received: {color!r}. Correct the file.")
    return tuple(color)


def _check_category_ids(categories: list[dict], path: str) -> list[int]:
    ids = [integer(category, "id", f"{path}, categories[{i}]", 0) for i, category in enumerate(categories)]
    repeated = [k for k, n in Counter(ids).items() if n > 1]
    if repeated:
        raise InputError(f"{path}: category ids must be distinct. Received twice: {repeated}. Correct the file.")
    return ids


def make_label_space(categories: list[dict], path: str, name: str, label_divisor: int) -> LabelSpace:
    """Numbers the categories: things first, then by category id, from 1; 0 is void.

    On COCO itself this is the numbering of DeepLab2's records, things 1 to 80 and stuff 81 to 133.

    Args:
      categories: the JSON's categories.
      path: the JSON, for messages.
      name: name of the data set.
      label_divisor: more than the segments of one class in any image.

    Raises:
      InputError: a category is incomplete, or the ids do not fit a PNG.
    """
    if label_divisor < 2:
        raise InputError(f"--label_divisor must be at least 2. Received: {label_divisor}. Pass a larger number.")
    rows = []
    for i, (category_id, category) in enumerate(zip(_check_category_ids(categories, path), categories)):
        where = f"{path}, categories[{i}]"
        if "isthing" not in category:
            raise InputError(
                f"{where}: 'isthing' must be 0 or 1. Received: None. Correct the file, or pass --label_space where the "
                "JSON does not tell things and stuff apart, as COCO's for test-dev."
            )
        is_thing = bool(integer(category, "isthing", where, 0, 1))
        rows.append((not is_thing, category_id, text(category, "name", where), category, where))
    repeated = [repr(name) for name, n in Counter(row[2] for row in rows).items() if n > 1]
    if repeated:
        raise InputError(
            f"{path}: category names must be distinct. Received twice: {', '.join(repeated)}. Rename one in the file, "
            "or pass --label_space, whose category_id tells which is which."
        )
    rows.sort(key=lambda row: row[:2])
    classes = tuple(
        LabelClass(class_id, row_name, not is_stuff, _color(category, class_id, where), category_id)
        for class_id, (is_stuff, category_id, row_name, category, where) in enumerate(rows, start=1)
    )
    if (len(classes) + 1) * label_divisor - 1 > records.MAX_PANOPTIC_ID:
        raise InputError(
            f"(classes + 1) * label_divisor must be at most {records.MAX_PANOPTIC_ID + 1}, what a PNG holds. Received: "
            f"{len(classes)} classes in {path}, --label_divisor={label_divisor}. Pass a smaller --label_divisor."
        )
    return LabelSpace(name, classes, len(classes) + 1, 0, label_divisor)


def check_label_space(space: LabelSpace, categories: list[dict], path: str) -> None:
    """Checks that a given label space goes with the JSON's categories.

    Raises:
      InputError: a class has a category id that the JSON lacks, the JSON gives a class's name to another category id,
        or the space's ids do not fit a PNG.
    """
    known = set(_check_category_ids(categories, path))
    unknown = [f"{c.name} ({c.category_id})" for c in space.classes if c.category_id not in known]
    if unknown:
        raise InputError(
            f"--label_space: the category_id of each class must be one of {path}. Received, which it lacks: "
            f"{', '.join(unknown)}. Correct the label space."
        )
    ids: dict[str, set[int]] = {}
    for category in categories:
        if isinstance(category.get("name"), str):
            ids.setdefault(category["name"], set()).add(category["id"])
    moved = [
        f"{c.name} is {c.category_id} there and {', '.join(map(str, sorted(ids[c.name])))} in the JSON"
        for c in space.classes
        if c.category_id not in ids.get(c.name, {c.category_id})
    ]
    if moved:
        raise InputError(
            f"--label_space: a class must have the category_id that {path} gives to its name. Received: "
            f"{', '.join(moved[:8])}{', ...' if len(moved) > 8 else ''}. Correct category_id in the label space, or "
            "the ids of the JSON."
        )
    highest = max([space.void_id, *((c.id + 1) * space.label_divisor - 1 for c in space.classes)])
    if highest > records.MAX_PANOPTIC_ID:
        raise InputError(
            f"--label_space: class id * label_divisor must be at most {records.MAX_PANOPTIC_ID}, what a PNG holds. "
            f"Received: {highest}. Choose a smaller label_divisor."
        )


def make_items(
    content: dict,
    path: str,
    image_path: Callable[[dict], str],
    png_path: Callable[[dict], str],
    space: LabelSpace,
) -> list[Item]:
    """Checks the JSON's images and annotations and joins them.

    Args:
      content: the JSON; without "annotations" the items have no ground truth.
      path: its file, for messages.
      image_path: from an entry of "images" to the image file.
      png_path: from an entry of "annotations" to the PNG of segment ids.
      space: the classes. Segments of categories that it lacks become void, and a warning counts them.

    Returns:
      The items, in the order of the annotations, or without these of the images.

    Raises:
      InputError: an entry is incomplete, or entries contradict each other.
    """
    images: dict[object, tuple[dict, str]] = {}
    for i, image in enumerate(content["images"]):
        where = f"{path}, images[{i}]"
        name = text(image, "file_name", where)
        if not isinstance(image.get("id"), int | str) or image["id"] in images:
            raise InputError(
                f"{where} ({name}): 'id' must be a number or string of its own. Received: {image.get('id')!r}. "
                "Correct the file."
            )
        images[image["id"]] = (image, where)
    if "annotations" not in content:
        return [_make_item(image, where, image_path(image), None, ()) for image, where in images.values()]
    numbering = Numbering(space, content["categories"])
    items: dict[object, Item] = {}
    for i, annotation in enumerate(content["annotations"]):
        where = f"{path}, annotations[{i}]"
        where = f"{where} ({text(annotation, 'file_name', where)})"
        image_id, segments = annotation.get("image_id"), annotation.get("segments_info")
        if not isinstance(image_id, int | str) or image_id not in images or image_id in items:
            raise InputError(
                f"{where}: 'image_id' must name one of the JSON's images, each at most once. Received: {image_id!r}. "
                "Correct the file."
            )
        if not isinstance(segments, list):
            raise InputError(f"{where}: 'segments_info' must be a list. Received: {segments!r}. Correct the file.")
        image, image_where = images[image_id]
        numbered = numbering.number(segments, where)
        items[image_id] = _make_item(image, image_where, image_path(image), png_path(annotation), numbered)
    numbering.warn(path)
    if len(items) < len(images):
        logging.warning("%s: %d images have no annotation and are left out.", path, len(images) - len(items))
    return list(items.values())


def _make_item(image: dict, where: str, image_path: str, png_path: str | None, segments: tuple[Segment, ...]) -> Item:
    height, width = integer(image, "height", where, 1), integer(image, "width", where, 1)
    return Item(image["file_name"], image_path, png_path, height, width, segments)


def convert_item(
    item: Item, space: LabelSpace, upright: str | None = None, value_range: ValueRange | None = None
) -> Converted:
    """Reads an image and its PNG, checks them against the JSON and makes the record.

    Args:
      item: the image.
      space: the classes.
      upright: see `image_files.read_image`.
      value_range: see there.

    Raises:
      InputError: a file does not decode, or image, PNG and JSON disagree.
    """
    has_labels = item.png_path is not None
    options = {"has_labels": has_labels, "upright": upright, "value_range": value_range}
    image = image_files.read_image(item.image_path, (item.height, item.width), **options)
    if not has_labels:
        return encode_unlabelled(image, item.name)
    data = image_files.read_bytes(item.png_path)
    panoptic = exif.turn(_read_panoptic(data, item, space), image.labels_turn)
    return encode_panoptic(image, item.name, panoptic, item.segments, space, image.source_bytes + len(data))


def _read_panoptic(data: bytes, item: Item, space: LabelSpace) -> np.ndarray:
    """The map of panoptic ids, int32 [H, W]."""
    try:
        with image_bytes.opened(data) as png:
            size, mode = png.size[::-1], png.mode
            colors = np.asarray(png)
    except image_bytes.UnreadableImage as error:
        raise InputError(f"{item.png_path} must be a PNG that decodes ({error}). Replace the file.") from error
    if mode not in ("RGB", "RGBA"):  # a palette or grey PNG holds no 24-bit ids
        raise InputError(
            f"{item.png_path} must be an RGB image of segment ids. Received: mode {mode}. Replace the file."
        )
    if size != (item.height, item.width):
        raise InputError(
            f"{item.png_path} must be as large as the annotation says, {item.height} x {item.width} (height x width). "
            f"Received: {size[0]} x {size[1]}. Correct the file or the JSON."
        )
    planes = colors[..., :3].astype(np.int32)
    segment_ids = planes[..., 0] | planes[..., 1] << 8 | planes[..., 2] << 16
    found, inverse = _unique(segment_ids)
    panoptic_ids = {0: space.void_id, **{segment.id: segment.panoptic_id for segment in item.segments}}
    listed = panoptic_ids.keys() - {0}
    unknown, absent = sorted(set(found.tolist()) - panoptic_ids.keys()), sorted(listed - set(found.tolist()))
    if unknown or absent:
        raise InputError(
            f"{item.png_path} must show exactly the segments that the JSON lists. Received: ids {unknown[:5]} in the "
            f"PNG only, ids {absent[:5]} in the JSON only. Use the PNGs that belong to the JSON."
        )
    return np.array([panoptic_ids[i] for i in found.tolist()], np.int32)[inverse].reshape(size)


def _unique(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`np.unique` with the inverse, of [H, W]; sorts the starts of runs instead of all pixels."""
    flat = ids.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    found, inverse = np.unique(flat[starts], return_inverse=True)
    return found, np.repeat(inverse, np.diff(starts, append=flat.size))


def encode_unlabelled(image: ImageFile, name: str) -> Converted:
    """The record of an image without ground truth."""
    example = records.encode_example(image.data, image.format, name, image.height, image.width, None)
    return Converted(example, image.height, image.width, {}, {}, image.source_bytes, image.remarks)


def encode_panoptic(
    image: ImageFile,
    name: str,
    panoptic: np.ndarray,
    segments: Sequence[Segment],
    space: LabelSpace,
    source_bytes: int,
) -> Converted:
    """The record of an image with its panoptic map.

    Args:
      image: the image.
      name: its name in the data set.
      panoptic: panoptic ids, int32 [height, width].
      segments: its segments. Those that are void, since the label space lacks their category, are left out.
      space: the classes.
      source_bytes: bytes of the original files.
    """
    named = [segment for segment in segments if segment.panoptic_id != space.void_id]
    ids, inverse = _unique(panoptic)
    pixels = dict(zip(ids.tolist(), np.bincount(inverse).tolist()))
    wrong = [s for s in named if s.area is not None and s.area != pixels.get(s.panoptic_id, 0)]
    remarks = image.remarks
    if wrong:
        first = f"segment {wrong[0].id} of {name}: {pixels.get(wrong[0].panoptic_id, 0)}, not {wrong[0].area}"
        remarks += (Remark("segments have another area (pixels) than the annotation says", len(wrong), first),)
    example = records.encode_example(
        image.data,
        image.format,
        name,
        image.height,
        image.width,
        panoptic,
        [segment.panoptic_id for segment in named if segment.is_crowd],
        [segment.panoptic_id for segment in named],
        [-1 if segment.area is None else segment.area for segment in named],
    )
    class_counts = Counter(segment.panoptic_id // space.label_divisor for segment in named)
    class_pixels = Counter()
    for panoptic_id, count in pixels.items():
        class_pixels[panoptic_id // space.label_divisor] += count
    return Converted(example, image.height, image.width, class_pixels, class_counts, source_bytes, remarks)
