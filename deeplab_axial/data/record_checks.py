# SPDX-License-Identifier: Apache-2.0
"""What one record holds, and what is wrong with it."""

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab_axial.data import diagnosis, image_bytes, records
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.errors import InputError

ERROR, WARNING = "error", "warning"
# Segments that a message names.
_MOST_NAMED = 5
_AGAIN = "Correct the annotation and convert the data set again."


class Problem(NamedTuple):
    """A fault, without its place; see `checks.Fault`."""

    severity: str
    kind: str
    message: str


class Segments(NamedTuple):
    """The segments of a panoptic map, void included, ordered by id.

    Attributes:
      ids: [n] int64, panoptic ids.
      areas: [n] int64, pixels.
      classes: [n] int64, class ids.
      is_known: [n] bool, whether the label space has the class, or it is the ignore label.
      is_thing: [n] bool.
      is_listed: [n] bool, things that the record lists as crowd.
      is_crowd: [n] bool, things that are listed as crowd or have instance id 0.
    """

    ids: np.ndarray
    areas: np.ndarray
    classes: np.ndarray
    is_known: np.ndarray
    is_thing: np.ndarray
    is_listed: np.ndarray
    is_crowd: np.ndarray


@dataclasses.dataclass
class Examined:
    """What was found in a record.

    Attributes:
      name: the image's file name; empty if there is none.
      size: (height, width) of the image, pixels; None if it does not decode.
      map_size: likewise of the panoptic map.
      segments: of the panoptic map; None if it was not read.
      label: class id of the image, for classification; None if it was not read or is out of range.
      problems: what is wrong.
    """

    name: str = ""
    size: tuple[int, int] | None = None
    map_size: tuple[int, int] | None = None
    segments: Segments | None = None
    label: int | None = None
    problems: list[Problem] = dataclasses.field(default_factory=list)

    def add(self, severity: str, kind: str, message: str) -> None:
        """Adds a problem."""
        self.problems.append(Problem(severity, kind, message))


def class_name(class_id: int, space: LabelSpace) -> str:
    """How messages call a class."""
    if class_id == space.ignore_label:
        return "void"
    return space.by_id[class_id].name if class_id in space.by_id else f"class {class_id}"


