# SPDX-License-Identifier: Apache-2.0
"""Faults and figures of records, found before anything is trained.

`check` reads the records one by one, goes on after a fault and returns a `Summary`; `check_report` writes it as text.
What one record holds is examined by `record_checks`.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from deeplab_axial.data import dataset_info, diagnosis, record_checks, record_folders, tfrecord_files, transforms
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.data.pipeline import ImageOptions
from deeplab_axial.data.record_checks import ERROR, WARNING, Examined
from deeplab_axial.data.source import Source
from deeplab_axial.progress import Bar

# A kind of faults.
CONTRADICTION = "counts that contradict dataset.json"


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something that is wrong with the data.

    Attributes:
      severity: ERROR (training or evaluation would fail or learn nonsense) or WARNING.
      kind: what faults of this sort have in common, as "undecodable images".
      where: the file, the number of the record in it (from 1) and the name of the image, as far as they are known.
      message: what was found, and what to do.
    """

    severity: str
    kind: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.message}"


class Faults:
    """Faults by kind; of each kind all are counted and the first ones kept.

    Attributes:
      kept: (severity, kind) -> the first faults of this kind.
      counts: (severity, kind) -> how many there are.
    """

    def __init__(self, most: int = 20):
        """Keeps `most` faults of a kind."""
        self._most = most
        self.kept: dict[tuple[str, str], list[Fault]] = {}
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()

    def add(self, severity: str, kind: str, where: str, message: str) -> None:
        """Adds one fault."""
        key = (severity, kind)
        self.counts[key] += 1
        if self.counts[key] <= self._most:
            self.kept.setdefault(key, []).append(Fault(severity, kind, where, message))

    def count(self, severity: str) -> int:
        """How many faults are that severe."""
        return sum(count for (s, _), count in self.counts.items() if s == severity)


@dataclasses.dataclass
class Summary:
    """Figures of a split. Images with an error are counted as far as they could be read.

    Attributes:
      label_space: the classes.
      task: "panoptic" or "classification".
      with_labels: whether labels were read.
      small_instance_threshold: instances of fewer pixels count as small.
      num_records: records in all files, as far as they can be counted.
      num_checked: records that were read.
      num_listed: images of the whole data set, as `dataset.json` says; 0 if it is not known.
      faults: what is wrong.
      sizes: (height, width), pixels -> number of images.
      resized_sizes: the same after the config's resize rule, before any random scale.
      class_pixels: [classes] int64, the row of the ignore label included.
      class_segments: likewise, segments (crowd included).
      class_images: likewise, images with the class.
      instances: number of instances in an image -> number of images; crowd is no instance.
      listed_crowd: crowd segments that the records list.
      unlisted_crowd: things with instance id 0 that no record lists as crowd; they count as crowd, as in DeepLab2.
      too_small: class id -> instances whose area after resizing is below one position of the network's last map.
      small_instances: instances whose area after resizing is below small_instance_threshold.
    """

    label_space: LabelSpace
    task: str
    with_labels: bool
    small_instance_threshold: int
    num_records: int = 0
    num_checked: int = 0
    num_listed: int = 0
    faults: Faults = dataclasses.field(default_factory=Faults)
    sizes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    resized_sizes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    instances: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    too_small: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    listed_crowd: int = 0
    unlisted_crowd: int = 0
    small_instances: int = 0

    def __post_init__(self):
        rows = max(self.label_space.num_classes, self.label_space.ignore_label + 1)
        self.class_pixels, self.class_segments, self.class_images = np.zeros((3, rows), np.int64)

    @property
    def num_instances(self) -> int:
        """Thing segments that are not crowd."""
        return sum(number * images for number, images in self.instances.items())


