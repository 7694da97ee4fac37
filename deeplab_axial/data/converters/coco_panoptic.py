# SPDX-License-Identifier: Apache-2.0
"""COCO panoptic format -> TFRecords.

Class ids are 1 + the position of the category, things first and then by category id, and 0 is void: on COCO itself the
numbering of DeepLab2, things 1 to 80 and stuff 81 to 133. The ids are made from all categories of the JSON, so that the
splits of a data set agree.
"""

import dataclasses
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tqdm
from absl import logging
from PIL import Image

from deeplab_axial.data import dataset_info, records, tfrecord_files
from deeplab_axial.data.label_space import LabelClass, LabelSpace, distinct_color
from deeplab_axial.errors import InputError

_IMAGE_FORMATS = {"JPEG": "jpeg", "PNG": "png"}


@dataclasses.dataclass(frozen=True)
class _Item:
    """One image of the JSON, with its segments as {segment id: panoptic id}."""

    name: str
    image_path: str
    png_path: str
    height: int
    width: int
    segments: dict[int, int]
    crowd_ids: tuple[int, ...]


@dataclasses.dataclass
class _Totals:
    """Collected while the images pass by."""

    max_height: int
    max_width: int
    class_pixels: np.ndarray  # int64 [num_classes]


def _integer(entry: dict, key: str, where: str, low: int, high: int = 2**62) -> int:
    """The integer under a key, checked."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, int) or not low <= value <= high:  # bool is an int: COCO writes both 0 and false
        limits = f"in [{low}, {high}]" if high < 2**62 else f"of at least {low}"
        raise InputError(f"{where}: {key!r} must be an integer {limits}. Received: {value!r}. Correct the file.")
    return int(value)


def _text(entry: dict, key: str, where: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: {key!r} must be a non-empty string. Received: {value!r}. Correct the file.")
    return value


def _read_json(path: str) -> dict:
    try:
        with tf.io.gfile.GFile(path) as file:
            content = json.loads(file.read())
    except (tf.errors.OpError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}). Name the data set's panoptic JSON.") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}). Name the data set's panoptic JSON.") from error
    for key in ("images", "annotations", "categories"):
        value = content.get(key) if isinstance(content, dict) else None
        if not isinstance(value, list) or not value:
            raise InputError(
                f"{path}: {key!r} must be a non-empty list, as in COCO's panoptic format. Received: "
                f"{'an empty list' if value == [] else type(value).__name__}. "
                "Name a panoptic JSON with ground truth."
            )
    return content


def _color(category: dict, class_id: int, where: str) -> tuple[int, int, int]:
    color = category.get("color")
    if color is None:
        return distinct_color(class_id)
    if not isinstance(color, list) or len(color) != 3 or any(type(c) is not int or not 0 <= c <= 255 for c in color):
        raise InputError(f"{where}: 'color' must be 3 integers from 0 to 255. Received: {color!r}. Correct the file.")
    return tuple(color)


def _make_label_space(categories: list[dict], path: str, name: str, label_divisor: int) -> LabelSpace:
    rows = []
    for i, category in enumerate(categories):
        where = f"{path}, categories[{i}]"
        row = (not _integer(category, "isthing", where, 0, 1), _integer(category, "id", where, 0))
        rows.append((*row, _text(category, "name", where), category, where))
    repeated = [k for k, n in Counter(row[1] for row in rows).items() if n > 1]
    if repeated:
        raise InputError(f"{path}: category ids must be distinct. Received twice: {repeated}. Correct the file.")
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


def _number_segments(
    segments: list[dict], where: str, by_category: dict[int, LabelClass], divisor: int
) -> tuple[dict[int, int], tuple[int, ...]]:
    """Gives each segment its panoptic id.

    Returns:
      ({segment id: panoptic id}, panoptic ids of the crowd segments), in the order of the annotation.
    """
    panoptic_ids: dict[int, int] = {}
    crowd_ids: list[int] = []
    used: Counter[int] = Counter()
    for i, segment in enumerate(segments):
        place = f"{where}, segments_info[{i}]"
        segment_id = _integer(segment, "id", place, 1, records.MAX_PANOPTIC_ID)
        category_id = _integer(segment, "category_id", place, 0)
        if segment_id in panoptic_ids:
            raise InputError(f"{place}: segment ids must be distinct. Received twice: {segment_id}. Correct the file.")
        if category_id not in by_category:
            raise InputError(
                f"{place}: category_id must be one of the JSON's categories. Received: {category_id}. Correct the file."
            )
        label = by_category[category_id]
        instance = used[label.id] + label.is_thing  # things count from 1, stuff from 0
        if instance >= divisor:
            raise InputError(
                f"{where}: at most {divisor - 1} segments of class {label.name!r} fit into one image. Received: more. "
                f"Pass a larger --label_divisor than {divisor}, for all splits alike."
            )
        used[label.id] += 1
        panoptic_ids[segment_id] = label.id * divisor + instance
        if "iscrowd" in segment and _integer(segment, "iscrowd", place, 0, 1):
            crowd_ids.append(panoptic_ids[segment_id])
    return panoptic_ids, tuple(crowd_ids)


def _make_items(content: dict, path: str, image_dir: str, panoptic_dir: str, space: LabelSpace) -> list[_Item]:
    """Checks the JSON's images and annotations and joins them, in the order of the annotations."""
    images: dict[object, tuple[dict, str]] = {}
    for i, image in enumerate(content["images"]):
        where = f"{path}, images[{i}]"
        name = _text(image, "file_name", where)
        if image.get("id") in images or not isinstance(image.get("id"), int | str):
            raise InputError(
                f"{where} ({name}): 'id' must be a number or string of its own. Received: {image.get('id')!r}. "
                "Correct the file."
            )
        images[image["id"]] = (image, where)
    by_category = {c.category_id: c for c in space.classes}
    items: dict[object, _Item] = {}
    for i, annotation in enumerate(content["annotations"]):
        where = f"{path}, annotations[{i}]"
        png = _text(annotation, "file_name", where)
        where = f"{where} ({png})"
        image_id, segments = annotation.get("image_id"), annotation.get("segments_info")
        if not isinstance(image_id, int | str) or image_id not in images or image_id in items:
            raise InputError(
                f"{where}: 'image_id' must name one of the JSON's images, each at most once. Received: {image_id!r}. "
                "Correct the file."
            )
        if not isinstance(segments, list):
            raise InputError(f"{where}: 'segments_info' must be a list. Received: {segments!r}. Correct the file.")
        image, image_where = images[image_id]
        items[image_id] = _Item(
            image["file_name"],
            os.path.join(image_dir, image["file_name"]),
            os.path.join(panoptic_dir, png),
            _integer(image, "height", image_where, 1),
            _integer(image, "width", image_where, 1),
            *_number_segments(segments, where, by_category, space.label_divisor),
        )
    if len(items) < len(images):
        logging.warning("%s: %d images have no annotation and are left out.", path, len(images) - len(items))
    return list(items.values())