def find_segments(panoptic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a map and their areas.

    Args:
      panoptic: integers [H, W].

    Returns:
      Ids, ascending, and pixels; both [n] int64.
    """
    flat = panoptic.reshape(-1)
    # Sorting the runs of equal pixels instead of the pixels is faster by far: there are few.
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(starts, append=flat.size)
    ids, index = np.unique(flat[starts], return_inverse=True)
    return ids.astype(np.int64), np.bincount(index, lengths).astype(np.int64)  # sums below 2^53 are exact in float64


def examine_panoptic(serialized: bytes, space: LabelSpace, with_labels: bool = True) -> Examined:
    """Examines a record with a panoptic map.

    Args:
      serialized: the record.
      space: the classes.
      with_labels: whether the map is read.

    Returns:
      What was found; never raises for a faulty record.
    """
    found = Examined()
    try:
        features = {key: value.numpy() for key, value in records.parse_example(serialized).items()}
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        _add_unreadable(found, error)
        return found
    _examine_image(found, features)
    stated = int(features[records.HEIGHT]), int(features[records.WIDTH])
    if found.size is not None and found.size != stated:
        message = (
            f"the record says {stated[0]} x {stated[1]} (height x width), but the image is {found.size[0]} x "
            f"{found.size[1]}. Convert the data set again."
        )
        found.add(ERROR, "wrong sizes", message)
    if with_labels:
        _examine_map(found, features, found.size or stated, space)
    return found


def examine_classification(serialized: bytes, space: LabelSpace, with_labels: bool = True) -> Examined:
    """Examines a record of one image and its class.

    Args:
      serialized: the record.
      space: the classes.
      with_labels: whether the label is read.

    Returns:
      What was found; never raises for a faulty record.
    """
    found = Examined()
    try:
        parsed = tf.io.parse_single_example(
            serialized,
            {
                records.ENCODED: tf.io.FixedLenFeature([], tf.string),
                records.FILENAME: tf.io.FixedLenFeature([], tf.string, ""),
                records.CLASS_LABEL: tf.io.FixedLenFeature([], tf.int64, -1),
            },
        )
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        _add_unreadable(found, error)
        return found
    features = {key: value.numpy() for key, value in parsed.items()}
    _examine_image(found, features)
    label = int(features[records.CLASS_LABEL])
    if with_labels and label in space.by_id:
        found.label = label
    elif with_labels:
        received = "no label" if label == -1 else label
        message = f"{records.CLASS_LABEL} must be the id of a class of {space.name!r}. Received: {received}. {_AGAIN}"
        found.add(ERROR, "labels out of range", message)
    return found


def _add_unreadable(found, error):
    reason = diagnosis.reason(error)
    message = f"it is no image with features as {records.ENCODED!r} ({reason}). Convert the data set again."
    found.add(ERROR, "unreadable records", message)


def _examine_image(found, features):
    found.name = features[records.FILENAME].decode(errors="replace")
    try:
        image = image_bytes.decode_tf(tf.constant(features[records.ENCODED]))
        found.size = tuple(image.shape[:2])
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        message = f"the image does not decode ({diagnosis.reason(error)}). Replace it and convert the data set again."
        found.add(ERROR, "undecodable images", message)


def _examine_map(found, features, size, space):
    encoded = features[records.SEGMENTATION]
    if not encoded:
        message = f"there is no panoptic map ({records.SEGMENTATION}). Convert the data set again, with its labels."
        found.add(ERROR, "missing panoptic maps", message)
        return
    try:
        panoptic = records.decode_panoptic(
            encoded, features[records.SEGMENTATION_FORMAT].decode(errors="replace"), *size
        )
    except InputError as error:
        found.add(ERROR, "unusable panoptic maps", str(error))
        return
    found.map_size = panoptic.shape
    ids, areas = find_segments(panoptic)
    classes, instances = np.divmod(ids, space.label_divisor)
    is_thing = np.isin(classes, space.thing_ids)
    is_listed = is_thing & np.isin(ids, features[records.CROWD_IDS])
    segments = Segments(
        ids,
        areas,
        classes,
        is_known=np.isin(classes, [*space.by_id, space.ignore_label]),
        is_thing=is_thing,
        is_listed=is_listed,
        is_crowd=is_listed | is_thing & (instances == 0),
    )
    found.segments = segments
    _check_classes(found, segments, space)
    # DeepLab2's records do not list their segments.
    if features[records.SEGMENT_IDS].size:
        _compare_with_annotation(found, features, segments, space)


def _check_classes(found, segments, space):
    unknown = np.flatnonzero(~segments.is_known)
    if unknown.size:
        pixels = segments.areas[unknown].sum()
        message = (
            f"the panoptic map has classes that the label space {space.name!r} does not have. Received: "
            f"{_some(sorted(set(segments.classes[unknown].tolist())))} ({pixels} pixels). Check the label space, "
            f"label_divisor {space.label_divisor} included."
        )
        found.add(ERROR, "unknown classes", message)
    is_split = segments.is_known & ~segments.is_thing & (segments.classes != space.ignore_label)
    is_split &= segments.ids % space.label_divisor != 0
    if is_split.any():
        message = (
            f"stuff must have instance id 0. Received: {_names(segments.ids[is_split], space)}. Panoptic quality would "
            f"count them as segments of their own; {_AGAIN[0].lower()}{_AGAIN[1:]}"
        )
        found.add(WARNING, "stuff with instance ids", message)


def _compare_with_annotation(found, features, segments, space):
    """Segments and areas of the map against those that the annotation listed."""
    listed, listed_areas = features[records.SEGMENT_IDS], features[records.SEGMENT_AREAS]
    missing = np.setdiff1d(listed, segments.ids)
    if missing.size:
        message = f"the annotation has segments that the panoptic map does not have: {_names(missing, space)}. {_AGAIN}"
        found.add(ERROR, "segments missing from the map", message)
    is_segment = segments.is_known & (segments.classes != space.ignore_label)
    extra = np.setdiff1d(segments.ids[is_segment], listed)
    if extra.size:
        message = f"the panoptic map has segments that the annotation does not have: {_names(extra, space)}. {_AGAIN}"
        found.add(ERROR, "segments missing from the annotation", message)
    if listed_areas.size != listed.size:
        message = (
            f"{records.SEGMENT_AREAS} must have as many values as {records.SEGMENT_IDS}, {listed.size}. Received: "
            f"{listed_areas.size}. Convert the data set again."
        )
        found.add(ERROR, "unreadable records", message)
        return
    # Stuff that an annotation lists in parts is one segment of the map.
    unique, index = np.unique(listed, return_inverse=True)
    sums = np.bincount(index, listed_areas).astype(np.int64)
    unknown = np.bincount(index, listed_areas < 0) > 0
    common, in_listed, in_map = np.intersect1d(unique, segments.ids, return_indices=True)
    differs = (sums[in_listed] != segments.areas[in_map]) & ~unknown[in_listed]
    if differs.any():
        wrong = [
            f"{_name(i, space)}: {said} pixels in the annotation, {are} in the map"
            for i, said, are in zip(
                common[differs].tolist(), sums[in_listed][differs].tolist(), segments.areas[in_map][differs].tolist()
            )
        ]
        found.add(WARNING, "wrong areas", f"areas differ: {_some(wrong, '; ')}. {_AGAIN}")


def _name(panoptic_id, space):
    class_id, instance = divmod(panoptic_id, space.label_divisor)
    name = class_name(class_id, space)
    return f"{panoptic_id} ({name} {instance})" if instance else f"{panoptic_id} ({name})"


def _names(ids, space):
    return _some([_name(i, space) for i in ids.tolist()])


def _some(values, separator=", "):
    more = f" and {len(values) - _MOST_NAMED} more" if len(values) > _MOST_NAMED else ""
    return separator.join(map(str, values[:_MOST_NAMED])) + more
