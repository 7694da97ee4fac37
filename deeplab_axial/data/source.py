# SPDX-License-Identifier: Apache-2.0
"""The record files of a split, found and checked."""

import dataclasses
import os
from collections.abc import Sequence

import tensorflow as tf

from deeplab_axial import files
from deeplab_axial.data import dataset_info, record_folders, record_paths, tfrecord_files
from deeplab_axial.data.label_space import SHIPPED_NAMES, LabelSpace
from deeplab_axial.data.record_folders import Folder
from deeplab_axial.data.tfrecord_files import Shard
from deeplab_axial.errors import InputError

_MOST_TOLD = 5


@dataclasses.dataclass(frozen=True)
class Source:
    """The record files of a split, checked.

    Attributes:
      files: TFRecord files, in the order of the patterns, those of each sorted.
      num_records: records in all of them.
      info: what `dataset.json` beside them says; without one, the classes that `open` was given. Of several folders
        together; see `record_folders.merge`. Its `num_images` are more than `num_records` if the files are a part.
      folders: where the files are; empty if they were not opened by `open`.
    """

    files: tuple[str, ...]
    num_records: int
    info: dataset_info.DatasetInfo
    folders: tuple[Folder, ...] = ()

    @classmethod
    def open(
        cls,
        patterns: Sequence[str],
        label_space: LabelSpace | None = None,
        dataset: str = "",
        allow_damage: bool = False,
        allow_subset: bool = False,
        renames: bool = False,
    ) -> "Source":
        """Finds the files and checks them against `dataset.json`.

        Args:
          patterns: file names or globs, in one folder or several.
          label_space: the classes of records that come without `dataset.json`.
          dataset: what the config calls the data set, for the error where nothing tells the classes.
          allow_damage: takes damaged files and folders that contradict their `dataset.json`, too, and counts no records
            in damaged files; for what looks for the damage.
          allow_subset: takes fewer files than `dataset.json` lists.
          renames: whether `label_space` takes the place of the classes in `dataset.json`, so that folders may call a
            class by other names.

        Raises:
          InputError: nothing matches; a file is truncated or no TFRecord file, or its records are not those that
            `dataset.json` lists; files are missing; nothing tells the classes, or the folders do not agree on them.
        """
        found = [file for pattern in patterns for file in _find(pattern)]
        scans = {file: tfrecord_files.scan(file) for file in dict.fromkeys(found)}
        problems = [scan.problem for scan in scans.values() if scan.problem is not None]
        if problems and not allow_damage:
            raise InputError(_some(problems))
        folders = _folders(scans, label_space, dataset)
        if not allow_damage:
            _check_contents(folders, allow_subset)
        num_records = sum(scans[file].records for file in found if scans[file].problem is None)
        if not num_records and not allow_damage:
            raise InputError(f"The files of {list(patterns)} hold no records. Run `deeplab-axial convert` again.")
        record_folders.check_agreement(folders, renames)
        return cls(tuple(found), num_records, record_folders.merge(folders), tuple(folders))


def _find(pattern: str) -> list[str]:
    """The files of a pattern, sorted."""
    found = record_paths.matching(pattern)
    if not found:
        raise InputError(
            f"file_pattern {pattern!r} matches no file (working directory {os.getcwd()}). Correct the pattern, "
            "or make the files with `deeplab-axial convert`."
        )
    if len(found) == 1 and tf.io.gfile.isdir(found[0]):
        raise InputError(
            f"file_pattern must name TFRecord files. Received: {pattern!r}, a folder. Name the files in it: "
            f"{os.path.join(pattern, '*.tfrecord')!r}."
        )
    if any(os.path.basename(file) == dataset_info.DATASET_FILE for file in found):
        raise InputError(
            f"file_pattern must name TFRecord files alone. Received: {pattern!r}, which matches "
            f"{dataset_info.DATASET_FILE}, too. Name {os.path.join(os.path.dirname(pattern), '*.tfrecord')!r}."
        )
    return found


def _folders(
    scans: dict[str, tfrecord_files.Scan], label_space: LabelSpace | None, dataset: str
) -> list[record_folders.Folder]:
    """The files by folder, each with what its `dataset.json` says; without one, what the files tell.

    A folder that patterns spell in several ways is one, and is called what the first of them does.
    """
    by_folder: dict[str, dict[str, Shard | None]] = {}
    spellings: dict[str, str] = {}
    for file, scan in scans.items():
        folder, name = os.path.split(file)
        shard = None if scan.problem is not None else Shard(name, scan.records, scan.bytes)
        first = spellings.setdefault(files.real_path(folder), folder)
        by_folder.setdefault(first, {})[name] = shard
    folders = []
    for folder, shards in by_folder.items():
        has_info = tf.io.gfile.exists(os.path.join(folder, dataset_info.DATASET_FILE))
        if has_info:
            info = dataset_info.DatasetInfo.read(folder)
        else:
            _check_told(label_space, dataset, folder)
            info = record_folders.bare_info(label_space, [shard for shard in shards.values() if shard is not None])
        folders.append(Folder(folder, shards, info, has_info))
    return folders


def _check_told(label_space: LabelSpace | None, dataset: str, folder: str) -> None:
    if label_space is None:
        raise InputError(
            f"{os.path.join(folder, dataset_info.DATASET_FILE)} cannot be read (there is no such file), so nothing "
            "tells the classes. Run `deeplab-axial convert` to make the data set; for records that DeepLab2 has made, "
            "set the field dataset to a known name, or add a label_space section to the config. Received: "
            f"{dataset!r}. Known names: {', '.join(SHIPPED_NAMES)}."
        )


def _check_contents(folders: Sequence[Folder], allow_subset: bool) -> None:
    problems = []
    for folder in folders:
        existing = tf.io.gfile.listdir(folder.path or ".")
        found = record_folders.contradictions(folder, existing, allow_subset)
        problems += [f"{folder.json} contradicts the records: {problem}" for problem in found]
    if problems:
        raise InputError(_some(problems))


def _some(problems: Sequence[str]) -> str:
    """The first problems, a line each."""
    lines = list(problems[:_MOST_TOLD])
    if len(problems) > len(lines):
        lines.append(f"... and {len(problems) - len(lines)} more.")
    return "\n".join(lines)