def _check_files(items: list[_Item], image_dir: str, panoptic_dir: str):
    for folder, paths, option in (
        (image_dir, [item.image_path for item in items], "--image_dir"),
        (panoptic_dir, [item.png_path for item in items], "--panoptic_dir"),
    ):
        if not tf.io.gfile.isdir(folder):
            raise InputError(f"{option} must be a folder. Received: {folder}. Correct the path.")
        # One listing instead of a question per file, which is slow over a network; names with folders are asked for.
        listed = {os.path.join(folder, name) for name in tf.io.gfile.listdir(folder)}
        missing = [path for path in paths if path not in listed and not tf.io.gfile.exists(path)]
        if missing:
            raise InputError(
                f"{missing[0]} does not exist, though the JSON names it ({len(missing)} of {len(paths)} files are "
                f"missing). Correct {option} or complete the data set."
            )


def _read_bytes(path: str) -> bytes:
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    except (tf.errors.OpError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}). Check the file.") from error


def _check_size(path: str, size: tuple[int, int], item: _Item):
    if size != (item.height, item.width):
        raise InputError(
            f"{path} must be as large as the JSON says, {item.height} x {item.width} (height x width). Received: "
            f"{size[0]} x {size[1]}. Correct the file or the JSON."
        )


def _check_image(data: bytes, item: _Item) -> str:
    """Decodes an image as training will, and returns its format."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image_format = _IMAGE_FORMATS[image.format]
        pixels = tf.io.decode_image(data, channels=3, expand_animations=False)
    except (KeyError, OSError, tf.errors.OpError) as error:
        raise InputError(
            f"{item.image_path} must be a JPEG or PNG image that decodes. Received: {len(data)} bytes "
            f"({type(error).__name__}). Replace the file."
        ) from error
    _check_size(item.image_path, tuple(pixels.shape[:2]), item)
    return image_format


def _read_panoptic(item: _Item) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads the PNG of an image and checks it against its segments.

    Returns:
      (map of panoptic ids, int32 [H, W]; the distinct ones in it; their numbers of pixels).
    """
    data = _read_bytes(item.png_path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            size, mode = image.size[::-1], image.mode
            colors = np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise InputError(f"{item.png_path} must be a PNG that decodes ({error}). Replace the file.") from error
    if mode not in ("RGB", "RGBA"):  # a palette or grey PNG holds no 24-bit ids
        raise InputError(
            f"{item.png_path} must be an RGB image of segment ids. Received: mode {mode}. Replace the file."
        )
    _check_size(item.png_path, size, item)
    segment_ids = colors[..., :3].astype(np.int32) @ np.array([1, 256, 65536], np.int32)
    found, inverse, counts = np.unique(segment_ids.ravel(), return_inverse=True, return_counts=True)
    in_png = set(found.tolist()) - {0}
    unknown, absent = sorted(in_png - item.segments.keys()), sorted(item.segments.keys() - in_png)
    if unknown or absent:
        raise InputError(
            f"{item.png_path} must show exactly the segments that the JSON lists. Received: ids {unknown[:5]} in the "
            f"PNG only, ids {absent[:5]} in the JSON only. Use the PNGs that belong to the JSON."
        )
    panoptic_ids = np.array([item.segments.get(i, 0) for i in found.tolist()], np.int32)  # 0 is void in both
    return panoptic_ids[inverse].reshape(size), panoptic_ids, counts


def _encode(items: list[_Item], divisor: int, totals: _Totals, progress: tqdm.tqdm) -> Iterator[bytes]:
    for item in items:
        data = _read_bytes(item.image_path)
        image_format = _check_image(data, item)
        panoptic, ids, counts = _read_panoptic(item)
        np.add.at(totals.class_pixels, ids // divisor, counts)
        totals.max_height = max(totals.max_height, item.height)
        totals.max_width = max(totals.max_width, item.width)
        yield records.encode_example(data, image_format, item.name, item.height, item.width, panoptic, item.crowd_ids)
        progress.update()


def _prepare_output(output_dir: str):
    """Makes the folder, proves that it can be written and takes away the mark of an earlier, complete conversion."""
    probe = os.path.join(output_dir, f"{dataset_info.DATASET_FILE}.partial")
    try:
        tf.io.gfile.makedirs(output_dir)
        with tf.io.gfile.GFile(probe, "w") as file:
            file.write("")
        tf.io.gfile.remove(probe)
        if tf.io.gfile.exists(os.path.join(output_dir, dataset_info.DATASET_FILE)):
            tf.io.gfile.remove(os.path.join(output_dir, dataset_info.DATASET_FILE))
    except (tf.errors.OpError, OSError) as error:
        raise InputError(
            f"--output_dir must be a folder that can be written. Received: {output_dir} ({error}). Name another."
        ) from error


def convert(
    image_dir: str | os.PathLike,
    panoptic_json: str | os.PathLike,
    panoptic_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    num_shards: int = 16,
    label_divisor: int = 256,
    name: str = "coco_panoptic",
) -> dataset_info.DatasetInfo:
    """Converts one split.

    Writes `<name>-00000-of-00016.tfrecord` ... (glob `<name>-*.tfrecord`) and, at last, `dataset.json`, which marks the
    conversion as complete. Images keep their original bytes. Shard k of n holds the annotations k, k + n, k + 2n, ...
    Things count from 1 in each class, crowd included, stuff from 0. The JSON and the presence of all files are checked
    before anything is written. Shards of an earlier conversion with the same name are removed from `output_dir`.

    Args:
      image_dir: folder of the images that the JSON names.
      panoptic_json: COCO panoptic JSON.
      panoptic_dir: folder of the PNGs that the JSON names.
      output_dir: folder of this split's records, made if missing.
      num_shards: files to write; never more than images.
      label_divisor: more than the segments of one class in any image.
      name: name of the data set and start of the files' names.

    Returns:
      What `dataset.json` says.

    Raises:
      InputError: an argument, the JSON or a file is not usable, or the PNGs, images and JSON disagree.
    """
    if num_shards < 1 or num_shards > 99999:
        raise InputError(f"--num_shards must lie in [1, 99999]. Received: {num_shards}. Pass another number.")
    if label_divisor < 2:
        raise InputError(f"--label_divisor must be at least 2. Received: {label_divisor}. Pass a larger number.")
    if not name or any(c in name for c in "/\\*?["):
        raise InputError(f"--name must be part of a file name, without / \\ * ? [. Received: {name!r}. Pass another.")
    image_dir, panoptic_json, panoptic_dir, output_dir = (
        os.fspath(path) for path in (image_dir, panoptic_json, panoptic_dir, output_dir)
    )
    content = _read_json(panoptic_json)
    space = _make_label_space(content["categories"], panoptic_json, name, label_divisor)
    items = _make_items(content, panoptic_json, image_dir, panoptic_dir, space)
    _check_files(items, image_dir, panoptic_dir)
    _prepare_output(output_dir)

    num_shards = min(num_shards, len(items))
    totals = _Totals(0, 0, np.zeros(space.num_classes, np.int64))
    shards = []
    with tqdm.tqdm(total=len(items), desc=f"convert {name}", unit="image", file=sys.stderr) as progress:
        for k in range(num_shards):
            examples = _encode(items[k::num_shards], label_divisor, totals, progress)
            file = f"{name}-{k:05d}-of-{num_shards:05d}.tfrecord"
            shards.append(tfrecord_files.write_shard(output_dir, file, examples))
    for path in tf.io.gfile.glob(os.path.join(output_dir, f"{name}-?????-of-?????.tfrecord")):
        if os.path.basename(path) not in {shard.file for shard in shards}:
            tf.io.gfile.remove(path)
    info = dataset_info.DatasetInfo(
        label_space=space,
        num_images=len(items),
        shards=tuple(shards),
        max_height=totals.max_height,
        max_width=totals.max_width,
        class_pixels=dict(enumerate(totals.class_pixels.tolist())),
    )
    info.write(output_dir)
    return info