def check(
    source: Source,
    *,
    image_options: ImageOptions,
    output_stride: int,
    small_instance_threshold: int,
    with_labels: bool = True,
    must_fit: bool = False,
    limit: int = 0,
    allow_subset: bool = False,
) -> Summary:
    """Examines records.

    Args:
      source: the files, which may be damaged; `num_records` is counted anew.
      image_options: how a config makes crops of them.
      output_stride: of the config's model; instances of less than its square cannot be found.
      small_instance_threshold: instances of fewer pixels count as small.
      with_labels: False reads the images alone.
      must_fit: whether an image that is larger than the crop is an error, as in evaluation.
      limit: most records to read, spread over the files; 0 for all.
      allow_subset: whether files that `dataset.json` lists may be left out.

    Returns:
      Figures and faults.
    """
    summary = Summary(source.info.label_space, source.info.task, with_labels, small_instance_threshold)
    summary.num_listed = source.info.num_images if source.folders else 0
    broken = _check_files(source, summary, allow_subset)
    space = source.info.label_space
    is_classification = source.info.task == dataset_info.CLASSIFICATION
    examine = record_checks.examine_classification if is_classification else record_checks.examine_panoptic
    examine = functools.partial(examine, space=space, with_labels=with_labels)
    adder = _Adder(summary, image_options, output_stride, must_fit)
    total = min(limit or summary.num_records, summary.num_records)
    stream = _read(source.files, limit, summary.faults, broken)
    for place, examined in Bar(_in_parallel(stream, examine), total=total, desc="Checking", unit="image"):
        adder.add(place, examined)
    if not broken and summary.num_checked == summary.num_records:
        _check_histogram(source, summary)
    if summary.too_small:
        _warn_of_too_small(summary, output_stride, os.path.dirname(source.files[0]))
    return summary


def _check_files(source: Source, summary: Summary, allow_subset: bool) -> set[str]:
    """Counts the records, compares them with dataset.json and returns the files that are damaged."""
    broken = set()
    for path in source.files:
        found = tfrecord_files.scan(path)
        if found.problem is None:
            summary.num_records += found.records
        else:
            broken.add(path)
            summary.faults.add(ERROR, "damaged files", path, found.problem.replace(path, "the file", 1))
    for folder in source.folders:
        existing = tf.io.gfile.listdir(folder.path or ".")
        for problem in record_folders.contradictions(folder, existing, allow_subset):
            summary.faults.add(ERROR, CONTRADICTION, folder.json, problem)
    return broken


