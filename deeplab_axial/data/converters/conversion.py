# SPDX-License-Identifier: Apache-2.0
"""What all converters share: shards made in parallel, resumed, verified and described by dataset.json.

A shard is complete or absent. Beside each finished one lies `.<shard>.json`, its sidecar, until `dataset.json`, which
is written last, takes their place. So whatever interrupts a conversion, the same command goes on where it stopped.
"""

import hashlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import NamedTuple, TypeVar

import tensorflow as tf
from absl import logging

from deeplab_axial import locks
from deeplab_axial.data import dataset_info, tfrecord_files
from deeplab_axial.data.converters import shard_files
from deeplab_axial.data.converters.image_files import Remark
from deeplab_axial.data.converters.shard_files import Tally
from deeplab_axial.data.dataset_info import DatasetInfo
from deeplab_axial.data.label_space import LabelSpace
from deeplab_axial.data.value_range import ValueRange
from deeplab_axial.errors import InputError
from deeplab_axial.progress import Bar

T = TypeVar("T")
_MAX_FAULTS = 20
_VERSION = 1  # of the records; conversions of another version are made again


class Converted(NamedTuple):
    """One image, ready to write.

    Attributes:
      example: the serialised record.
      height: pixels.
      width: pixels.
      class_pixels: pixels of each class id, void under the ignore label; {} without labels or for classification.
      class_counts: segments of each class id, crowd included; {label: 1} for classification; {} without labels.
      source_bytes: bytes of the original files, image and labels.
      remarks: what is odd about it and does not stop the conversion.
    """

    example: bytes
    height: int
    width: int
    class_pixels: Mapping[int, int]
    class_counts: Mapping[int, int]
    source_bytes: int
    remarks: tuple[Remark, ...] = ()