def _read(files: Sequence[str], limit: int, faults: Faults, broken: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yields ("FILE, record NUMBER", record); damage ends its file, not the reading.

    Args:
      files: TFRecord files.
      limit: most records; 0 for all.
      faults: takes damage that is not known yet.
      broken: files that are known as damaged; those found here are added.
    """
    left = limit
    for remaining, path in zip(range(len(files), 0, -1), files):
        number = 0
        dataset = tfrecord_files.sound_records(path).take(-(-left // remaining) if limit else -1)
        try:
            for number, serialized in enumerate(dataset.prefetch(1).as_numpy_iterator(), start=1):
                yield f"{path}, record {number}", serialized
        except tf.errors.OpError as error:
            if path not in broken:
                broken.add(path)
                message = (
                    f"it is damaged ({diagnosis.reason(error)}), and what follows in the file cannot be read. Copy the "
                    "file again, or run `deeplab-axial convert` again."
                )
                faults.add(ERROR, "damaged files", f"{path}, record {number + 1}", message)
        left -= number
        if limit and not left:
            return


def _in_parallel(
    stream: Iterator[tuple[str, bytes]], examine: Callable[[bytes], Examined]
) -> Iterator[tuple[str, Examined]]:
    """Examines records on all cores, in order, holding a few of them at a time."""
    workers = os.cpu_count() or 1
    pending: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for place, serialized in stream:
            pending.append((place, pool.submit(examine, serialized)))
            if len(pending) > 2 * workers:
                place, future = pending.popleft()
                yield place, future.result()
        for place, future in pending:
            yield place, future.result()


class _Adder:
    """Adds what was found in each record to a summary."""

    def __init__(self, summary: Summary, image_options: ImageOptions, output_stride: int, must_fit: bool):
        self._summary = summary
        self._options = image_options
        self._least_area = output_stride**2
        self._must_fit = must_fit
        self._resized: dict[tuple[int, int], tuple[int, int]] = {}
        self._places: dict[str, str] = {}  # name of an image -> where it was first

    def add(self, place: str, examined: Examined) -> None:
        """Adds one record that stood at that place."""
        summary = self._summary
        summary.num_checked += 1
        where = f"{place}, image {examined.name!r}" if examined.name else place
        for problem in examined.problems:
            summary.faults.add(problem.severity, problem.kind, where, problem.message)
        if examined.name:
            first = self._places.setdefault(examined.name, place)
            if first != place:
                message = f"{first} has the same file name. Remove one of the two, or rename it and convert again."
                summary.faults.add(WARNING, "duplicate file names", where, message)
        if examined.size is not None:
            self._add_size(where, examined.size)
        if examined.label is not None:
            summary.class_images[examined.label] += 1
        if examined.segments is not None:
            self._add_segments(examined)

    def _add_size(self, where, size):
        summary, crop = self._summary, self._options.crop_size
        resized = self._resize(size)
        summary.sizes[size] += 1
        summary.resized_sizes[resized] += 1
        if self._must_fit and (resized[0] > crop[0] or resized[1] > crop[1]):
            message = (
                f"the image is {resized[0]} x {resized[1]} (height x width) after resizing and does not fit crop_size, "
                f"{crop[0]} x {crop[1]}. Enlarge crop_size, or set min_resize_value and max_resize_value."
            )
            summary.faults.add(ERROR, "images larger than the crop", where, message)

    def _add_segments(self, examined):
        summary, segments = self._summary, examined.segments
        known = segments.is_known
        classes = segments.classes[known]
        np.add.at(summary.class_pixels, classes, segments.areas[known])
        np.add.at(summary.class_segments, classes, 1)
        summary.class_images[np.unique(classes)] += 1
        is_instance = segments.is_thing & ~segments.is_crowd
        summary.instances[int(is_instance.sum())] += 1
        summary.listed_crowd += int(segments.is_listed.sum())
        summary.unlisted_crowd += int((segments.is_crowd & ~segments.is_listed).sum())
        size = examined.map_size
        areas = segments.areas * np.prod(self._resize(size), dtype=np.int64) / np.prod(size, dtype=np.int64)
        summary.small_instances += int((is_instance & (areas < summary.small_instance_threshold)).sum())
        summary.too_small.update(segments.classes[is_instance & (areas < self._least_area)].tolist())

    def _resize(self, size):
        if size not in self._resized:
            o = self._options
            resized = transforms.resized_size(tf.constant(size), o.min_resize, o.max_resize, o.resize_factor)
            self._resized[size] = tuple(resized.numpy().tolist())
        return self._resized[size]


def _check_histogram(source: Source, summary: Summary) -> None:
    """Compares what was counted over all records with dataset.json, those of several folders together."""
    info = source.info
    if not summary.with_labels or summary.num_records != info.num_images:
        return
    where = ", ".join(folder.json for folder in source.folders if folder.has_info)
    is_panoptic = info.task == dataset_info.PANOPTIC
    for what, listed, counted in (
        ("pixels", info.class_pixels, summary.class_pixels if is_panoptic else None),
        ("segments" if is_panoptic else "images", info.class_counts, _class_counts(summary)),
    ):
        if listed is None or counted is None:
            continue
        for class_id, count in enumerate(counted.tolist()):
            if count != listed.get(class_id, 0):
                name = record_checks.class_name(class_id, info.label_space)
                message = (
                    f"it lists {listed.get(class_id, 0)} {what} of {name}. Received: {count}. Run `deeplab-axial "
                    "convert` again."
                )
                summary.faults.add(ERROR, CONTRADICTION, where, message)


def _class_counts(summary: Summary) -> np.ndarray:
    """[classes]: what `DatasetInfo.class_counts` counts."""
    if summary.task == dataset_info.CLASSIFICATION:
        return summary.class_images
    counts = summary.class_segments.copy()
    counts[summary.label_space.ignore_label] = 0
    return counts


def _warn_of_too_small(summary: Summary, output_stride: int, folder: str) -> None:
    by_id = summary.label_space.by_id
    classes = ", ".join(f"{by_id[i].name} {count}" for i, count in summary.too_small.most_common())
    message = (
        f"{sum(summary.too_small.values())} of {summary.num_instances} instances have less than {output_stride} x "
        f"{output_stride} pixels after resizing, one position at the model's output stride: {classes}. They are hardly "
        "learned; raise min_resize_value, or lower output_stride."
    )
    summary.faults.add(WARNING, "instances too small for the output stride", folder or ".", message)