def fingerprint(*parts: object) -> str:
    """Stands for what is converted and how, to tell on a re-run whether finished shards may stay.

    Args:
      *parts: what the records depend on, with a stable repr: items, paths, options, digests of annotation files.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode() + b"\0")
    return digest.hexdigest()[:32]


def check_arguments(name: str, num_shards: int, num_workers: int) -> None:
    """Checks what all converters take; they call this before they read anything.

    Raises:
      InputError: an argument is out of range.
    """
    if num_shards < 1 or num_shards > 99999:
        raise InputError(f"--num_shards must lie in [1, 99999]. Received: {num_shards}. Pass another number.")
    if num_workers < 1:
        raise InputError(f"--num_workers must be at least 1. Received: {num_workers}. Pass another number.")
    if not name or any(c in name for c in "/\\*?["):
        raise InputError(f"--name must be part of a file name, without / \\ * ? [. Received: {name!r}. Pass another.")


def convert_items(
    items: Sequence[T],
    convert_item: Callable[[T], Converted],
    *,
    label_space: LabelSpace,
    task: str,
    has_labels: bool,
    output_dir: str | os.PathLike,
    name: str,
    num_shards: int,
    num_workers: int,
    fingerprint: str,
    value_range: ValueRange | None = None,
) -> DatasetInfo:
    """Writes the shards `<name>-00000-of-00016.tfrecord` ... and, at last, `dataset.json`.

    Shard k of n holds the items k, k + n, k + 2n, ... Finished shards of an interrupted conversion with the same
    fingerprint are kept; a folder whose `dataset.json` has it is complete and stays as it is, even if image files have
    changed since. Files of other conversions under the same name are removed at the end.

    Args:
      items: what to convert, one entry an image.
      convert_item: makes a record of an item; called in several threads. An InputError of it is a fault of the data:
        the other items and shards are still converted.
      label_space: the classes.
      task: dataset_info.PANOPTIC or CLASSIFICATION.
      has_labels: whether the records hold ground truth.
      output_dir: folder of this split's records, made if missing; anything that `tf.io.gfile` takes.
      name: start of the files' names.
      num_shards: files to write; never more than items.
      num_workers: threads; each makes one shard at a time.
      fingerprint: stands for what is converted and how; see `fingerprint`.
      value_range: that images of 16 bits are scaled from, for `dataset.json`.

    Returns:
      What `dataset.json` says.

    Raises:
      InputError: an argument is out of range; the folder holds records of another name; items do not convert (one
        line a fault); the folder cannot be written or the disk is full, or another process converts into it. Finished
        shards stay, and the same command goes on with the rest.
    """
    if task not in (dataset_info.PANOPTIC, dataset_info.CLASSIFICATION):
        raise ValueError(f"task must be 'panoptic' or 'classification'. Received: {task!r}")
    check_arguments(name, num_shards, num_workers)
    if not items:
        raise InputError("A data set must hold at least one image. Received: none. Check the folders.")
    output_dir = os.fspath(output_dir)
    num_shards = min(num_shards, len(items))
    mark = _digest(_VERSION, task, has_labels, label_space.to_dict(), name, len(items), num_shards, fingerprint)
    with locks.in_folder(output_dir, "convert"):
        finished = _read_finished(output_dir, mark)
        if finished is not None:
            logging.warning("%s is complete already. To convert again, remove its dataset.json.", output_dir)
            _remove_old_files(output_dir, name, finished)
            return finished
        _refuse_others(output_dir, name)
        _refuse_foreign(output_dir, name)
        _prepare_folder(output_dir, name)
        conversion = _Conversion(items, convert_item, label_space, task, output_dir, name, num_shards, mark)
        conversion.run(num_workers)
        return conversion.finish(has_labels, value_range)


_digest = fingerprint  # which an argument hides


def _read_finished(output_dir: str, mark: str) -> DatasetInfo | None:
    """What `dataset.json` says, if it describes this very conversion and its shards are there."""
    try:
        info = DatasetInfo.read(output_dir)
        sizes = [tf.io.gfile.stat(os.path.join(output_dir, shard.file)).length for shard in info.shards]
    except (InputError, tf.errors.OpError):
        return None
    return info if info.fingerprint == mark and sizes == [shard.bytes for shard in info.shards] else None


def _refuse_foreign(output_dir: str, name: str) -> None:
    """Refuses to replace what no conversion wrote.

    Raises:
      InputError: another `dataset.json` is in the way, or a shard of this name that is not listed and whose first
        record is none of ours.
    """
    path = os.path.join(output_dir, dataset_info.DATASET_FILE)
    advice = "Name another --output_dir, or move it away."
    listed: set[str] = set()
    if tf.io.gfile.exists(path):
        try:
            listed = {shard.file for shard in DatasetInfo.read(output_dir).shards}
        except InputError as error:
            raise InputError(f"{path} would be replaced, but is none of deeplab-axial, or damaged. {advice}") from error
    if not tf.io.gfile.isdir(output_dir):
        return
    found = shard_files.list_files(output_dir, name)
    listed |= {sidecar[1:].removesuffix(".json") for sidecar in found["sidecar"]}
    for shard in sorted(set(found["shard"]) - listed):
        if not shard_files.is_ours(os.path.join(output_dir, shard)):
            raise InputError(
                f"{os.path.join(output_dir, shard)} would be replaced, but its records are none of deeplab-axial, or "
                f"damaged. {advice}"
            )


def _refuse_others(output_dir: str, name: str) -> None:
    """Refuses a folder with records of another name: both would be read as one data set, and one `dataset.json` stays.

    Raises:
      InputError: names them.
    """
    others = shard_files.list_others(output_dir, name) if tf.io.gfile.isdir(output_dir) else []
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise InputError(
            f"--output_dir must be a folder of this split alone. Received: {output_dir}, which holds records of "
            f"another conversion than {name!r}: {others[0]}{more}. Name another folder, give the same --name as "
            "before, or remove the old files."
        )


def _prepare_folder(output_dir: str, name: str) -> None:
    """Makes the folder, proves that it can be written and clears what vouches for an earlier conversion."""
    probe = os.path.join(output_dir, f"{dataset_info.DATASET_FILE}.partial")
    try:
        tf.io.gfile.makedirs(output_dir)
        with tf.io.gfile.GFile(probe, "w") as file:
            file.write("")
        tf.io.gfile.remove(probe)
        if tf.io.gfile.exists(os.path.join(output_dir, dataset_info.DATASET_FILE)):
            tf.io.gfile.remove(os.path.join(output_dir, dataset_info.DATASET_FILE))
        for file in shard_files.list_files(output_dir, name)["partial"]:
            tf.io.gfile.remove(os.path.join(output_dir, file))
    except (tf.errors.OpError, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--output_dir must be a folder that can be written. Received: {output_dir} ({error}). Name another."
        ) from error


def _remove_old_files(output_dir: str, name: str, info: DatasetInfo, sidecars: bool = True) -> None:
    found = shard_files.list_files(output_dir, name)
    found["sidecar"] += found["partial"]
    current = {shard.file for shard in info.shards}
    old = [file for file in found["shard"] if file not in current]
    for file in old + (found["sidecar"] if sidecars else []):
        tf.io.gfile.remove(os.path.join(output_dir, file))


class _Stopped(Exception):
    """Ends a shard that will not be finished."""


class _Conversion:
    """The state that the threads of a conversion share."""

    def __init__(self, items, convert_item, space, task, folder, name, num_shards, mark):
        self.items, self.convert_item, self.space, self.task = items, convert_item, space, task
        self.folder, self.name, self.mark = folder, name, mark
        self.files = [f"{name}-{k:05d}-of-{num_shards:05d}.tfrecord" for k in range(num_shards)]
        self.tallies = {file: shard_files.read_sidecar(folder, file, mark) for file in self.files}
        self.faults: dict[int, str] = {}  # under the item's place in `items`
        self.converted = self._finished()  # images and bytes so far, to foretell the whole size
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.progress: Bar

    def _finished(self) -> Tally:
        """What the finished shards hold."""
        total = Tally()
        for tally in self.tallies.values():
            if tally is not None:
                total.add(tally)
        return total

    def run(self, num_workers: int) -> None:
        """Makes the shards that are not finished yet."""
        todo = [k for k, file in enumerate(self.files) if self.tallies[file] is None]
        bar = Bar(total=len(self.items), initial=self.converted.records, desc=f"convert {self.name}", unit="image")
        with bar as self.progress, futures.ThreadPoolExecutor(num_workers) as pool:
            try:
                for done in futures.as_completed([pool.submit(self._make_shard, k) for k in todo]):
                    done.result()
            except tfrecord_files.WriteError as error:
                raise InputError(f"{error} {self._space_needed()}") from error
            finally:  # an exception, Ctrl-C included, ends the other threads at their next image
                self.stop.set()
        if self.faults:
            raise InputError("\n".join([*(self.faults[i] for i in sorted(self.faults)), self._summary()]))

    def _make_shard(self, k: int) -> None:
        file, tally = self.files[k], Tally()
        path = os.path.join(self.folder, file)
        try:
            shard_files.remove_sidecar(self.folder, file)
            shard = tfrecord_files.write_shard(self.folder, file, self._examples(k, tally))
        except _Stopped:
            return
        tally.bytes = shard.bytes
        try:
            shard_files.verify(path, tally, self.task, self.space)
        except tfrecord_files.WriteError:
            tf.io.gfile.remove(path)
            raise
        shard_files.write_sidecar(self.folder, file, tally, self.mark)
        self.tallies[file] = tally

    def _examples(self, k: int, tally: Tally) -> Iterator[bytes]:
        """The records of shard k. After a fault the rest is still tried, so that all faults are told at once."""
        is_faulty = False
        for i in range(k, len(self.items), len(self.files)):
            if self.stop.is_set():
                raise _Stopped
            try:
                converted = self.convert_item(self.items[i])
            except InputError as error:
                self._add_fault(i, str(error))
                is_faulty = True
                continue
            self._count(converted, tally)
            if not is_faulty:
                yield converted.example
        if is_faulty:
            raise _Stopped

    def _add_fault(self, i: int, message: str) -> None:
        with self.lock:
            self.faults[i] = " ".join(message.splitlines())
            self.progress.update()
            if len(self.faults) >= _MAX_FAULTS:
                self.stop.set()

    def _count(self, converted: Converted, tally: Tally) -> None:
        height, width = converted.height, converted.width
        pixels, counts = Counter(converted.class_pixels), Counter(converted.class_counts)
        tally.add(Tally(1, 0, height, width, converted.source_bytes, pixels, counts))
        for remark in converted.remarks:
            tally.remark(remark)
        with self.lock:
            self.converted.records += 1
            self.converted.bytes += len(converted.example)
            self.progress.update()

    def _summary(self) -> str:
        """The last line of an error."""
        finished = sum(tally is not None for tally in self.tallies.values())
        faults = f"{len(self.faults)} fault{'s' if len(self.faults) > 1 else ''}"
        if len(self.faults) >= _MAX_FAULTS:
            faults += ", then stopped: there may be more"
        return (
            f"{faults}. {finished} of {len(self.files)} files are finished and stay. Mend the data and run the same "
            "command again: it makes the rest."
        )

    def _space_needed(self) -> str:
        finished = self._finished()
        done = sum(tally is not None for tally in self.tallies.values())
        text = f"{done} of {len(self.files)} files ({_mebibytes(finished.bytes)}) are finished and stay."
        if self.converted.records:
            needed = self.converted.bytes / self.converted.records * len(self.items)
            text += f" All files together need about {_mebibytes(needed)}."
        if "://" not in self.folder:
            text += f" Free: {_mebibytes(shutil.disk_usage(self.folder).free)}."
        return f"{text} The same command makes the rest."

    def finish(self, has_labels: bool, value_range: ValueRange | None) -> DatasetInfo:
        """Puts `dataset.json` in the place of the sidecars, removes what is old and says what was odd."""
        total = self._finished()
        info = self._describe(total, has_labels, value_range)
        _remove_old_files(self.folder, self.name, info, sidecars=False)
        info.write(self.folder)
        _remove_old_files(self.folder, self.name, info)
        for what, (count, example) in total.remarks.items():
            logging.warning("%d %s. First: %s.", count, what, example)
        return info

    def _describe(self, total: Tally, has_labels: bool, value_range: ValueRange | None) -> DatasetInfo:
        """What `dataset.json` says."""
        ids = sorted({label.id for label in self.space.classes})
        with_void = sorted({*ids, self.space.ignore_label})
        is_panoptic = self.task == dataset_info.PANOPTIC
        shards = [(file, self.tallies[file]) for file in self.files]
        return DatasetInfo(
            label_space=self.space,
            num_images=total.records,
            shards=tuple(tfrecord_files.Shard(file, tally.records, tally.bytes) for file, tally in shards),
            max_height=total.max_height,
            max_width=total.max_width,
            class_pixels={i: total.class_pixels[i] for i in with_void} if is_panoptic and has_labels else None,
            task=self.task,
            has_labels=has_labels,
            class_counts={i: total.class_counts[i] for i in ids} if has_labels else None,
            source_bytes=total.source_bytes,
            fingerprint=self.mark,
            value_range=value_range,
        )


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"
